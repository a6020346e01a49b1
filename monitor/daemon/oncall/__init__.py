"""The HTTP API of incidents, silences, deliveries and receivers."""
