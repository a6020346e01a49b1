"""The HTTP API: the published heartbeat contract and the status endpoints."""
