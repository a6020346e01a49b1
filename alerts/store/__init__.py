"""What alerts keep in Redis, and the only module that speaks Redis for this package."""
