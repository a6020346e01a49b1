"""The URL of a store behind Sentinel."""

import pytest

from monitor.settings.store_urls import SENTINEL_PORT, SentinelUrl, is_sentinel_url, sentinel_url
from monitor.settings.urls import masked_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "redis+sentinel://a:1,b:2,c/mymaster",
            SentinelUrl(sentinels=(("a", 1), ("b", 2), ("c", SENTINEL_PORT)), service="mymaster"),
        ),
        (
            "redis+sentinel://lastseen:p%40ss%2Fword@a:1/my%2Dmaster/3",
            SentinelUrl(sentinels=(("a", 1),), service="my-master", db=3, username="lastseen", password="p@ss/word"),
        ),
        ("redis+sentinel://:pw@a/m", SentinelUrl(sentinels=(("a", SENTINEL_PORT),), service="m", password="pw")),
        ("redis+sentinel://me@a/m/", SentinelUrl(sentinels=(("a", SENTINEL_PORT),), service="m", username="me")),
        (
            "redis+sentinel://[::1]:5,[2001:db8::7]/m",
            SentinelUrl(sentinels=(("::1", 5), ("2001:db8::7", SENTINEL_PORT)), service="m"),
        ),
        (
            "redis+sentinel://a/m?sentinel_username=w&sentinel_password=p%26w&tls=all&ssl_ca_certs=/ca&ssl_check_hostname=no",
            SentinelUrl(
                sentinels=(("a", SENTINEL_PORT),),
                service="m",
                sentinel_username="w",
                sentinel_password="p&w",
                tls="all",
                files=(("ssl_ca_certs", "/ca"),),
                check_hostname=False,
            ),
        ),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: SentinelUrl) -> None:
    assert is_sentinel_url(url)
    assert sentinel_url(url) == expected


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("", "needs Sentinels and the name of a service"),
        ("/", "needs Sentinels and the name of a service"),
        ("a:1,b:2", "needs Sentinels and the name of a service"),
        ("a:1,b:2/", "needs Sentinels and the name of a service"),
        ("/mymaster", "needs Sentinels and the name of a service"),
        ("a:1,,b:2/m", "is not host:port: ''"),
        ("a:1,:2/m", "is not host:port: ':2'"),
        ("[::1/m", "is not host:port: '[::1'"),
        ("[::1]5/m", "is not host:port: '[::1]5'"),
        ("a:0/m", "port is not from 1 to 65535: 'a:0'"),
        ("a:65536/m", "port is not from 1 to 65535: 'a:65536'"),
        ("::1/m", "is not host:port: ':***'"),
        ("a/m/x", "a database that is not a number: 'x'"),
        ("a/m/1/2", "a database that is not a number: '1/2'"),
        ("a/m?foo=1", "an option that is not known; there are sentinel_username, "),
        ("a/m?tls", "a query that is not option=value"),
        ("a/m?tls=yes", "an option tls that is none of store, all and none"),
        ("a/m?tls=all&tls=store", "an option twice"),
        ("a/m?ssl_ca_certs=/ca.pem", "ssl_ options without tls"),
        ("a/m?tls=all&ssl_check_hostname=maybe", "neither yes nor no"),
        (":p/w@a/m", "percent-encoded"),
        (":p,w@a/m", "percent-encoded"),
        ("a/m?sentinel_password=p@w", "percent-encoded"),
    ],
)
def test_what_leads_nowhere_is_refused_by_name_and_value(rest: str, expected: str) -> None:
    with pytest.raises(ValueError, match=r"^(needs|has|must)") as refusal:
        sentinel_url(f"redis+sentinel://{rest}")
    assert expected in str(refusal.value)


def test_neither_repr_nor_the_masked_form_shows_a_password() -> None:
    url = "redis+sentinel://u:hunter2@a:1,b:2/m/0?sentinel_password=hunter3"
    shown = repr(sentinel_url(url))
    assert "hunter" not in shown
    assert "service='m'" in shown
    assert masked_url(url) == "redis+sentinel://***@a:1,b:2/m/0?***"
    assert masked_url("redis://h?password=p@ss") == "redis://***"
