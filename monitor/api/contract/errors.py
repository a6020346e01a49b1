"""Faults of a request, in the published contract's ``HTTPValidationError`` shape."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Final

MAX_FAULTS: Final = 100
MAX_ECHO_CHARS: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of a request: its location (``body`` or ``path`` first), message, and Pydantic's type."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ContractError(Exception):
    """The request violates the contract (422). At most ``MAX_FAULTS`` faults are listed."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults: Final = faults[:MAX_FAULTS]
        super().__init__("; ".join(f"{'.'.join(map(str, fault.loc))}: {fault.type}" for fault in self.faults))

    def body(self) -> bytes:
        """The answer's JSON, in the contract's ``HTTPValidationError`` shape. ASCII only."""
        return json.dumps({"detail": [asdict(fault) for fault in self.faults]}, separators=(",", ":")).encode("ascii")


MISSING: Final = Fault(loc=("body",), msg="Field required", type="missing")
SYNTAX: Final = "json_invalid"
NOT_AN_OBJECT: Final = Fault(
    loc=("body",),
    msg="Input should be a valid dictionary or object to extract fields from",
    type="model_attributes_type",
)


def field_error(field: str, msg: str, kind: str) -> ContractError:
    """One fault at a field of the body; a long name is truncated."""
    return ContractError([Fault(loc=("body", field[:MAX_ECHO_CHARS]), msg=msg, type=kind)])


def no_json(content_type: str) -> ContractError:
    """The Content-Type of the body is not JSON."""
    kind = content_type[:MAX_ECHO_CHARS]
    msg = f"{NOT_AN_OBJECT.msg}; the Content-Type is {kind!r}, application/json is expected"
    return ContractError([replace(NOT_AN_OBJECT, msg=msg)])


def syntax_error(offset: int) -> ContractError:
    """The body is invalid JSON from this byte on."""
    return ContractError([Fault(loc=("body", offset), msg="JSON decode error", type=SYNTAX)])
