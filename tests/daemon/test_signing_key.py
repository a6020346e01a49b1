import hashlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from monitor.auth import MIN_SECRET_BYTES, VerifyingKey
from monitor.daemon.signing_key import SigningKeyError, generated_key

REPOSITORY = Path(__file__).parents[2]
PRINT_KEY_ON_INPUT = """
import sys
from pathlib import Path
from monitor.daemon.signing_key import generated_key
print("up", flush=True)
sys.stdin.readline()
print(generated_key(Path(sys.argv[1]))[1].decode(), flush=True)
"""


def test_a_key_is_made_once_and_stays_the_same(tmp_path: Path) -> None:
    first = generated_key(tmp_path)
    assert generated_key(tmp_path) == first


def test_the_key_is_long_enough_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    kid, key, path = generated_key(tmp_path)
    VerifyingKey(kid=kid, algorithm="HS256", key=key)
    assert path == tmp_path / "signing-key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_directories_have_two_keys(tmp_path: Path) -> None:
    assert generated_key(tmp_path / "a")[1] != generated_key(tmp_path / "b")[1]


def test_the_key_id_is_derived_from_the_key_alone(tmp_path: Path) -> None:
    kid, key, _ = generated_key(tmp_path)
    assert kid == "generated-" + hashlib.sha256(key).hexdigest()[:8]


def test_a_missing_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    generated_key(tmp_path / "new")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_nothing_but_the_key_is_left_in_the_directory(tmp_path: Path) -> None:
    generated_key(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "signing-key"]


def test_a_final_newline_is_no_part_of_the_key(tmp_path: Path) -> None:
    _, key, path = generated_key(tmp_path)
    path.write_bytes(key)
    assert generated_key(tmp_path)[1] == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_is_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    _, key, path = generated_key(tmp_path)
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match=f"chmod 600 {path}") as refused:
        generated_key(tmp_path)
    assert key.decode() not in str(refused.value)


def test_a_damaged_key_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    _, key, path = generated_key(tmp_path)
    path.write_bytes(key[: MIN_SECRET_BYTES - 1])
    with pytest.raises(SigningKeyError, match="damaged"):
        generated_key(tmp_path)
    assert path.read_bytes() == key[: MIN_SECRET_BYTES - 1]


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningKeyError, match=str(tmp_path / "file")):
        generated_key(tmp_path / "file" / "data")


def test_daemons_that_start_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_KEY_ON_INPUT, str(tmp_path)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write("\n")
        starter.stdin.flush()
    keys = {starter.communicate(timeout=30)[0] for starter in starters}
    assert len(keys) == 1
    assert keys.pop().strip().encode() == generated_key(tmp_path)[1]
