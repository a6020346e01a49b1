"""The sources of the one Lua function library (``monitor.store.library``)."""
