"""Creates tokens, for holders of the secret."""

from collections.abc import Iterable

import jwt

from monitor.auth.keys import VerifyingKey
from monitor.auth.principals import MAX_NAME_CHARS, MAX_TOKEN_BYTES, Scope, is_text


def mint(
    *,
    key: VerifyingKey,
    tenant: str,
    tenant_claim: str,
    subject: str,
    scopes: Iterable[Scope],
    now_ms: int,
    expires_in_ms: int,
    audience: str | None,
    issuer: str | None,
    worker_id: str | None = None,
    environments: tuple[str, ...] | None = None,
    token_id: str,
) -> str:
    """Create a token that an ``Authenticator`` with this key, tenant claim, audience and issuer accepts.

    Raises:
            ValueError: the key is not an HS256 secret (a public key cannot sign), or a value would not be accepted.
    """
    if key.algorithm != "HS256":
        raise ValueError(f"key {key.kid!r}: only an HS256 key can sign, this one is {key.algorithm}")
    if expires_in_ms <= 0:
        raise ValueError(f"a token must expire after it was made, got {expires_in_ms} ms")
    names = [tenant, *([] if worker_id is None else [worker_id]), *(environments or ())]
    if not is_text(subject, most=MAX_TOKEN_BYTES) or environments == () or not all(map(is_text, names)):
        raise ValueError(
            "subject, tenant, worker id and environments are not empty, hold no control characters "
            f"and but for the subject at most {MAX_NAME_CHARS} characters"
        )
    claims: dict[str, object] = {
        "sub": subject,
        "scope": " ".join(sorted({Scope(scope).value for scope in scopes})),
        "iat": _seconds(now_ms),
        "exp": _seconds(now_ms + expires_in_ms),
        "jti": token_id,
    }
    optional = {
        "aud": audience,
        "iss": issuer,
        "worker_id": worker_id,
        "environments": None if environments is None else list(environments),
    }
    if not tenant_claim or tenant_claim in claims or tenant_claim in optional:
        raise ValueError(f"the tenant claim cannot be {tenant_claim!r}")
    claims[tenant_claim] = tenant
    claims |= {name: value for name, value in optional.items() if value is not None}
    token = jwt.encode(claims, key.key, algorithm="HS256", headers={"kid": key.kid})
    if len(token) > MAX_TOKEN_BYTES:
        raise ValueError(f"the token would have {len(token)} bytes, {MAX_TOKEN_BYTES} are accepted")
    return token


def _seconds(ms: int) -> int | float:
    return ms // 1_000 if ms % 1_000 == 0 else ms / 1_000
