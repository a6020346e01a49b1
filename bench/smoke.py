"""Every bench for a few seconds: ``python -m bench.smoke``. Fails on errors only, never on timings."""

import subprocess
import sys
from typing import Final

COMMANDS: Final = (
    "bench.intake --smoke",
    "bench.intake --smoke --one-connection-per-beat",
    "bench.processes --smoke",
    "bench.processes --smoke --wrk",
    "bench.batch --smoke",
    "bench.store --smoke",
    "bench.sweep --smoke",
    "bench.growth --smoke",
    "bench.partitions --smoke",
    "bench.alerts --smoke",
    "bench.overload --smoke",
    "bench.failover --smoke",
)
LIMIT_S: Final = 180.0


def main() -> int:
    """Run them one after another; the exit status is 1 if one failed."""
    failed = []
    for command in COMMANDS:
        print(f"--- python -m {command}", flush=True)
        words = [sys.executable, "-m", *command.split()]
        try:
            ended = subprocess.run(words, stdin=subprocess.DEVNULL, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            failed.append(f"{command}: not done within {LIMIT_S:g} s")
        else:
            if ended.returncode:
                failed.append(f"{command}: ended with {ended.returncode}")
    for line in failed:
        print(f"FAILED {line}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
