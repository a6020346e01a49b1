"""Metrics: counters that several processes share, and their form for Prometheus."""
