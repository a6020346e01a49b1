"""The ``[watchdog]`` section: the daemon's own heartbeat to an external service that raises an alarm when it stops."""

from collections.abc import Iterator
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PrivateAttr, StrictBool, ValidationInfo, model_validator

from alerts.receivers.ssrf import is_private
from monitor.settings.key_material import KeyMaterialError, from_file
from monitor.settings.section import Problem, Section, refusal, surroundings
from monitor.settings.units import Duration, lasting
from monitor.settings.urls import checked_web_url


def _web_url_or_none(text: str) -> str:
    return checked_web_url(text) if text else text


class Watchdog(Section):
    """``[watchdog]``. Without ``url`` and ``url_file`` nothing is sent; the file is read with the configuration."""

    url: Annotated[str, AfterValidator(_web_url_or_none)] = ""
    url_file: str = ""
    interval_ms: Annotated[Duration, lasting("1s", "1d")] = Field("60s", validate_default=True)
    timeout_ms: Annotated[Duration, lasting("1s", "60s")] = Field("10s", validate_default=True)
    allow_private: StrictBool = False
    _target: str = PrivateAttr("")

    @property
    def target(self) -> str:
        """The URL, from ``url`` or ``url_file``; empty: send nothing."""
        return self._target or self.url

    @property
    def warnings(self) -> Iterator[str]:
        """A warning for a literal private address. Names are not resolved."""
        host = urlsplit(self.target).hostname or ""
        if host and not self.allow_private and is_private(host):
            why = "nothing is sent there without allow_private = true"
            yield f"watchdog: its url is on the private address {host}: {why}"

    @model_validator(mode="after")
    def _read(self, info: ValidationInfo) -> Self:
        if not self.url_file:
            return self
        if self.url:
            raise refusal(Problem(message="cannot be combined with url: give one of the two", at=("url_file",)))
        try:
            self._target = checked_web_url(from_file(self.url_file, surroundings(info)).decode())
        except KeyMaterialError as error:
            raise refusal(Problem(message=str(error), at=("url_file",))) from None
        except ValueError as error:
            reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise refusal(Problem(message=f"the content of the file {reason}", at=("url_file",))) from None
        return self
