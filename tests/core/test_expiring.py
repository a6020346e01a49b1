"""The warning about tokens that will soon expire."""

from typing import Any

import structlog

from monitor.auth import Authenticator, AuthPolicy, Scope, mint
from monitor.daemon.expiring import ExpiryWatch
from tests.support import api

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_000
POLICY = AuthPolicy(keys=(api.KEY,), audience="lastseen", issuer="lastseen", leeway_s=30, tenant_claim="org_id")


class Site:
    """An authenticator that sees tokens, its watch, and a clock."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.auth = Authenticator(POLICY)
        self.watch = ExpiryWatch(self.auth, now_ms=lambda: self.now_ms)

    def see(
        self, subject: str, *, days: float, age_days: float = 20, tenant: str = "acme", worker: str | None = None
    ) -> None:
        """A token that ends in ``days``, issued ``age_days`` ago."""
        issued_ms = self.now_ms - round(age_days * DAY_MS)
        made = mint(
            key=api.KEY,
            tenant=tenant,
            tenant_claim="org_id",
            subject=subject,
            scopes=[Scope.HEARTBEAT_WRITE],
            now_ms=issued_ms,
            expires_in_ms=round((age_days + days) * DAY_MS),
            audience="lastseen",
            issuer="lastseen",
            worker_id=worker,
            token_id=f"{subject} {days}",
        )
        self.auth.authenticate(authorization=f"Bearer {made}", user_key=None, now_ms=self.now_ms)

    def logged(self) -> list[dict[str, Any]]:
        with structlog.testing.capture_logs() as logs:
            self.watch.look()
        return [{name: line[name] for name in ("tenant", "tokens", "subjects", "first")} for line in logs]


def test_one_line_for_a_tenant_and_day_counts_the_tokens_that_expire_within_a_week() -> None:
    site = Site()
    for number in range(7):
        site.see(f"w{number}", days=6.9 - number / 2)
    site.see("later", days=7.1)
    site.see("w", days=1, tenant="other")
    assert site.logged() == [
        {
            "tenant": "acme",
            "tokens": 7,
            "subjects": ["w6", "w5", "w4", "w3", "w2"],
            "first": "2026-09-25T11:49:20.000Z",
        },
        {"tenant": "other", "tokens": 1, "subjects": ["w"], "first": "2026-09-22T14:13:20.000Z"},
    ]
    site.now_ms += DAY_MS - 1
    assert site.logged() == []
    site.now_ms += 1
    assert [(line["tenant"], line["tokens"]) for line in site.logged()] == [("acme", 8)]


def test_tokens_that_were_replaced_that_ended_or_that_are_short_do_not_count() -> None:
    site = Site()
    site.see("replaced", days=2)
    site.see("replaced", days=25, age_days=1)
    site.see("short", days=0.04, age_days=0.01)
    site.see("weekly", days=4, age_days=3)
    assert site.logged() == []
    site.see("shared", days=3, worker="a")
    site.see("shared", days=30, worker="b")
    assert [(line["tokens"], line["subjects"]) for line in site.logged()] == [(1, ["shared"])]
    site.now_ms += 4 * DAY_MS
    assert site.logged() == []
