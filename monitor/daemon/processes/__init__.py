"""Several processes on one port: the supervisor, its child processes, and the handover to them."""
