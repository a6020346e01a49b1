"""The drill of the operations page, run with the commands that stand there."""

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from tests.support.daemons import ANY_PORT, LASTSEEN, Home, Receiver, Stream, until

PAGE: Final = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
LONG: Final = '[liveness]\ninterval = "1h"\ngrace = "1h"\n'


def run_as_documented(name: str, home: Home) -> str:
    """Run the commands of a block of the page where the daemon's files are. Returns their output."""
    (block,) = re.findall(rf"<!-- drill:{name} -->\n```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    path = os.pathsep.join((str(LASTSEEN.parent), os.environ["PATH"]))
    ended = subprocess.run(
        ["sh", "-eu", "-c", block],
        cwd=home.directory,
        env={"PATH": path, "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", "")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended
    return ended.stdout


def test_p26_what_was_backed_up_beside_a_running_daemon_goes_on_after_the_data_is_lost(
    home: Home, receiver: Receiver
) -> None:
    home.write(ANY_PORT + LONG + receiver.section())
    receiver.open()
    daemon = home.start()
    for name in ("failed", "steady"):
        assert daemon.beat(name).status == 204
    assert daemon.disconnect("failed", reason="crash", exit_code=1).status == 204
    receiver.wait_for("worker.failed", "failed")
    daemon.wait_for("delivery.delivered")
    stream = Stream(daemon.url, home.master, "s")
    until(lambda: len(stream.acknowledged) > 20, "beats come in")
    before = set(stream.acknowledged)
    assert re.fullmatch(r"backed up \d+ bytes in \d+ files to .*\n", run_as_documented("backup", home))
    stream.end()
    assert stream.refused == []
    assert daemon.beat("late").status == 204
    home.close()  # kill -9

    run_as_documented("restore", home)
    daemon = home.start()
    assert {"failed", "steady", *before} <= daemon.worker_ids() <= {"failed", "steady", *stream.acknowledged}
    (incident,) = daemon.get("/api/v1/incidents?state=open")["incidents"]
    assert incident["worker_id"] == "failed"
    assert daemon.beat("failed").status == 204
    receiver.wait_for("worker.recovered", "failed")
    assert daemon.get("/api/v1/incidents?state=open")["incidents"] == []
    daemon.wait_for("delivery.delivered", type="worker.recovered")
    daemon.stop()
    sent = [(attempt.type, attempt.data["worker_id"]) for attempt in receiver.attempts]
    assert sent == [("worker.failed", "failed"), ("worker.recovered", "failed")]


def test_backup_of_a_store_of_one_s_own_is_left_to_its_own_means(empty_home: Home) -> None:
    empty_home.write("k" * 32, "token-secret")
    empty_home.write(
        '[store]\nurl = "redis://127.0.0.1:1"\n'
        '[[auth.keys]]\nkid = "k1"\nalgorithm = "HS256"\nsecret_file = "token-secret"\n'
    )
    ended = empty_home.run("backup", "--config", "lastseen.toml", "copy")
    assert ended.returncode == 2
    assert ended.stderr == "store.url names an external server: back it up with that server's own tools\n"


def test_backup_without_a_store_exits_1_and_says_where_it_looked(empty_home: Home) -> None:
    empty_home.write(ANY_PORT)
    ended = empty_home.run("backup", "--config", "lastseen.toml", "copy")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("lastseen: there is no embedded store in ")
