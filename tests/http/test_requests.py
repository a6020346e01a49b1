"""What may come over a connection besides plain requests: Upgrade, requests that two servers would read differently,
and the end of the client's side. No byte of a body is ever read as a request.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.http.test_server import PATIENCE_S
from tests.intake.test_faults import LONG_S, Site, site
from tests.support import api
from tests.support.fleets import BEAT, Connection

pytestmark = pytest.mark.parametrize("store_url", ["valkey"], indirect=True)

VICTIM: Final = "victim"


@pytest.fixture
async def lastseen(store_url: str) -> AsyncIterator[Site]:
    async with site(store_url, timeout_s=LONG_S) as running:
        yield running


def jvm(lastseen: Site, method: str, path: str, body: bytes, *, chunked: bool = False) -> bytes:
    """A request as Java 17's ``HttpClient.newHttpClient()`` sends it to an http:// URL."""
    framing = b"" if chunked else b"Content-Length: %d\r\n" % len(body)
    coding = b"Transfer-encoding: chunked\r\n" if chunked else b""
    head = (
        b"%b %b HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\n%bHost: 127.0.0.1:%d\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n%bUpgrade: h2c\r\n"
        b"User-Agent: Java-http-client/17.0.15\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n\r\n"
    ) % (method.encode(), path.encode(), framing, lastseen.port, coding, lastseen.token.encode())
    return head + (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)


# Upgrade ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [BEAT, f"{BEAT}?usual=way", f"{api.WORKERS}/heartbeats"])
async def test_a_jvm_client_that_asks_for_http2_beats_however_its_request_is_cut(
    lastseen: Site, path: str, *, chunked: bool
) -> None:
    connection = await lastseen.connect()
    batch = path.endswith("heartbeats")
    sent = set()
    for cut in range(0, 700, 1 if chunked or not batch else 7):
        body = b'{"worker_id":"w-%d","environment_name":"prod"}' % cut
        raw = jvm(lastseen, "POST", path, b"[%b]" % body if batch else body, chunked=chunked)
        if cut >= len(raw):
            break
        connection.writer.write(raw[:cut])
        await lastseen.turned()
        connection.writer.write(raw[cut:])
        reply = await asyncio.wait_for(connection.reply(), PATIENCE_S)
        assert (reply.status, "connection" in reply.headers) == (200 if batch else 204, False), (cut, reply)
        sent.add(f"w-{cut}")
    assert set(await lastseen.stored()) == sent


async def test_all_that_a_jvm_worker_sends_is_taken_and_its_crash_is_recorded(lastseen: Site) -> None:
    connection = await lastseen.connect()
    beat = jvm(lastseen, "POST", BEAT, b'{"worker_id":"jvm","environment_name":"prod"}')
    crash = jvm(lastseen, "POST", f"{api.WORKERS}/jvm/disconnect", b'{"reason":"crash","error_message":"oom"}')
    connection.writer.write((beat + crash + jvm(lastseen, "GET", f"{api.WORKERS}/jvm", b"")) * 40)
    for _ in range(40):
        assert [(await connection.reply()).status for _ in range(2)] == [204, 204]
        assert b'"liveness":"failed"' in (await connection.reply()).body


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_p24_the_body_of_a_request_that_asks_for_an_upgrade_is_never_read_as_a_request(
    lastseen: Site, framing: str, upgrade: str
) -> None:
    assert (await (await lastseen.connect()).beat(VICTIM)).status == 204
    for path, status in ((BEAT, 422), (f"{BEAT}?usual=way", 422), ("/livez", 405), ("/nowhere", 404)):
        await hidden_request(lastseen, path, status, framing, upgrade)


async def hidden_request(lastseen: Site, path: str, status: int, framing: str, upgrade: str) -> None:
    connection = await lastseen.connect()
    hidden = connection.request("DELETE", f"{api.WORKERS}/{VICTIM}")
    body = hidden if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {lastseen.token}\r\nConnection: Upgrade\r\n"
        f"Upgrade: {upgrade}\r\n"
        + (f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked")
    ).encode() + b"\r\n\r\n"
    for pause in (False, True):
        connection.writer.write(head if pause else head + body)
        if pause:
            await lastseen.turned()
            connection.writer.write(body)
        reply = await connection.reply()
        assert reply.status == status
        if reply.headers.get("connection") == "close":  # what is not read is not sent on to anything
            assert await connection.rest() == b""
            connection = await lastseen.connect()
    assert (await connection.ask("GET", f"{api.WORKERS}/{VICTIM}")).status == 200, "the next answer is to this request"
    assert list(await lastseen.stored()) == [VICTIM]


