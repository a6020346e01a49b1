"""``POST /api/v1/revocations``: revoke tokens."""

from typing import Annotated, Final, TypeAlias

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from monitor.api.endpoints import Caller, needs
from monitor.api.errors import BodyError, TooManyError
from monitor.api.json_body import checked_text
from monitor.api.services import Services
from monitor.auth import MAX_NAME_CHARS, ForbiddenError, Scope
from monitor.store.revocations import RevocationList

MOST_OF_A_TENANT: Final = 1_000

_Claim: TypeAlias = Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": MAX_NAME_CHARS})] | None


class RevocationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens to be revoked: exactly one of the two is required."""

    jti: _Claim = None
    sub: _Claim = None


def revocation_handlers(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @post(
        "/api/v1/revocations",
        opt=needs(Scope.ADMIN, problems=(429,)),
        summary="Revoke one token, or all tokens of a subject that were issued until now; in force within 5 s",
        response_description="Done",
        status_code=204,
    )
    async def revoke_tokens(request: Caller, data: JSONBody[RevocationRequest]) -> None:
        if request.user.is_restricted:
            raise ForbiddenError("a restricted token cannot revoke tokens")
        match data:
            case RevocationRequest(jti=str(value), sub=None):
                claim = "jti"
            case RevocationRequest(jti=None, sub=str(value)):
                claim = "sub"
            case _:
                raise BodyError("jti, sub", (data.jti, data.sub), "one of them is expected")
        checked_text(claim, value, most=MAX_NAME_CHARS)
        tenant = request.user.tenant
        run = await RevocationList(services.store).add(tenant, claim, value, most=MOST_OF_A_TENANT)
        if not run:
            raise TooManyError(f"a tenant may have {MOST_OF_A_TENANT:,} revocations: remove the key, or use not_before")
        await services.store.confirm(0, run=run)

    return [revoke_tokens]
