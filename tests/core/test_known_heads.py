"""What is kept of the heads of heartbeats."""

from monitor.http.known_heads import KnownHeads

BEGIN = b"POST /beat HTTP/1.1\r\n"
END = b"\r\n\r\n"
SENDER = (b"digest", None)


def head(number: int) -> bytes:
    return BEGIN + b"X: %d\r\nContent-Length: 2\r\n\r\n" % number


def test_a_head_is_known_with_every_body_of_the_same_length_and_with_no_other() -> None:
    heads = KnownHeads(BEGIN)
    assert heads.find(head(1) + b"{}") is None
    heads.keep(head(1) + b"{}", b"{}", SENDER)
    assert heads.find(head(1) + b"[]") == (SENDER, b"[]")
    assert heads.find(head(1) + b"[1]") is None
    assert heads.find(head(1)) is None
    assert heads.find(head(2) + b"{}") is None
    assert heads.find(head(1) + b"{}" + head(1) + b"{}") is None
    assert heads.find(b"") is None


def test_nothing_is_kept_of_what_is_not_a_head_and_its_body_alone() -> None:
    heads = KnownHeads(BEGIN)
    for data, body in (
        (head(1) + b"{}\r\n", b"{}"),
        (b"\r\n\r\n" + head(1) + b"{}", b"{}"),
        (head(1) + b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (head(1), b""),
        (head(1)[:-2] + b"{}", b"{}"),
    ):
        heads.keep(data, body, SENDER)
        assert heads.find(data) is None, data
        assert heads.find(data.partition(END)[0] + END + body) is None, data


def test_p29_no_more_heads_are_kept_than_there_is_room_for_and_others_come_in_when_it_is_time() -> None:
    heads = KnownHeads(BEGIN, most=2)
    for number in range(3):
        heads.keep(head(number) + b"{}", b"{}", SENDER)
    assert [heads.find(head(number) + b"{}") is not None for number in range(3)] == [True, True, False]
    renewed = KnownHeads(BEGIN, most=2, renew_s=0.0)
    for number in range(3):
        renewed.keep(head(number) + b"{}", b"{}", SENDER)
    assert [renewed.find(head(number) + b"{}") is not None for number in range(3)] == [False, False, True]
