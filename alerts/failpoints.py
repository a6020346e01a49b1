"""Points at which a test ends the process, to see that nothing is lost.

There are none unless ``LASTSEEN_TEST_FAILPOINT`` stands in the environment: ``<name>:<n>`` ends the process with
SIGKILL when it comes to the point of that name for the n-th time; ``*:<n>`` counts all points.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE: Final = "LASTSEEN_TEST_FAILPOINT"
POINTS: Final = (
    "router.taken",
    "router.noted",
    "router.routed",
    "router.acked",
    "delivery.claimed",
    "delivery.begun",
    "delivery.sending",
    "delivery.sent",
    "delivery.recorded",
)
ANY: Final = "*"


def nothing(_: str) -> None:
    """A failpoint where none is set."""


def failpoint(environ: Mapping[str, str]) -> Callable[[str], None]:
    """What is called at each point.

    Raises:
        ValueError: the variable names no point, or no number.
    """
    text = environ.get(VARIABLE)
    if not text:
        return nothing
    name, _, count = text.partition(":")
    if name not in {*POINTS, ANY} or not count.isdigit():
        raise ValueError(f"{VARIABLE} = {text!r} is not <one of {', '.join(POINTS)}, {ANY}>:<number>")
    left = int(count)

    def reached(point: str) -> None:
        nonlocal left
        if name in {point, ANY}:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reached
