"""Errors of the daemon."""


class StartError(Exception):
    """The daemon cannot run; the message is for the operator."""
