"""Failpoints: points at which a test kills the process, to check that nothing is lost.

They do nothing unless the environment variable ``LASTSEEN_TEST_FAILPOINT`` is set. ``<name>:<n>`` kills the process
with SIGKILL when it reaches the point of that name for the n-th time; ``*:<n>`` counts all points.
"""

import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from alerts.loops import nothing

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


def failpoint(environ: Mapping[str, str]) -> Callable[[str], None]:
    """The function to call at each point, according to the environment.

    Raises:
        ValueError: the variable does not hold the name of a point and a number.
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
