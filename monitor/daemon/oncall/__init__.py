"""The HTTP interface of incidents, silences, deliveries and receivers."""
