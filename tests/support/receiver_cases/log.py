"""The log: there is no other side."""

from __future__ import annotations

from tests.support.receiver_cases import Case

CASE = Case()
