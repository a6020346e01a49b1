"""``python -m monitor`` is ``lastseen``."""

from monitor.daemon.commands import main

main()
