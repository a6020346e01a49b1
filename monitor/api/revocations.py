"""``POST /api/v1/revocations``: revoke tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from litestar import post

from monitor.api.errors import BodyError, TooManyError
from monitor.api.json_body import checked_text, read_json
from monitor.api.requests import headers_of, principal_of
from monitor.api.responses import empty_answer
from monitor.auth import MAX_NAME_CHARS, ForbiddenError, Scope
from monitor.store.revocations import RevocationList

if TYPE_CHECKING:
    from litestar import Request
    from litestar.handlers import HTTPRouteHandler
    from litestar.response.base import ASGIResponse

    from monitor.api.services import Services

MOST_OF_A_TENANT: Final = 1_000


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    jti: str | None = None
    sub: str | None = None


def routes(services: Services) -> list[HTTPRouteHandler]:
    """The handlers of this module."""

    @post("/api/v1/revocations")
    async def revoke(request: Request[Any, Any, Any]) -> ASGIResponse:
        headers = headers_of(request.scope)
        principal = principal_of(headers, services, Scope.ADMIN)
        if principal.worker_id is not None or principal.environments is not None:
            raise ForbiddenError("a restricted token cannot revoke tokens")
        said = await read_json(request, headers, _Said, services=services, tenant=principal.tenant)
        match said:
            case _Said(jti=str(value), sub=None):
                claim = "jti"
            case _Said(jti=None, sub=str(value)):
                claim = "sub"
            case _:
                raise BodyError("jti, sub", (said.jti, said.sub), "one of them is expected")
        checked_text(claim, value, most=MAX_NAME_CHARS)
        if not await RevocationList(services.store).add(principal.tenant, claim, value, most=MOST_OF_A_TENANT):
            raise TooManyError(f"a tenant may have {MOST_OF_A_TENANT:,} revocations: remove the key, or use not_before")
        await services.store.confirm(0)
        return empty_answer()

    return [revoke]
