"""A daemon's home and a webhook receiver for each test."""

import sys
from collections.abc import Iterator

import pytest

from monitor.daemon.signing_key import generated_key
from tests.support import daemons


@pytest.fixture(scope="package", autouse=True)
def _bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give daemons a place for bytecode. Where Python is set to write none, every start would compile everything."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture
def receiver() -> Iterator[daemons.Receiver]:
    """A webhook receiver whose port is still closed; that every signature was good is checked at the end."""
    made = daemons.Receiver()
    try:
        yield made
    finally:
        made.close()
    assert made.bad == []


@pytest.fixture
def empty_home(receiver: daemons.Receiver) -> Iterator[daemons.Home]:  # noqa: ARG001 - daemons end before their receiver
    """A home without data, key and token."""
    with daemons.home() as made:
        yield made


@pytest.fixture(scope="package")
def _issuer(_bytecode: None) -> Iterator[daemons.Home]:
    with daemons.home() as made:
        made.write(daemons.ANY_PORT)
        generated_key(made.directory / "data")
        made.make_master()
        yield made


@pytest.fixture
def home(empty_home: daemons.Home, _issuer: daemons.Home) -> daemons.Home:
    """A home with nothing but a signing key and a master token: making them each time takes a second each time."""
    empty_home.take_keys_of(_issuer)
    return empty_home
