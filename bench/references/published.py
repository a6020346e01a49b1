"""The published service's way: FastAPI, a Pydantic body, a JWT decoded and one ``SET ... EX 300`` for each beat.

Configured by ``REFERENCE_REDIS`` (URL), ``REFERENCE_SECRET``, ``REFERENCE_AUDIENCE`` and ``REFERENCE_ISSUER``.
"""

import json
import os
from typing import Annotated, Any, cast

import jwt
import redis.asyncio
from fastapi import Depends, FastAPI, Header, HTTPException, Response
from litestar.types import ASGIApp
from pydantic import BaseModel

from bench.references.server import serve

EXPIRES_S = 300

_redis = redis.asyncio.Redis.from_url(os.environ["REFERENCE_REDIS"])
_secret = os.environ["REFERENCE_SECRET"]
_audience = os.environ["REFERENCE_AUDIENCE"]
_issuer = os.environ["REFERENCE_ISSUER"]

app = FastAPI()


class Heartbeat(BaseModel):
    """The body of the published contract."""

    worker_id: str
    environment_name: str | None = None
    status: str = "active"
    tasks_processed: int = 0
    current_task_id: str | None = None
    worker_metadata: dict[str, Any] | None = None
    system_info: dict[str, Any] | None = None
    logs: str | None = None


def tenant(authorization: Annotated[str, Header()]) -> str:
    """The tenant of a good token."""
    try:
        claims = jwt.decode(
            authorization.removeprefix("Bearer "), _secret, algorithms=["HS256"], audience=_audience, issuer=_issuer
        )
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "token refused") from error
    return str(claims["org_id"])


@app.post("/api/v1/workers/heartbeat", status_code=204)
async def heartbeat(beat: Heartbeat, org: Annotated[str, Depends(tenant)]) -> Response:
    """Store one beat."""
    await _redis.set(f"worker:{org}:{beat.worker_id}", json.dumps(beat.model_dump()), ex=EXPIRES_S)
    return Response(status_code=204)


if __name__ == "__main__":
    serve(cast("ASGIApp", app))
