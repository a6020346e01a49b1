"""Storage of alerts in Redis. No other folder of this package uses Redis."""
