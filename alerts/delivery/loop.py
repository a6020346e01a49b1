"""Delivery loop of one receiver: claim due groups, attempt delivery, record the outcome."""

import asyncio
import contextlib
import itertools
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from alerts.delivery.circuit_breaker import Breaker
from alerts.delivery.confirmations import Confirmations
from alerts.delivery.counts import Counted, Counts
from alerts.delivery.due_parts import DueParts
from alerts.delivery.given_up import GivenUp
from alerts.delivery.planner import Attempt, Planner, given_back
from alerts.errors import Cause, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from alerts.groups.attempts import dead_letter, deliver, fail, schedule_retry, undo_attempt
from alerts.groups.state import Draft
from alerts.loops import POLL_S, StoreBackoff, Tries, Wakeup, cancel_all, nothing
from alerts.receivers import Receiver
from alerts.retry import GiveUp, Retry, RetryPolicy, RetryReason, decide
from alerts.store.group_store import CALL_LIMIT, Change, Claimed, GroupStore, Want
from monitor.durability import Confirmation
from monitor.errors import StoreUnavailableError

LEASE_MARGIN_S: Final = 10.0
"""How much longer than the receiver's timeout a lease lasts: half of it for waiting for a free slot, half for recording
the outcome."""

CONCURRENCY: Final = 8
"""Attempts in flight at one receiver."""

_UNRECORDED_KEPT: Final = 10_000
_UNCONFIRMED_PAUSE_MS: Final = 250
_IDLE_MS: Final = 1_000
"""Pause before the next claim in a part in which nothing could be claimed although a group was due."""

_log: FilteringBoundLogger = structlog.get_logger()


