"""Run ``lastseen`` as ``python -m monitor``."""

from monitor.daemon.commands import main

main()
