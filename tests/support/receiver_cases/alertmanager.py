"""Alertmanager behind a proxy that wants a token, on a path that is a secret itself."""

from typing import Any

from tests.support.receiver_cases import Case
from tests.support.receiver_cases.http_peer import serve


def _table(address: str, scheme: str = "http") -> dict[str, Any]:
    return {"url": f"{scheme}://{address}/path-of-token", "bearer_token_env": "BEARER", "allow_private": True}


CASE = Case(
    environ={"BEARER": "hunter2.hunter2"},
    hidden=("path-of-token",),
    serve=serve,
    table=_table,
    tls_table=lambda address: _table(address, "https"),
)
