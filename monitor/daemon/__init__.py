"""The daemon: configuration, composition root and command line."""
