"""Several processes on one port: the supervisor, its children, and what it hands over to them."""
