"""The HTTP side: the published heartbeat contract and the status endpoints."""
