"""What a green run in CI means: nothing was skipped, and the README's commands are the ones that ran."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SKIPPING = "import pytest\n\n\ndef test_skipped():\n    pytest.skip('no such server here')\n"
SKIPPING_AS_A_WHOLE = "import pytest\n\npytest.skip('no such system here', allow_module_level=True)\n"
FAILING_AS_EXPECTED = "import pytest\n\n\n@pytest.mark.xfail\ndef test_known():\n    raise ValueError\n"


def _run(directory: Path, source: str, *, ci: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text("def test_passes():\n    pass\n")
    (directory / "test_other.py").write_text(source)
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.conftest"),
            *("--rootdir", str(directory), str(directory)),
        ],
        cwd=ROOT,
        env={**os.environ, "CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("source", [SKIPPING, SKIPPING_AS_A_WHOLE])
def test_a_skipped_test_fails_the_run_in_ci_and_is_named(source: str, tmp_path: Path) -> None:
    ended = _run(tmp_path, source, ci="true")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout + ended.stderr
    assert "skipped, which CI counts as failed" in ended.stdout
    assert "test_other.py" in ended.stdout.split("skipped, which CI counts as failed")[1]


@pytest.mark.parametrize(("source", "ci"), [(SKIPPING, ""), (FAILING_AS_EXPECTED, "true")])
def test_a_skip_on_a_laptop_and_an_expected_failure_in_ci_pass(source: str, ci: str, tmp_path: Path) -> None:
    ended = _run(tmp_path, source, ci=ci)
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout + ended.stderr


def test_the_readme_starts_and_tests_with_one_line_each() -> None:
    blocks = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    start, test = blocks[:2]
    assert start.count("\n") == test.count("\n") == 1
    assert start.endswith(" lastseen serve\n")
    assert test.endswith(" pytest -n auto --dist worksteal\n")
