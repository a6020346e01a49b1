"""The configuration: what may be in it, where it comes from, and what is wrong with it."""
