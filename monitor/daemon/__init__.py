"""The daemon: configuration, composition root and command line. Everything is put together here and nowhere else."""
