"""What became of a load: counted by each process, added up, judged."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from hdrh.histogram import HdrHistogram

MOST_US: Final = 3_600_000_000
DIGITS: Final = 3
QUANTILES: Final = (50.0, 90.0, 99.0, 99.9)
LATE_SHARE: Final = 0.001
LATE_FEW: Final = 10
"""With more late sends than this share, and than so few, the generator's own slowness is in the figures."""
BUSY_SHARE: Final = 0.9


class Latencies:
    """A distribution of latencies in microseconds, to three digits, that can be sent between processes and added."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, MOST_US, DIGITS)

    def record(self, microseconds: Iterable[int]) -> None:
        """Take them in."""
        for value, count in Counter(microseconds).items():
            self._histogram.record_value(min(max(value, 1), MOST_US), count)

    def add(self, encoded: bytes) -> None:
        """Take in another distribution."""
        self._histogram.decode_and_add(encoded)

    def encoded(self) -> bytes:
        """It in the format of HdrHistogram, version 2, compressed, in Base64."""
        encoded: bytes = self._histogram.encode()
        return encoded

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._histogram.get_total_count())

    def quantile_ms(self, percent: float) -> float:
        """The latency that ``percent`` percent of them do not exceed; 0 when there are none."""
        return float(self._histogram.get_value_at_percentile(percent)) / 1_000 if self.count else 0.0

    def most_ms(self) -> float:
        """The largest; 0 when there are none."""
        return float(self._histogram.get_max_value()) / 1_000 if self.count else 0.0


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Counts of one process, or of all.

    ``latencies`` hold, of the requests planned after the ramp, those that were answered (with any status), timed
    out or never left; the last two count with the time that they had waited.
    """

    planned: int = 0
    """Requests of the schedule; in a closed loop those that were sent."""
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by kind."""
    late: int = 0
    """Requests sent more than ``LATE_S`` after their time because the generator was slow."""
    waited: int = 0
    """As ``late``, because every connection was waiting for an answer."""
    rejected: int = 0
    """Batches answered 200 of which not every beat was taken."""
    connects: int = 0
    elapsed_s: float = 0.0
    """From the start to the last answer."""
    cpu_share: float = 0.0
    """The CPU time of the busiest process of the generator, in cores."""
    cpu_s: float = 0.0
    latencies: bytes = b""

    @property
    def answered(self) -> int:
        """Requests with an answer."""
        return self.statuses.total()

    @property
    def stored(self) -> int:
        """Requests answered 2xx, all of whose beats were taken."""
        good = sum(count for status, count in self.statuses.items() if status // 100 == 2)  # noqa: PLR2004 - 2xx
        return good - self.rejected

    @property
    def failed(self) -> int:
        """Requests of the schedule that were not stored, whatever the reason."""
        return self.planned - self.stored

    def distribution(self) -> Latencies:
        """The latencies, to be asked."""
        made = Latencies()
        if self.latencies:
            made.add(self.latencies)
        return made

    def complaints(self) -> list[str]:
        """Why the figures may say more about the generator, or about its connections, than about the server."""
        found = []
        if self.late > max(LATE_SHARE * self.planned, LATE_FEW) or self.cpu_share > BUSY_SHARE:
            found.append(
                f"THE GENERATOR DID NOT KEEP UP: {self.late:,} requests left late by its own fault; its busiest "
                f"process used {self.cpu_share:.2f} cores; give it a core, more --processes or a lower --rate"
            )
        if self.waited:
            found.append(
                f"{self.waited:,} requests waited until a connection was free: the server was slower than the rate "
                "asks for, or --connections is too low"
            )
        return found


def added(outcomes: Iterable[Outcome]) -> Outcome:
    """The sum over the processes of one load."""
    whole, latencies = Outcome(), Latencies()
    for one in outcomes:
        for name in ("planned", "sent", "late", "waited", "rejected", "connects", "cpu_s"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        whole.statuses += one.statuses
        whole.errors += one.errors
        whole.elapsed_s = max(whole.elapsed_s, one.elapsed_s)
        whole.cpu_share = max(whole.cpu_share, one.cpu_share)
        if one.latencies:
            latencies.add(one.latencies)
    whole.latencies = latencies.encoded()
    return whole


def figures(outcome: Outcome, *, batch: int) -> Mapping[str, str | int | float]:
    """The outcome as names and values, for a table and for JSON; rates up to the last answer."""
    latencies = outcome.distribution()
    rows: dict[str, str | int | float] = {
        "requests planned": outcome.planned,
        "requests sent": outcome.sent,
        **{f"answered {status}": count for status, count in sorted(outcome.statuses.items())},
        **{f"error: {kind}": count for kind, count in sorted(outcome.errors.items())},
        "batches with rejected beats": outcome.rejected,
        "connections made": outcome.connects,
        "stored, beats/s": outcome.stored * batch / max(outcome.elapsed_s, 1e-9),
        **{f"p{percent:g} ms": latencies.quantile_ms(percent) for percent in QUANTILES},
        "max ms": latencies.most_ms(),
        "late sends (generator)": outcome.late,
        "sends that waited for a connection": outcome.waited,
        "generator CPU, cores": outcome.cpu_s / max(outcome.elapsed_s, 1e-9),
    }
    if batch == 1:
        del rows["batches with rejected beats"]
    return rows
