"""The HTTP/1.1 server: uvicorn with bounds on clients, fairness between connections, and a fast path past the app."""
