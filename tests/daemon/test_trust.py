"""The data directory: its required owner, and the owner of its files."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.signing_key import SigningKeyError, existing_key, generated_key
from monitor.data_dir_ownership import DataDirError, own_dir, trusted_dir
from monitor.embedded.data_dir import open_lock
from tests.support import daemons
from tests.support.daemons import ANY_PORT, Home

OTHER, GROUP = 12_345, 23_456

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can come to."""
    with tempfile.TemporaryDirectory(prefix="ls-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def home() -> Iterator[Home]:
    with daemons.home() as one:
        yield one


@contextlib.contextmanager
def user(uid: int, *groups: int) -> Iterator[None]:
    """This process as another user."""
    before = os.getgroups()
    os.setgroups([*groups])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def made(folder: Path, *, mode: int, owner: int = 0, group: int = 0) -> Path:
    data = folder / "data"
    data.mkdir()
    os.chown(data, owner, group)
    data.chmod(mode)
    return data


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o775])
def test_a_directory_of_ours_is_used_as_it_is(folder: Path, mode: int) -> None:
    data = made(folder, mode=mode)
    assert trusted_dir(data) == own_dir(data) == data
    assert generated_key(data)[2] == data / "signing-key"
    assert generated_key(data) == existing_key(data)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "message"),
    [
        (0o777, 0, 0, "may be written by everybody: chmod o-w"),
        (0o1777, 0, 0, "may be written by everybody: chmod o-w"),
        (0o775, 0, GROUP, f"may be written by group {GROUP}, not ours: chmod g-w"),
        (0o755, OTHER, 0, f"belongs to user {OTHER}, who may change it, and we are 0"),
        (0o700, OTHER, 0, f"belongs to user {OTHER}, who may change it, and we are 0"),
    ],
)
def test_a_directory_that_others_may_change_is_refused_and_left_alone(
    folder: Path, mode: int, owner: int, group: int, message: str
) -> None:
    data = made(folder, mode=mode, owner=owner, group=group)
    for use in (trusted_dir, generated_key):
        with pytest.raises((DataDirError, SigningKeyError), match=message):
            use(data)
    assert list(data.iterdir()) == []


@pytest.mark.parametrize("name", ["signing-key", "lock", "store"])
def test_what_is_a_link_or_another_user_s_is_refused_and_its_target_left_alone(folder: Path, name: str) -> None:
    data = made(folder, mode=0o700)
    target = folder / "target"
    target.write_text("precious")
    for place in (target, folder / "nowhere"):
        (data / name).symlink_to(place)
        with pytest.raises(DataDirError, match=f"{name} is a link"):
            trusted_dir(data)
        (data / name).unlink()
    (data / name).write_text("k" * 40)
    (data / name).chmod(0o600)
    os.chown(data / name, OTHER, OTHER)
    with pytest.raises(DataDirError, match=f"{name} belongs to user {OTHER}, and we are 0"):
        trusted_dir(data)
    assert target.read_text() == "precious"


def test_the_key_and_the_lock_are_opened_through_no_link(folder: Path) -> None:
    data = made(folder, mode=0o700)
    target = folder / "target"
    target.write_text("k" * 40)
    target.chmod(0o600)
    (data / "signing-key").symlink_to(target)
    with pytest.raises(SigningKeyError, match="is a link"):
        existing_key(data)
    (data / "lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        open_lock(data / "lock")
    (data / "signing-key").unlink()
    target.rename(data / "signing-key")
    os.chown(data / "signing-key", OTHER, OTHER)
    with pytest.raises(SigningKeyError, match=f"belongs to user {OTHER}, not to the current user"):
        existing_key(data)


def test_root_may_make_tokens_with_the_key_of_the_daemon_s_user(folder: Path) -> None:
    data = made(folder, mode=0o700, owner=OTHER, group=OTHER)
    with user(OTHER):
        made_key = generated_key(data)
    assert made_key[2] == data / "signing-key"
    # Root finds it beside: the directory is not its own, and there is no folder inside.
    assert existing_key(data) == made_key


def test_in_a_mount_that_root_gives_to_our_group_a_folder_inside_is_ours(folder: Path) -> None:
    data = made(folder, mode=0o2775, group=GROUP)
    with user(OTHER, GROUP):
        assert trusted_dir(data) == own_dir(data) == data / "lastseen"
        key = generated_key(data)
        assert key[2] == data / "lastseen" / "signing-key"
        assert existing_key(data) == key
    assert stat.S_IMODE((data / "lastseen").stat().st_mode) & 0o777 == 0o700
    assert (data / "lastseen").stat().st_uid == OTHER
    assert existing_key(data) == key  # root too
    with user(OTHER + 1, GROUP), pytest.raises(DataDirError, match=f"lastseen belongs to user {OTHER}"):
        trusted_dir(data)
    for mode in (0o755, 0o710, 0o720, 0o740, 0o701, 0o702, 0o704):
        (data / "lastseen").chmod(mode)
        with user(OTHER, GROUP), pytest.raises(DataDirError, match="lastseen is open to others: chmod 700 "):
            trusted_dir(data)


def test_a_daemon_does_not_start_on_data_that_others_may_change(home: Home) -> None:
    home.write(ANY_PORT)
    generated_key(home.directory / "data")
    data = home.directory / "data"
    precious = home.directory / "precious"
    precious.write_text("precious")

    def refused(message: str) -> None:
        daemon = home.launch()
        assert daemon.exit_status() == 1
        assert message in daemon.lines("daemon.failed")[0]["error"]
        assert precious.read_text() == "precious"

    data.chmod(0o777)
    refused(f"data directory {data} may be written by everybody")
    data.chmod(0o700)
    (data / "lock").symlink_to(precious)
    refused("lock is a link")
    (data / "lock").unlink()
    os.chown(data / "signing-key", OTHER, OTHER)
    refused(f"signing-key belongs to user {OTHER}")
    os.chown(data / "signing-key", 0, 0)
    home.start().stop()
