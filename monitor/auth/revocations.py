"""Tokens that are refused before their expiry: by their ``jti``, or by their ``sub``. Pure."""

import json
import math
from collections.abc import Iterable
from typing import Literal

import msgspec

Claim = Literal["jti", "sub"]


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """Tokens of ``tenant`` (None: any) whose ``claim`` has this value; by ``sub``: those issued until ``until_ms``."""

    tenant: str | None
    claim: Claim
    value: str
    until_ms: float = math.inf


class Revocations:
    """All revocations."""

    def __init__(self, revoked: Iterable[Revocation] = ()) -> None:
        self._until_ms: dict[tuple[str | None, Claim, str], float] = {}
        for one in revoked:
            until_ms = math.inf if one.claim == "jti" else one.until_ms
            key = one.tenant, one.claim, one.value
            self._until_ms[key] = max(until_ms, self._until_ms.get(key, 0))

    def __bool__(self) -> bool:
        return bool(self._until_ms)

    def cover(self, tenant: str, *, token_id: object, subject: str, issued_ms: float | None) -> bool:
        """Whether a token is revoked. A token without a time of issue counts as older than any revocation."""
        issued_ms = 0 if issued_ms is None else issued_ms
        named: list[tuple[Claim, str]] = [("sub", subject)]
        if isinstance(token_id, str):
            named.append(("jti", token_id))
        return any(
            issued_ms <= self._until_ms.get((whose, claim, value), -1)
            for whose in (tenant, None)
            for claim, value in named
        )


def read_revocations(text: str) -> list[Revocation]:
    """Read lines such as ``{"jti": "85995131597e1601"}`` or ``{"sub": "w1", "tenant": "acme"}``; ``#``: a comment.

    Raises:
        ValueError: a line is invalid; the message says which.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        tenant, claims = None, []
        if isinstance(said, dict) and all(isinstance(value, str) and value for value in said.values()):
            tenant = said.pop("tenant", None)
            claims = [(claim, said[claim]) for claim in said]
        match claims:
            case [("jti" | "sub" as claim, value)]:
                found.append(Revocation(tenant, claim, value))
            case _:
                raise ValueError(
                    f'line {number} is not {{"jti": "..."}} or {{"sub": "..."}}, with or without a "tenant"'
                )
    return found
