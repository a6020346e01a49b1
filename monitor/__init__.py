"""Heartbeat intake, liveness, sweep and worker status."""
