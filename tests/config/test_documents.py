"""``config.toml`` and the reference keep up with the models: every key, with its default."""

import base64
import json
import re
from pathlib import Path
from typing import Final

import pytest
import toml_rs
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from alerts.receivers import TYPES
from alerts.receivers.webhook import WebhookSettings
from monitor.daemon.config.keys import Entry, entries
from monitor.daemon.config.model import Config, load

ROOT: Final = Path(__file__).parents[2]
REFERENCE: Final = ROOT / "config.toml"
DOCUMENT: Final = ROOT / "docs" / "configuration.md"
HS256_SECRET: Final = "correct-horse-battery-staple-0123456789"
HOOK_SECRET: Final = "whsec_" + base64.b64encode(b"n" * 24).decode()
ENTRIES: Final = list(entries(Config))


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def key_id(entry: Entry) -> str:
    return ".".join(entry.path) if entry.kind is None else f"{'.'.join(entry.path)}-{entry.kind}"


def uncommented() -> str:
    return re.sub(r"(?m)^#(?=\S)", "", REFERENCE.read_text(encoding="utf-8"))


def written_at(values: object, entry: Entry) -> list[object]:
    """The values of a key, in every table of the arrays on the way, and of those of its kind only."""
    found = [values]
    for part in entry.path:
        items = [item for value in found for item in (value if isinstance(value, list) else [value])]
        tables = [item for item in items if isinstance(item, dict)]
        if part == entry.path[-1] and entry.kind is not None:
            tables = [table for table in tables if table["type"] == entry.kind]
        found = [table[part] for table in tables if part in table]
    return found


def default_as_toml(entry: Entry) -> object:
    return list(entry.default) if isinstance(entry.default, tuple) else entry.default


@pytest.mark.parametrize("entry", ENTRIES, ids=key_id)
def test_config_toml_has_every_key_with_its_default(entry: Entry) -> None:
    values = written_at(toml_rs.loads(uncommented()), entry)
    assert values
    if not entry.array or entry.default not in (None, ()):
        assert default_as_toml(entry) in values


def test_config_toml_has_no_key_that_the_models_do_not_know(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    issuer = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    (keys / "issuer.pem").write_bytes(issuer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (keys / "2026-11").write_text(HS256_SECRET)
    for name in ("ops-webhook", "rotating-new", "rotating-old"):
        (keys / name).write_text(HOOK_SECRET)
    (keys / "alertmanager").write_text("token-or-password")
    environ = dict.fromkeys(
        ("PLATFORM_WEBHOOK_SECRET", "MOVING_WEBHOOK_SECRET_NEW", "MOVING_WEBHOOK_SECRET_OLD"), HOOK_SECRET
    ) | {"TOKEN_SECRET_2026_12": HS256_SECRET, "ALERTMANAGER_TOKEN": "token", "ALERTMANAGER_PASSWORD": "password"}
    config = load(write(tmp_path, uncommented()), environ)
    assert [key.kid for key in config.auth.keys] == ["2026-11", "2026-12", "issuer"]
    receivers = config.alerts.receivers
    assert [len(item._secrets) for item in receivers if isinstance(item, WebhookSettings)] == [1, 2, 1, 2]
    assert {item.type for item in receivers} == set(TYPES)


def documented(entry: Entry) -> str:
    """The row of a key in the reference."""
    section = ".".join(entry.path[:-1])
    heading = f"## `[[{section}]]`" if entry.array else f"## `[{section}]`"
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"\n{heading}\n" in text
    part = text.split(f"\n{heading}\n")[1].split("\n## ")[0]
    shared, *kinds = part.split("\n### Type ")
    part = shared if entry.kind is None else next(text for text in kinds if text.startswith(f"`{entry.kind}`\n"))
    return next(row for row in part.splitlines() if row.startswith(f"| `{entry.path[-1]}` |"))


@pytest.mark.parametrize("entry", ENTRIES, ids=key_id)
def test_the_reference_has_every_key_with_its_default_and_variable(entry: Entry) -> None:
    cells = documented(entry).split(" | ")
    if entry.required:
        assert cells[2] == "required"
    elif entry.default is None:
        assert cells[2].startswith("none")
    else:
        assert cells[2] == f"`{json.dumps(default_as_toml(entry))}`"
    assert entry.array or cells[3] == f"`{entry.variable}`"


def test_the_reference_has_no_row_that_is_no_key() -> None:
    rows = re.findall(r"(?m)^\| `(\w+)` \|", DOCUMENT.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(entry.path[-1] for entry in ENTRIES)
