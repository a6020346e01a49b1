"""The command ``python -m bench.load``."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Final

from cyclopts import App, Parameter

from bench.load.outcome import figures
from bench.load.plan import Ids, Plan
from bench.load.run import LoadError, run
from bench.results import cell
from bench.tokens import TENANT, NoSigningKeyError, minted
from monitor.daemon.config.model import Config, load
from monitor.daemon.config.sources import ConfigError
from monitor.daemon.signing_key import SigningKeyError
from monitor.data_dir_ownership import KEY_FILE, own_dir

MISUSED: Final = 2
FAILED: Final = 1

app = App(name="python -m bench.load")


def _configured(path: Path | None) -> Config:
    config = load(path, os.environ)
    key = own_dir(config.store.data_dir) / KEY_FILE
    if not config.auth.keys and not key.exists():
        raise LoadError(
            f"there is no signing key at {key}: give the daemon's --config or a --token-file, "
            "or set LASTSEEN_STORE__DATA_DIR to its data_dir"
        )
    return config


def _tokens(token_file: Path | None, config: Path | None, count: int, tenant: str) -> list[str]:
    """The tokens to use, from the file or made.

    Raises:
        LoadError: there are none.
    """
    try:
        if token_file is None:
            return minted(_configured(config), count, tenant=tenant)
        found = token_file.read_text(encoding="utf-8").split()
    except (ConfigError, NoSigningKeyError, SigningKeyError) as error:
        raise LoadError(f"tokens can't be made: {error}") from error
    except OSError as error:
        raise LoadError(f"--token-file: {error}") from error
    if not found:
        raise LoadError(f"--token-file: {token_file} holds no token")
    return found


@app.default
def main(
    *,
    url: Annotated[str, Parameter(help="Where the daemon listens.")] = "http://127.0.0.1:8642",
    rate: Annotated[float, Parameter(help="Beats per second.")] = 1_000.0,
    duration: Annotated[float, Parameter(help="Seconds at that rate.")] = 10.0,
    ramp: Annotated[float, Parameter(help="Seconds before that in which the rate grows; not in the latencies.")] = 0.0,
    connections: Annotated[int, Parameter(help="Requests that can be under way at the same time.")] = 64,
    workers: Annotated[int, Parameter(help="How many workers beat; their ids are the same in every run.")] = 10_000,
    ids: Annotated[
        Ids, Parameter(help="Whose beat is next: each worker in turn, any, or the k-th in proportion to 1/k.")
    ] = Ids.UNIFORM,
    keep_alive: Annotated[
        bool, Parameter(negative="--no-keep-alive", help="Keep connections, or make one for each request.")
    ] = True,
    batch: Annotated[int, Parameter(help="Beats in one request; above 1 the batch endpoint is used.")] = 1,
    metadata_bytes: Annotated[int, Parameter(help="Size of each worker's metadata; 0: two short labels.")] = 0,
    timeout: Annotated[float, Parameter(help="Seconds after which an answer is given up.")] = 5.0,
    processes: Annotated[int, Parameter(help="Processes of the generator; one sends some 20,000 a second.")] = 1,
    tokens: Annotated[int, Parameter(help="How many different tokens to make and use.")] = 1,
    tenant: Annotated[str, Parameter(help="The tenant of the tokens that are made.")] = TENANT,
    config: Annotated[
        Path | None, Parameter(help="The daemon's configuration, whose key signs the tokens; else the environment.")
    ] = None,
    token_file: Annotated[Path | None, Parameter(help="Use these tokens, one a line, and make none.")] = None,
    json_path: Annotated[Path | None, Parameter(name="--json", help="Write the figures to this file too.")] = None,
) -> int:
    """Send heartbeats at a fixed rate and report what became of them.

    Open loop: latency counts from the time at which a beat was due, not from when a connection was free for it, so
    a stall of the server shows in full. Sends leave in groups once a millisecond, which is part of the latency.
    Requests that time out count in the latencies with the time that they had waited.

    The workers are of the environment "load". They stay behind: once the load has ended they are reported stale
    like any others, so use an installation, or a tenant, whose alerts page no operator.

    Exit status: 0 every beat was stored, 1 some were not, 2 it could not be run.
    """
    try:
        plan = Plan(
            url=url,
            tokens=_tokens(token_file, config, tokens, tenant),
            rate=rate,
            duration_s=duration,
            ramp_s=ramp,
            connections=connections,
            workers=workers,
            keep_alive=keep_alive,
            ids=ids,
            metadata_bytes=metadata_bytes,
            batch=batch,
            timeout_s=timeout,
        )
        outcome = run(plan, processes=processes)
    except LoadError as error:
        sys.stderr.write(f"bench.load: {error}\n")
        return MISUSED
    rows = figures(outcome, batch=batch)
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {cell(value):>12}")
    for complaint in outcome.complaints():
        print(complaint)
    if json_path is not None:
        content = {"figures": rows, "complaints": outcome.complaints(), "histogram": outcome.latencies.decode()}
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return FAILED if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(app(result_action="return_value"))
