"""Webhooks, with a URL that is a secret itself."""

from typing import Any

from tests.support.alerts_fakes import SECRET
from tests.support.receiver_cases import Case
from tests.support.receiver_cases.http_peer import serve


def _table(address: str, scheme: str = "http") -> dict[str, Any]:
    url = f"{scheme}://{address}/path-of-token?key=query-of-token"
    return {"url": url, "secret_env": "HOOK", "allow_private": True}


CASE = Case(
    environ={"HOOK": SECRET},
    hidden=("path-of-token", "query-of-token"),
    serve=serve,
    table=_table,
    tls_table=lambda address: _table(address, "https"),
)
