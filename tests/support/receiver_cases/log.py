"""The log: there is no other side."""

from tests.support.receiver_cases import Case

CASE = Case()
