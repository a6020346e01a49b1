"""The log: there is no other side."""

from __future__ import annotations

from tests.receiver_cases import Case

CASE = Case()
