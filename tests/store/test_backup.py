"""A copy of the embedded store's data is one of a single moment, whatever the store does, or there is none."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import redis

from monitor.embedded import EmbeddedStore, EmbeddedStoreError, back_up
from tests.support.daemons import home


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """In a directory with a short name, so that the socket needs none of its own."""
    with home() as made:
        yield made.directory / "data"


def client_of(url: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=unquote(url.removeprefix("unix://")))


def values_in(data_dir: Path) -> dict[str, int]:
    """What a server that starts on a data directory has of the numbers a and b."""
    store = EmbeddedStore(data_dir)
    try:
        with client_of(store.start()) as client:
            return {name: int(client.get(name) or 0) for name in ("a", "b")}
    finally:
        asyncio.run(store.stop())


def test_p26_a_backup_beside_a_store_that_writes_and_rewrites_is_of_one_moment(data_dir: Path, tmp_path: Path) -> None:
    store = EmbeddedStore(data_dir)
    url = store.start()
    ending = threading.Event()
    written = [0]

    def write() -> None:
        with client_of(url) as client:
            while not ending.is_set():
                with client.pipeline(transaction=True) as both:  # a and b are one step
                    both.incr("a").incr("b")
                    written[0] = both.execute()[0]

    def rewrite() -> None:
        with client_of(url) as client:
            while not ending.wait(0.01):
                if not client.info("persistence")["aof_rewrite_in_progress"]:
                    client.bgrewriteaof()

    threads = [threading.Thread(target=work) for work in (write, rewrite)]
    try:
        for thread in threads:
            thread.start()
        found = []
        for number in range(8):
            least = written[0]
            made = back_up(data_dir, tmp_path / str(number))
            assert made.files >= 2
            found.append((least, values_in(tmp_path / str(number))))
        with client_of(url) as client:
            assert client.info("persistence")["aof_rewrites"] > 2
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        asyncio.run(store.stop())
    assert [(least, values) for least, values in found if not values["a"] == values["b"] >= least] == []


def test_a_backup_of_a_stopped_store_has_all_of_it_and_is_its_owner_s_alone(data_dir: Path, tmp_path: Path) -> None:
    store = EmbeddedStore(data_dir)
    with client_of(store.start()) as client:
        client.mset({"a": 7, "b": 7})
    asyncio.run(store.stop())
    target = tmp_path / "deep" / "copy"
    back_up(data_dir, target)
    assert target.stat().st_mode & 0o777 == 0o700
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert {name.split("/")[1] for name in files} == {"appendonlydir"}
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*")} == {0o600, 0o700}
    assert {(target / name).stat().st_mode & 0o777 for name in files} == {0o600}
    assert values_in(target) == {"a": 7, "b": 7}


def test_a_backup_that_can_t_be_made_says_why_and_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    with pytest.raises(EmbeddedStoreError, match="there is no embedded store in "):
        back_up(data_dir, target)
    store = EmbeddedStore(data_dir)
    store.start()
    asyncio.run(store.stop())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(EmbeddedStoreError, match="is there already, and is not an empty directory"):
        back_up(data_dir, tmp_path / "taken")
    manifest = data_dir / "store" / "appendonlydir" / "appendonly.aof.manifest"
    good = manifest.read_bytes()
    manifest.write_bytes(good + b"file ../../lock seq 2 type i\n")
    with pytest.raises(EmbeddedStoreError, match="not in its directory"):
        back_up(data_dir, target)
    manifest.write_bytes(good + b"file appendonly.aof.9.incr.aof seq 9 type i\n")
    with pytest.raises(EmbeddedStoreError, match=r"appendonly\.aof\.9\.incr\.aof"):
        back_up(data_dir, target)
    manifest.write_bytes(good)
    next(manifest.parent.glob("*.base.rdb")).write_bytes(b"not a base")
    with pytest.raises(EmbeddedStoreError, match="before it was ready"):
        back_up(data_dir, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
