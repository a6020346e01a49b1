"""The ceiling: an ASGI app that reads the body and answers 204."""

from typing import Final, cast

from litestar.types import Message, Receive, Scope, Send

from bench.references.server import serve

_START: Final = cast("Message", {"type": "http.response.start", "status": 204, "headers": []})
_BODY: Final = cast("Message", {"type": "http.response.body", "body": b"", "more_body": False})


async def app(_: Scope, receive: Receive, send: Send) -> None:
    """Answer one request."""
    while True:
        message = await receive()
        if message["type"] != "http.request" or not message["more_body"]:
            break
    await send(_START)
    await send(_BODY)


if __name__ == "__main__":
    serve(app)