async def test_p24_nothing_behind_a_connect_is_read(lastseen: Site) -> None:
    connection = await lastseen.connect()
    assert (await connection.beat(VICTIM)).status == 204
    connection.writer.write(
        b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + connection.request("DELETE", f"{api.WORKERS}/{VICTIM}")
    )
    reply = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (501, "close")
    assert await connection.rest() == b""
    assert list(await lastseen.stored()) == [VICTIM]


async def test_curl_that_asks_for_http2_beats(lastseen: Site) -> None:
    curl = shutil.which("curl")
    if curl is None:  # not a skip, which would fail CI: what it sends is sent above
        return
    body = '{"worker_id":"curl","environment_name":"prod"}'
    process = await asyncio.create_subprocess_exec(
        *(curl, "-s", "--http2", "-m", "20", "-w", "%{http_code}", "-d", body, "-H", "content-type: application/json"),
        *("-H", f"authorization: Bearer {lastseen.token}", f"http://127.0.0.1:{lastseen.port}{BEAT}"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert said == b"204"
    assert list(await lastseen.stored()) == ["curl"]


# Bad requests -------------------------------------------------------------------------------------------------------

HOST: Final = b"Host: x\r\n"
CHUNKED: Final = HOST + b"Transfer-Encoding: chunked\r\n\r\n"
BAD: Final[dict[str, tuple[int, bytes]]] = {
    "no Host": (400, b"POST / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"POST / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
    "two Hosts, HTTP/1.0": (400, b"POST / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
    "no host in Host": (400, b"POST / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "a path in Host": (400, b"POST / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "length and chunked": (400, b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two equal lengths": (400, b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "two lengths": (400, b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
    "a list of lengths": (400, b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, b"Content-Length: +5\r\n\r\nabcde"),
    "a negative length": (400, b"Content-Length: -5\r\n\r\nabcde"),
    "a hexadecimal length": (400, b"Content-Length: 0x5\r\n\r\nabcde"),
    "an empty length": (400, b"Content-Length:\r\n\r\n"),
    "a length of 65 bits": (400, b"Content-Length: 18446744073709551617\r\n\r\na"),
    "a folded line": (400, b"X: a\r\n b\r\n\r\n"),
    "a folded Host": (400, b"POST / HTTP/1.1\r\nHost:\r\n x\r\n\r\n"),
    "a bare LF": (400, b"X: a\nY: b\r\n\r\n"),
    "a bare CR": (400, b"X: a\rY: b\r\n\r\n"),
    "LF ends the head": (400, b"X: a\r\n\n"),
    "LF only": (400, b"POST / HTTP/1.1\nHost: x\n\n"),
    "a space before the colon": (400, b"Content-Length : 3\r\n\r\nabc"),
    "a tab before the colon": (400, b"Content-Length\t: 3\r\n\r\nabc"),
    "a space before the name": (400, b" X: a\r\n\r\n"),
    "no name": (400, b": a\r\n\r\n"),
    "no colon": (400, b"abc\r\n\r\n"),
    "NUL in a value": (400, b"X: a\0b\r\n\r\n"),
    "a control character in a value": (400, b"X: a\x01b\r\n\r\n"),
    "a name that is not ASCII": (400, b"\xe4: a\r\n\r\n"),
    "gzip, chunked": (501, b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked, gzip": (400, b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "identity": (501, b"Transfer-Encoding: identity\r\n\r\n"),
    "xchunked": (501, b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a chunk of 65 bits": (400, b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\na"),
    "a negative chunk": (400, b"Transfer-Encoding: chunked\r\n\r\n-1\r\na"),
    "a signed chunk": (400, b"Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n"),
    "a chunk in another notation": (400, b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n"),
    "a space behind a chunk's size": (400, b"Transfer-Encoding: chunked\r\n\r\n5 \r\nabcde\r\n0\r\n\r\n"),
    "LF behind a chunk's size": (400, b"Transfer-Encoding: chunked\r\n\r\n5\nabcde\r\n0\r\n\r\n"),
    "LF in a chunk's extension": (400, b"Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\nabcde\r\n0\r\n\r\n"),
    "a chunk that is longer than its size": (400, b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcdef\r\n0\r\n\r\n"),
    "a length in a trailer": (400, b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0": (505, b"POST / HTTP/2.0\r\nHost: x\r\n\r\n"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "no such method": (400, b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a space in the target": (400, b"POST /a b HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a target that is not ASCII": (400, b"POST /api/v1/workers/\xff/heartbeat HTTP/1.1\r\nHost: x\r\n\r\n"),
}


async def answered(connection: Connection) -> object:
    """What is answered, and what comes behind it until the connection ends."""
    try:
        reply = await asyncio.wait_for(connection.reply(), PATIENCE_S)
        headers = [reply.headers.get(name) for name in ("connection", "content-type", "x-content-type-options")]
        return reply.status, headers, await connection.rest()
    except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
        return repr(error)


async def test_p24_what_two_servers_would_read_differently_is_refused_and_nothing_behind_it_is_read(
    lastseen: Site,
) -> None:
    first = await lastseen.connect()
    assert (await first.beat(VICTIM)).status == 204
    behind = first.request("DELETE", f"{api.WORKERS}/{VICTIM}")
    wrong = []
    for case, (status, raw) in BAD.items():
        whole = b"HTTP/" in raw or raw.startswith(b"GET ")
        begin = b"POST %b HTTP/1.1\r\nAuthorization: Bearer " + lastseen.token.encode() + b"\r\n" + HOST
        for bad in [raw] if whole else [begin % BEAT.encode() + raw, begin % b"/livez" + raw]:
            for pieces in ([bad + behind], [bad[:-1], bad[-1:] + behind]):
                connection = await lastseen.connect()
                for piece in pieces:
                    connection.writer.write(piece)
                    await lastseen.turned()
                said = await answered(connection)
                if said != (status, ["close", "application/problem+json", "nosniff"], b""):
                    wrong.append((case, bad[:30], said))
                connection.close()
    assert not wrong
    assert list(await lastseen.stored()) == [VICTIM]


async def test_a_bad_request_is_answered_after_the_good_ones_before_it(lastseen: Site) -> None:
    for ahead in (["GET /livez"], [f"GET {api.WORKERS}"] * 3, [f"POST {BEAT}", "GET /livez"]):
        connection = await lastseen.connect()
        beat = {"worker_id": "w", "environment_name": "prod"}
        good = b"".join(connection.request(method, path, beat) for method, path in map(str.split, ahead))
        connection.writer.write(good + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + connection.request("GET", "/livez"))
        statuses = [(await connection.reply()).status for _ in range(len(ahead) + 1)]
        assert statuses == [204 if "POST" in one else 200 for one in ahead] + [400]
        assert await connection.rest() == b""


@pytest.mark.parametrize("pieces", [[b"\r\n", b""], [b"\r", b"\n"], [b"\r\n\r\n", b"\r\n"]])
async def test_empty_lines_before_a_request_are_ignored_however_cut(lastseen: Site, pieces: list[bytes]) -> None:
    connection = await lastseen.connect()
    for _ in range(2):
        for piece in pieces:
            connection.writer.write(piece)
            await connection.writer.drain()
            assert (await (await lastseen.connect()).ask("GET", "/livez")).status == 200  # it was read
        assert (await connection.ask("GET", "/livez")).status == 200


async def test_http_1_0_needs_no_host_and_nosniff_is_on_every_answer(lastseen: Site) -> None:
    connection = await lastseen.connect()
    connection.writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    reply = await connection.reply()
    assert (reply.status, reply.headers["x-content-type-options"]) == (200, "nosniff")
    connection = await lastseen.connect()
    for _ in range(2):  # the second takes the fast path
        assert (await connection.beat("w")).headers["x-content-type-options"] == "nosniff"
    assert (await connection.ask("GET", "/nowhere")).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["//livez", "/livez/", "/metrics/", "//", "/api//v1/workers", "/api/v1/workers/"])
async def test_a_path_is_taken_as_it_is_spelled(lastseen: Site, path: str) -> None:
    connection = await lastseen.connect()
    assert (await connection.ask("GET", path)).status == 404


async def test_trailers_are_not_headers(lastseen: Site) -> None:
    for path in (BEAT, f"{BEAT}?usual=way"):
        connection = await lastseen.connect()
        connection.writer.write(
            b"POST %b HTTP/1.1\r\n%b2\r\n{}\r\n0\r\nAuthorization: Bearer %b\r\n\r\n"
            % (path.encode(), CHUNKED, lastseen.token.encode())
        )
        assert (await connection.reply()).status == 401


# The end of a client's side -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [BEAT, f"{BEAT}?usual=way"])
async def test_a_client_that_has_ended_its_side_is_answered(lastseen: Site, path: str) -> None:
    connection = await lastseen.connect()
    assert (await connection.beat("known")).status == 204
    for number in range(50):
        connection.send("POST", path, {"worker_id": f"w-{number}", "environment_name": "prod"})
        connection.send("GET", f"{api.WORKERS}/w-{number}")
    connection.writer.write_eof()
    assert [(await connection.reply()).status for _ in range(100)] == [204, 200] * 50
    assert await connection.rest() == b""


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HT", b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nab"]
)
async def test_a_client_that_has_ended_its_side_in_the_middle_is_not_waited_for(lastseen: Site, begun: bytes) -> None:
    connection: Connection = await lastseen.connect()
    connection.writer.write(begun)
    connection.writer.write_eof()
    assert (await connection.rest())[:13] in {b"", b"HTTP/1.1 404 "}
