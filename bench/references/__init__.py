"""What the daemon is compared with: the least that an HTTP server can do, and the published service's way."""
