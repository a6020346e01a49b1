"""Configuration files of tests, and how they are refused."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from monitor.daemon.config.model import load
from monitor.daemon.config.sources import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path | None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


def refused_text(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines of a refusal, without the folder."""
    return [line.removeprefix(f"{folder}/") for line in refused(write(folder, text), environ)]
