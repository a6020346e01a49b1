"""Numbers that processes count together, and what Prometheus reads of them."""
