"""``python -m monitor`` is ``lastseen``."""

from monitor.daemon.cli import main

main()
