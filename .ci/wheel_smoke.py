"""Start an installed `lastseen` once, wait until it is ready, and stop it: `wheel_smoke.py LASTSEEN`."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0


def free_port() -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> float:
    """Seconds until ``url`` answered 200.

    Raises:
        SystemExit: the daemon ended, or ``READY_TIMEOUT_S`` passed.
    """
    began = time.monotonic()
    last: object = "no answer"
    while time.monotonic() - began < READY_TIMEOUT_S:
        if process.poll() is not None:
            sys.exit(f"the daemon ended with {process.returncode} before it was ready")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own http URL
                return time.monotonic() - began
        except (urllib.error.URLError, OSError) as error:
            last = error
        time.sleep(0.1)
    sys.exit(f"not ready after {READY_TIMEOUT_S} s: {last}")


def main(lastseen: str) -> None:
    """Run the check.

    Raises:
        SystemExit: with what went wrong.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="lastseen-") as name:
        directory = Path(name)
        config = directory / "config.toml"
        config.write_text(f'[server]\nport = {port}\n\n[store]\ndata_dir = "{directory / "data"}"\n')
        process = subprocess.Popen([lastseen, "serve", "--config", str(config)], cwd=directory)
        try:
            ready_s = wait_until_ready(process, f"http://127.0.0.1:{port}/readyz")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                sys.exit(f"still running {STOP_TIMEOUT_S} s after SIGTERM")
        finally:
            process.kill()
            process.wait()
    if status != 0:
        sys.exit(f"exit status {status} after SIGTERM, not 0")
    print(f"ready after {ready_s:.1f} s, stopped {time.monotonic() - began:.1f} s after SIGTERM")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit(__doc__)
    main(sys.argv[1])