class Delivery:
    """Delivers the notifications of one receiver: claims due groups, plans, sends, records outcomes.

    Each attempt is recorded as begun before it is made, and is made only after the store has confirmed that record
    (P23). Confirmation takes a disk sync, and the attempts of the previous claim continue meanwhile. To keep the slots
    busy, the loop claims ahead: twice as many groups as attempts have ended since the last claim. For a receiver that
    hangs, that is none.

    Receivers are independent: a dead or slow one delays no other (P21). Several daemons may work on one receiver's
    groups. An attempt whose outcome was not recorded may have arrived. It is repeated with the same id and body when
    its lease ends.

    Args:
        receiver: where to send.
        groups: the receiver's groups.
        planner: plans the next step of each group.
        policy: when to retry.
        now_ms: the store's time.
        counts: counts attempts.
        concurrency: maximum attempts in flight at once.
        poll_s: how often to poll for due groups, in seconds.
        uniform: draws from ``[a, b]``.
        failpoint: called with the name of each point at which a test may end the process.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        groups: GroupStore,
        planner: Planner,
        policy: RetryPolicy,
        now_ms: Callable[[], int],
        counts: Counts,
        concurrency: int = CONCURRENCY,
        poll_s: float = POLL_S,
        uniform: Callable[[float, float], float] = random.uniform,
        failpoint: Callable[[str], None] = nothing,
    ) -> None:
        self.wakeup = Wakeup()
        self._receiver = receiver
        self._groups = groups
        self._planner = planner
        self._policy = policy
        self._now_ms = now_ms
        self._counts = counts
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._uniform = uniform
        self._failpoint = failpoint
        self._breaker = Breaker(uniform=uniform)
        self._lease_ms = round((receiver.timeout_s + LEASE_MARGIN_S) * 1000)
        self._backoff = StoreBackoff("delivery.store_unavailable", "delivery.resumed", receiver=receiver.name)
        self._confirmations = Confirmations(receiver.name, groups.durability.mode.value)
        self._stopping = False
        self._in_flight: set[asyncio.Task[None]] = set()
        self._held: list[Claimed] = []  # claimed, then the store became unavailable: to be given back
        self._ready: deque[Attempt] = deque()  # begun and not sent
        self._landed_since_claim = 0
        self._due = DueParts()
        self._given_up = GivenUp(groups)
        self._begun: dict[str, Claimed] = {}  # by notification: its group as it was written when the attempt began
        self._unrecorded: OrderedDict[str, None] = OrderedDict()
        self._bug: BaseException | None = None

    async def run(self) -> None:
        """Deliver until ``stop``. Any exception is a bug: outages of the store or the receiver are not raised.

        May be called again after an exception: attempts in flight continue, and claimed groups are due again when
        their lease ends.
        """
        self._bug = None
        while not self._stopping:
            if self._bug is not None:
                raise self._bug
            try:
                busy = await self._step()
            except StoreUnavailableError as error:
                await self.wakeup.wait(self._backoff.failed(error, uniform=self._uniform))
                continue
            self._backoff.over()
            if not busy:
                await self.wakeup.wait(self._pause_s())

    def _pause_s(self) -> float:
        """How long to wait without a wakeup: until a group is due, and no longer than a poll."""
        left_s = (self._due.next_ms() - self._now_ms()) / 1_000
        return min(left_s, self._poll_s) if left_s > 0 else self._poll_s

    def note(self, tag: str, due_ms: float, *, has_open_dead_letters: bool = False) -> None:
        """Note when a group of the part ``tag`` is due, and wake the loop if that is sooner than its next poll."""
        self._due.note(tag, due_ms)
        if has_open_dead_letters:
            self._given_up.note([tag])
        if due_ms <= self._now_ms() + 1_000 * self._poll_s:
            self.wakeup()

    def note_dead_letters(self, tags: Iterable[str]) -> None:
        """Note parts that have open dead letters, which the receiver's acceptances offer. They may be of any owner."""
        self._given_up.note(tags)

    async def stop(self, timeout_s: float) -> None:
        """Stop claiming, wait ``timeout_s`` seconds for the attempts in flight, then cancel them.

        Attempts that were not sent are given back at once. If a claim is still running, ``run`` gives back its result.
        A cancelled attempt may have arrived; it is repeated when its lease ends. Idempotent.
        """
        self._stopping = True
        self.wakeup()
        unsent = list(self._ready)
        self._ready.clear()
        with contextlib.suppress(StoreUnavailableError):
            await self._release(unsent)
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=timeout_s)
        await cancel_all(self._in_flight)

    async def _step(self) -> bool:
        """Claim as many groups as there is room for, plan, and start sending. Returns whether there may be more.

        One claim is for the groups of one partition or shard; those in which a group is due take turns.
        """
        await self._give_back_held()
        now_ms = self._now_ms()
        for tag in await self._given_up.offer(now_ms=now_ms):
            self._due.note(tag, now_ms)
        await self._release_overdue()
        self._fill()
        now_ms = self._now_ms()
        ahead = min(CALL_LIMIT, 2 * self._landed_since_claim)
        room = self._concurrency - len(self._in_flight) + ahead - len(self._ready)
        room = self._breaker.room(room, in_flight=len(self._in_flight) + len(self._ready), now_ms=now_ms)
        part = self._due.take(now_ms) if room > 0 else None
        if part is None:
            return False
        self._landed_since_claim = 0
        try:
            claim = self._groups.parts[part].claim(limit=room, lease_ms=self._lease_ms, now_ms=now_ms)
            claimed, next_ms = await claim
        except Exception:
            self._due.note(part, now_ms)
            raise
        if next_ms is not None:
            self._due.note(part, next_ms if claimed else max(next_ms, now_ms + _IDLE_MS))
        if not claimed:
            return True  # another part may have a group that is due
        self._failpoint("delivery.claimed")
        try:
            begun = await self._begin(claimed, now_ms=now_ms)
        except StoreUnavailableError:
            self._held += claimed
            raise
        if self._stopping:
            await self._release(begun)
            return False
        self._ready.extend(begun)
        self._fill()
        return True

    async def _begin(self, claimed: Sequence[Claimed], *, now_ms: int) -> list[Attempt]:
        """Plan and write the next step of each group. Returns the attempts that are recorded as begun and confirmed."""
        left, begun, tries = list(claimed), [], Tries("groups")
        while left and tries.left:
            await tries.begin()
            plans = await self._planner.plan(left, now_ms=now_ms)
            part = self._groups.part_of(left[0].group.key)
            starting = [plan for plan in plans if isinstance(plan, Attempt)]
            rest = [plan for plan in plans if not isinstance(plan, Attempt)]
            done = await self._save([plan.change for plan in rest], now_ms=now_ms)
            self._planner.count_written(rest, done)
            lost = [plan.claimed for plan, written in zip(rest, done, strict=True) if not written]
            if starting:
                versions, confirmation = await part.save_confirmed([plan.change for plan in starting], now_ms=now_ms)
                self._confirmations.note(confirmation)
                self._planner.count_written(starting, versions)
                lost += [plan.claimed for plan, version in zip(starting, versions, strict=True) if not version]
                recorded = list(itertools.compress(starting, versions))
                for plan, version in zip(recorded, filter(None, versions), strict=True):
                    self._begun[plan.notification.nid] = replace(plan.claimed, version=version)
                if confirmation is Confirmation.UNCONFIRMED:
                    await self._release(recorded, pause_ms=_UNCONFIRMED_PAUSE_MS)
                else:
                    begun += recorded
                self._failpoint("delivery.begun")
            # An unchanged group was refused because its lease is lost.
            left = [now for was, now in await self._read_again(lost) if now.version != was.version]
        return begun

    async def _give_back_held(self) -> None:
        """Give back the groups that were claimed when the store became unavailable. None of them was sent.

        An attempt that was recorded as begun stays so: it counts as one that may have arrived.
        """
        while self._held:
            some = self._held[:CALL_LIMIT]
            known, now_ms = await self._read_again(some), self._now_ms()
            changes = [given_back(now, Draft(now.group, now_ms), receiver=self._groups.receiver) for _, now in known]
            await self._save(changes, now_ms=now_ms)  # refused for groups that another daemon has claimed since
            self._begun.clear()  # of these; an attempt in flight reads its group again
            del self._held[: len(some)]

    async def _save(self, changes: Sequence[Change], *, now_ms: int) -> list[bool]:
        """Write changes, and note when the groups are due."""
        done = await self._groups.save(changes, now_ms=now_ms)
        for change in changes:
            tag = self._groups.part_of(change.draft.group.key).tag
            if change.due_ms is not None:
                self.note(tag, change.due_ms, has_open_dead_letters=change.draft.group.given_up is not None)
        return done

    async def _read_again(self, claimed: Sequence[Claimed]) -> list[tuple[Claimed, Claimed]]:
        """Each group as it was claimed and as it is now. Groups that are gone are left out."""
        seen = await self._groups.read([Want(group=one.group.key) for one in claimed])
        return [
            (was, replace(was, group=now.group, version=now.version))
            for was, now in zip(claimed, seen, strict=True)
            if now.group is not None
        ]

    def _fill(self) -> None:
        """Start attempts that are ready, as far as there are free slots."""
        while self._ready and len(self._in_flight) < self._concurrency and not self._overdue(self._ready[0]):
            task = asyncio.create_task(self._attempt(self._ready.popleft()))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._landed_since_claim += 1
        if not task.cancelled():
            self._bug = self._bug or task.exception()
        if self._bug is None:
            self._fill()
        self.wakeup()

    def _overdue(self, attempt: Attempt) -> bool:
        """Whether the rest of a lease is too short for an attempt and the record of its outcome."""
        return self._now_ms() > attempt.claimed.lease_end_ms - self._lease_ms + LEASE_MARGIN_S * 500

    async def _release_overdue(self) -> None:
        late = []
        while self._ready and self._overdue(self._ready[0]):
            late.append(self._ready.popleft())
            self._landed_since_claim = 0  # the receiver is too slow for claiming ahead
        await self._release(late)

    async def _release(self, unsent: Sequence[Attempt], *, pause_ms: int = 0) -> None:
        """Give back attempts that were begun and not sent. After an error the rest are due when their lease ends."""
        for attempt in unsent:
            await self._settle(attempt, lambda draft: _undo(draft, pause_ms=pause_ms))

    async def _attempt(self, attempt: Attempt) -> None:
        if attempt.notification.nid not in self._unrecorded:
            self._failpoint("delivery.sending")
            error = await self._send(attempt)
            if error is not None:
                await self._failed(attempt, error)
                return
        self._failpoint("delivery.sent")
        await self._delivered(attempt)

    async def _send(self, attempt: Attempt) -> DeliveryError | None:
        """Make an attempt. Returns why it failed; None: it was accepted."""
        receiver = f"receiver {self._receiver.name!r}"
        try:
            async with asyncio.timeout(self._receiver.timeout_s + LEASE_MARGIN_S / 2):
                await self._receiver.send(attempt.notification, attempt=attempt.number, now_ms=self._now_ms())
        except DeliveryError as error:
            return error
        except TimeoutError:
            text = f"{receiver}: the attempt did not end in time"
            return TransientDeliveryError(text, cause=Cause.TIMEOUT, unknown=True)
        except Exception as error:  # noqa: BLE001 - counts as a failed attempt that may have arrived
            _log.error("delivery.internal_error", **self._about(attempt), error=repr(error), exc_info=error)
            text = f"{receiver}: internal error, {type(error).__name__}"
            return TransientDeliveryError(text, cause=Cause.INTERNAL_ERROR, unknown=True)
        return None

    async def _delivered(self, attempt: Attempt) -> None:
        nid = attempt.notification.nid
        # If the store is unavailable until the lease ends, at least this process does not send it again.
        self._unrecorded[nid] = None
        while len(self._unrecorded) > _UNRECORDED_KEPT:
            self._unrecorded.popitem(last=False)
        self._answered()
        if await self._record(attempt, deliver):
            self._unrecorded.pop(nid, None)
            self._failpoint("delivery.recorded")
            self._given_up.accepted(self._now_ms())
            self._counts.delivery(self._receiver.name, Counted.DELIVERED, "")
            _log.info("delivery.delivered", **self._about(attempt))

    def _answered(self) -> None:
        if self._breaker.succeeded():
            _log.info("receiver.back", receiver=self._receiver.name)

    async def _failed(self, attempt: Attempt, error: DeliveryError) -> None:
        now_ms = self._now_ms()
        if error.disable:
            await self._disable(attempt, error)
            return
        if isinstance(error, PermanentDeliveryError):
            self._answered()
        elif self._breaker.failed(now_ms=now_ms):
            _log.warning(
                "receiver.in_trouble", receiver=self._receiver.name, reason=str(error), cause=error.cause.value
            )
        decision = self._decide(attempt, error, now_ms)
        facts = {**self._about(attempt), "reason": str(error), "cause": error.cause.value}

        def failed(draft: Draft) -> None:
            fail(draft, error=str(error), cause=error.cause.value, answer=error.answer)
            if isinstance(decision, Retry):
                schedule_retry(draft, due_ms=decision.due_ms, unknown=error.unknown)
            else:
                dead_letter(draft, reason=f"{decision.reason.value}: {error}", unknown=error.unknown)

        if not await self._record(attempt, failed):
            return
        is_new = isinstance(decision, GiveUp) and not attempt.again
        self._counts.delivery(
            self._receiver.name, Counted.DEAD_LETTERED if is_new else Counted.FAILED, error.cause.value
        )
        if isinstance(decision, Retry):
            facts |= {"retry": decision.reason.value, "next_attempt_s": (decision.due_ms - now_ms) / 1000}
            _log.warning("delivery.failed", **facts, unknown=error.unknown)
        elif attempt.again:
            _log.warning("delivery.failed", **facts, retry="given_up", unknown=error.unknown)
        else:
            _log.error("delivery.dead_lettered", **{**facts, "reason": f"{decision.reason.value}: {error}"})

    def _decide(self, attempt: Attempt, error: DeliveryError, now_ms: int) -> Retry | GiveUp:
        if attempt.again:
            return GiveUp(reason=RetryReason.GAVE_UP)
        tried = {"attempts": attempt.number, "first_attempt_ms": attempt.first_attempt_ms}
        return decide(error, **tried, now_ms=now_ms, policy=self._policy, uniform=self._uniform)

    async def _disable(self, attempt: Attempt, error: DeliveryError) -> None:
        """Disable a receiver that says it is gone. Its notifications wait until an operator enables it."""
        if await self._groups.disable(str(error)):
            _log.error("receiver.disabled", receiver=self._receiver.name, reason=str(error))
        now_ms = self._now_ms()

        def failed(draft: Draft) -> None:
            fail(draft, error=str(error), cause=error.cause.value, answer=error.answer)
            schedule_retry(draft, due_ms=now_ms, unknown=False)

        if await self._record(attempt, failed):
            self._counts.delivery(self._receiver.name, Counted.FAILED, error.cause.value)

    async def _record(self, attempt: Attempt, note: Callable[[Draft], None]) -> bool:
        """Record an outcome, with retries while the lease lasts. Returns whether it is recorded."""
        while True:
            try:
                recorded = await self._settle(attempt, note)
            except StoreUnavailableError as error:
                pause_s = self._backoff.failed(error, uniform=self._uniform)
                if self._now_ms() + pause_s * 1000 >= attempt.claimed.lease_end_ms:
                    _log.warning("delivery.unrecorded", **self._about(attempt), error=str(error))
                    return False
                await asyncio.sleep(pause_s)
                continue
            if not recorded:
                _log.warning("delivery.lease_lost", **self._about(attempt))
            return recorded

    async def _settle(self, attempt: Attempt, note: Callable[[Draft], None]) -> bool:
        """Apply a change to the notification in flight and give the group back.

        False: the notification is no longer in flight; or the group refuses a change although it is unchanged: another
        daemon has claimed it since, and its result counts.
        """
        refused, tries = 0, Tries(f"receiver {self._receiver.name!r}: group {attempt.claimed.group.key!r}")
        while True:
            await tries.begin()
            # Nothing else has changed the group as a rule. A failed write may have been made, so it is not tried again.
            now = self._begun.pop(attempt.notification.nid, None)
            if now is None:
                now = next((now for _, now in await self._read_again([attempt.claimed])), None)
            in_flight = None if now is None or now.version == refused else now.group.in_flight
            if now is None or in_flight is None or in_flight.nid != attempt.notification.nid:
                return False
            now_ms = self._now_ms()
            draft = Draft(now.group, now_ms)
            note(draft)
            change = given_back(now, draft, receiver=self._groups.receiver)
            [written] = await self._save([change], now_ms=now_ms)
            if written:
                return True
            refused = now.version

    def _about(self, attempt: Attempt) -> dict[str, object]:
        notification = attempt.notification
        return {
            "nid": notification.nid,
            "receiver": self._receiver.name,
            "type": notification.event_type,
            "attempt": attempt.number,
        }


def _undo(draft: Draft, *, pause_ms: int) -> None:
    undo_attempt(draft)
    if draft.group.in_flight is not None:
        draft.group.in_flight.due_ms += pause_ms
