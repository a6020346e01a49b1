"""HTTP client of a running daemon, for the command line."""

import http.client
import json
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit

from monitor.settings.urls import is_loopback

_TIMEOUT_S: Final = 60.0
PAGE: Final = 1_000
_ANSWER_BYTES: Final = 67_108_864
_UNAUTHORIZED: Final = 401
_UNPROCESSABLE: Final = 422


class ClientError(Exception):
    """The request failed; the message has the daemon's answer, or says that there was none."""


class MisuseError(ClientError):
    """The daemon rejected a value, a name or an option of the request (422)."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token must not reach another server."""

    def redirect_request(self, *_: object) -> None:
        """Return None: do not follow."""
        return


class Client:
    """Sends requests to one daemon.

    ``url_from`` and ``token_from`` say where these are from, for the message when the daemon does not answer, or
    refuses the token.

    Raises:
        ValueError: the URL is not an http or https address of a daemon.
    """

    def __init__(self, url: str, token: str, *, url_from: str, token_from: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be the http:// or https:// address of a daemon")
        self._url = url.rstrip("/")
        self._token = token
        self._url_from, self._token_from = url_from, token_from
        # A server on this machine is not behind the machine's proxy.
        direct = [urllib.request.ProxyHandler({})] if is_loopback(parts.hostname) else []
        self.has_more = False
        self._opener = urllib.request.build_opener(_NoRedirects, *direct)

    def get(self, *path: str, **query: str | list[str] | None) -> Any:
        """GET the path of these segments and return the answer."""
        return self._ask("GET", path, query, None)

    def post(self, *path: str, body: Mapping[str, object] | None = None, **query: str | None) -> Any:
        """POST and return the answer."""
        return self._ask("POST", path, query, {} if body is None else body)

    def delete(self, *path: str) -> None:
        """Send a DELETE."""
        self._ask("DELETE", path, {}, None)

    def pages(self, name: str, *, most: int, **query: str | list[str] | None) -> Iterator[dict[str, Any]]:
        """Yield at most ``most`` items of a list, page by page. ``has_more`` says at the end whether there are more."""
        self.has_more = False
        cursor: str | None = None
        while most > 0:
            page = self.get(name, **query, cursor=cursor, limit=str(min(PAGE, most)))
            yield from page[name]
            most -= len(page[name])
            cursor = page["next_cursor"]
            if cursor is None:
                return
        self.has_more = True

    def _ask(
        self, method: str, path: tuple[str, ...], query: Mapping[str, object], body: Mapping[str, object] | None
    ) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        where = "/".join(("/api/v1", *(quote(segment, safe="") for segment in path)))
        target = f"{self._url}{where}" + (f"?{urlencode(given, doseq=True)}" if given else "")
        request = urllib.request.Request(  # noqa: S310 - the constructor has checked the scheme
            target,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {self._token}", "accept": "application/json"},
        )
        if body is not None:
            request.add_header("content-type", "application/json")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                raw = answer.read(_ANSWER_BYTES)
                return json.loads(raw) if raw else None
        except HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (URLError, OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise ClientError(f"{self._url} ({self._url_from}) does not answer as a daemon: {reason}") from error

    def _refused(self, error: HTTPError) -> ClientError:
        try:
            detail = json.loads(error.read(_ANSWER_BYTES))["detail"]
        except (ValueError, KeyError, TypeError, OSError):
            detail = error.reason
        kind = MisuseError if error.code == _UNPROCESSABLE else ClientError
        whose = f"; the token is {self._token_from}" if error.code == _UNAUTHORIZED else ""
        return kind(f"{detail} (HTTP {error.code}){whose}")
