"""Keys and secrets of the configuration: where they are read from, what is refused, and that none is shown."""

import base64
import re
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from alerts.receivers.webhook import WebhookSettings
from monitor.daemon.config.model import load
from monitor.settings.urls import masked_url
from tests.support.configuration import refused, refused_text, write

HS256_SECRET: Final = "correct-horse-battery-staple-0123456789"
HOOK_SECRET: Final = "whsec_" + base64.b64encode(b"n" * 24).decode()
OLD_HOOK_SECRET: Final = "whsec_" + base64.b64encode(b"o" * 64).decode()


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def auth_key(algorithm: str, source: str) -> str:
    return f'[[auth.keys]]\nkid = "a"\nalgorithm = "{algorithm}"\n{source}\n'


def test_secrets_are_read_from_files_beside_the_configuration_and_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(HS256_SECRET + "\n")
    text = (
        auth_key("HS256", 'secret_file = "secret"')
        + '[[auth.keys]]\nkid="b"\nalgorithm="HS256"\nsecret_env="LASTSEEN_B"'
    )
    config = load(write(tmp_path, text), {"LASTSEEN_B": HS256_SECRET + "\r\n"})
    assert [(key.kid, key.algorithm, key.key) for key in config.auth.keys] == [
        ("a", "HS256", HS256_SECRET.encode()),
        ("b", "HS256", HS256_SECRET.encode()),
    ]


def test_a_public_key_must_fit_its_algorithm(tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pems = {
        "RS256": public_pem(rsa_key),
        "ES256": public_pem(ec.generate_private_key(ec.SECP256R1())),
        "EdDSA": public_pem(ed25519.Ed25519PrivateKey.generate()),
    }
    for algorithm in pems:
        for kind, pem in pems.items():
            (tmp_path / "key.pem").write_bytes(pem)
            path = write(tmp_path, auth_key(algorithm, 'public_key_file = "key.pem"'))
            if kind == algorithm:
                assert load(path, {}).auth.keys[0].key == pem.rstrip()
            else:
                (line,) = refused(path)
                assert ":4: auth.keys[0].public_key_file: the key is of type " in line
                assert f"does not fit {algorithm}" in line
    misfits = {
        b"nonsense": "is not a PEM public key",
        public_pem(rsa.generate_private_key(public_exponent=65_537, key_size=1_024)): "1024 bits, at least 2048",  # noqa: S505
        rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()): "holds a private key",
    }
    for content, expected in misfits.items():
        (tmp_path / "key.pem").write_bytes(content)
        (line,) = refused(write(tmp_path, auth_key("RS256", 'public_key_file = "key.pem"')))
        assert expected in line
    (tmp_path / "key.pem").write_bytes(public_pem(ec.generate_private_key(ec.SECP384R1())))
    (line,) = refused(write(tmp_path, auth_key("ES256", 'public_key_file = "key.pem"')))
    assert "secp384r1, ES256 needs P-256" in line


@pytest.mark.parametrize(
    ("algorithm", "source", "expected"),
    [
        ("HS256", 'secret_file = "none"', "config.toml:4: auth.keys[0].secret_file: cannot read the file"),
        ("HS256", 'secret_file = "."', "config.toml:4: auth.keys[0].secret_file: cannot read the file"),
        ("HS256", 'secret_file = "short"', "the secret has 31 bytes, HS256 needs at least 32"),
        ("HS256", 'secret_env = "UNSET"', "config.toml:4: auth.keys[0].secret_env: the environment variable that"),
        ("HS256", 'public_key_file = "short"', "public_key_file: does not go with algorithm HS256"),
        (
            "RS256",
            'secret_file = "short"',
            "secret_file: does not go with algorithm RS256, which takes public_key_file",
        ),
        (
            "HS256",
            'secret_file = "short"\nsecret_env = "A"',
            "config.toml:5: auth.keys[0].secret_env: algorithm HS256 takes",
        ),
    ],
)
def test_a_key_without_fit_material_is_refused(tmp_path: Path, algorithm: str, source: str, expected: str) -> None:
    (tmp_path / "short").write_text("s" * 31 + "\n")
    (line,) = refused_text(tmp_path, auth_key(algorithm, source))
    assert expected in line
    assert "sss" not in line


@pytest.mark.parametrize("text", ["ssh-rsa " + "A" * 200, '{"kty": "oct", "k": "' + "A" * 43 + '"}'])
def test_a_secret_that_is_a_key_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    (line,) = refused_text(tmp_path, auth_key("HS256", 'secret_env = "A"'), {"A": text})
    assert "auth.keys[0].secret_env: the secret is a public key, a certificate or a JWK" in line
    assert "AAA" not in line


def test_a_repeated_kid_is_refused_where_it_repeats(tmp_path: Path) -> None:
    (line,) = refused_text(tmp_path, auth_key("HS256", 'secret_env = "A"') * 2, {"A": HS256_SECRET})
    assert line == 'config.toml:6: auth.keys[1].kid: an earlier key has this kid, got "a"'


def test_a_shared_store_without_keys_is_refused(tmp_path: Path) -> None:
    (line,) = refused_text(tmp_path, '[store]\nurl = "redis://:hunter2@h/0"')
    assert line.startswith("config.toml:2: auth.keys: at least one [[auth.keys]] is needed")
    assert "each replica would make its own key" in line
    assert "hunter2" not in line
    (line,) = refused(None, {"LASTSEEN_STORE__URL": "redis://:hunter2@h/0"})
    assert line.startswith("environment LASTSEEN_STORE__URL: auth.keys: at least one")
    text = '[store]\nurl = "redis://:hunter2@h/0"\n' + auth_key("HS256", 'secret_env = "A"')
    assert load(write(tmp_path, text), {"A": HS256_SECRET}).store.url == "redis://:hunter2@h/0"


WEBHOOK: Final = (
    '[[alerts.receivers]]\nname = "ops"\ntype = "webhook"\nurl = "https://hooks.example.org/T0/capability?k=v"\n'
)


def test_webhook_secrets_are_decoded_the_newest_first(tmp_path: Path) -> None:
    (tmp_path / "new").write_text(HOOK_SECRET + "\n")
    (tmp_path / "old").write_text(OLD_HOOK_SECRET)
    config = load(write(tmp_path, WEBHOOK + 'secret_files = ["new", "old"]\nsecret_envs = ["A"]'), {"A": HOOK_SECRET})
    (webhook,) = config.alerts.receivers
    assert isinstance(webhook, WebhookSettings)
    assert webhook._secrets == (b"n" * 24, b"o" * 64, b"n" * 24)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        ("hunter2hunter2", "does not begin with whsec_"),
        ("whsec_hunter2!", "is not base64"),
        ("whsec_" + base64.b64encode(b"n" * 23).decode(), "has 23 bytes, 24 to 64 are needed"),
        ("whsec_" + base64.b64encode(b"n" * 65).decode(), "has 65 bytes, 24 to 64 are needed"),
    ],
)
def test_a_webhook_secret_of_another_form_is_refused_at_its_line(tmp_path: Path, secret: str, expected: str) -> None:
    (tmp_path / "ok").write_text(HOOK_SECRET)
    (tmp_path / "bad").write_text(secret)
    (line,) = refused_text(tmp_path, WEBHOOK + 'secret_files = [\n  "ok",\n  "bad",\n]')
    assert line.startswith("config.toml:7: alerts.receivers[0].secret_files[1]: the secret ")
    assert expected in line
    assert secret not in line


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("\ufeff", "", "begins with a byte order mark: save the file as UTF-8 without one"),
        ("", " ", "begins or ends with white space"),
        ("", " \n", "begins or ends with white space"),
        (" ", "", "begins or ends with white space"),
        ("\u00a0", "", "begins or ends with white space"),
        ("\n", "", "holds a control character, such as a second line"),
        ("", "\nsecond", "holds a control character, such as a second line"),
        ("", "\t\n", "holds a control character, such as a second line"),
        ('"', '"', "is enclosed in quotes: leave them out"),
        ("'", "'\n", "is enclosed in quotes: leave them out"),
        ("TOKEN_SECRET=", "", "has the form NAME=value: leave the name out"),
        ("export TOKEN_SECRET=", "\n", "has the form NAME=value: leave the name out"),
    ],
)
@pytest.mark.parametrize(
    ("secret", "section", "file_key", "env_key"),
    [
        (HS256_SECRET, auth_key("HS256", ""), "secret_file", "secret_env"),
        (
            HOOK_SECRET,
            '[[alerts.receivers]]\nname = "a"\ntype = "webhook"\nurl = "https://x"\n',
            "secret_file",
            "secret_env",
        ),
    ],
)
def test_a_secret_with_something_around_it_that_cannot_be_meant_is_refused(  # noqa: PLR0917
    tmp_path: Path, before: str, after: str, message: str, secret: str, section: str, file_key: str, env_key: str
) -> None:
    """Such a secret was accepted before, and every token or signature was then refused."""
    (tmp_path / "made").write_text(before + secret + after, encoding="utf-8")
    (from_file,) = refused_text(tmp_path, f'{section}{file_key} = "made"\n')
    assert f"{file_key}: the secret {message}" in from_file
    (from_variable,) = refused_text(tmp_path, f'{section}{env_key} = "A"\n', {"A": before + secret + after})
    assert f"{env_key}: the secret {message}" in from_variable
    for line in (from_file, from_variable):
        assert secret not in line


@pytest.mark.parametrize(
    "secret",
    [
        HS256_SECRET.encode(),
        bytes(range(0x80, 0xB0)) + b"\x00",
        b"\xff \t" + bytes(31),
        b"AB=CDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
        b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU2Nzg5YWI==",
        "\u00e4".encode() * 20,
    ],
)
def test_a_secret_is_taken_as_it_is_without_the_newline_at_its_end(tmp_path: Path, secret: bytes) -> None:
    for end in (b"", b"\n", b"\r\n"):
        (tmp_path / "made").write_bytes(secret + end)
        config = load(write(tmp_path, auth_key("HS256", 'secret_file = "made"')), {})
        assert config.auth.keys[0].key == secret


def test_secrets_never_appear_in_errors(tmp_path: Path) -> None:
    misplaced = [
        WEBHOOK + f'secret = "{HOOK_SECRET}"',
        WEBHOOK + f'secret_env = "{HOOK_SECRET}"',
        WEBHOOK + f'secret_envs = ["{HOOK_SECRET}"]',
        WEBHOOK + f'secret_file = "{HOOK_SECRET}"',
        WEBHOOK + f'secret_env = ["{HOOK_SECRET}"]',
        f'[server]\nshutdown_timeout = "{HOOK_SECRET}"',
        auth_key("HS256", f'secret = "{HOOK_SECRET}"'),
        auth_key("HS256", f'secret_env = "{HOOK_SECRET.removeprefix("whsec_")}"'),
        f'[store]\nurl = "http://:{HOOK_SECRET}@h"',
        f'[store]\nurl = "redis+sentinel://u:{HOOK_SECRET[6:]}@h"',
        f'[store]\nurl = "{HOOK_SECRET[6:]}@h"',
        f'[server]\nhost = {{ x = "{HOOK_SECRET[6:]}" }}',
    ]
    for text in misplaced:
        assert HOOK_SECRET.removeprefix("whsec_") not in "\n".join(refused_text(tmp_path, text)), text
    for url in (
        "redis+cluster://:hunter2@h?password=hunter2",
        "redis+sentinel://:hunter2@h?sentinel_password=hunter2",
        "redis+sentinel://:hun/ter2@h:x/s",
        "redis+sentinel://:hun?ter2@h:x/s",
        "redis+sentinel://h/s?sentinel_password=x@hunter2",
        "redis+sentinel://h/s?sentinel_password=x&hunter2=y",
        "redis+sentinel://h/s?sentinel_password=x&hunter2",
        "redis+sentinel://h/s?tls=hunter2",
    ):
        text = "\n".join(refused(None, {"LASTSEEN_STORE__URL": url}))
        assert not {"hunter2", "ter2"} & set(re.split(r"\W", text)), text


@pytest.mark.parametrize(
    "text",
    [
        '[server]\nshutdown_timeout = "redis://:hunter2@h/0"',
        '[store]\ndurability = "rediss://u:hunter2@h"',
        '[alerts]\npublic_url = "https://u:hunter2@h/"',
        '[alerts]\npublic_url = "u:hunter2@h"',
        '[watchdog]\nurl = "u:hunter2@h"',
    ],
)
def test_the_password_of_a_url_is_masked_in_errors_under_whatever_key_it_stands(tmp_path: Path, text: str) -> None:
    (line,) = refused_text(tmp_path, text)
    assert line.startswith("config.toml:2: ")
    assert "***@h" in line
    assert "hunter2" not in line


def test_secrets_never_appear_in_the_repr(tmp_path: Path) -> None:
    text = (
        '[store]\nurl = "rediss://u:hunter2@h/0?ssl_check_hostname=no"\n'
        + auth_key("HS256", 'secret_env = "A"')
        + WEBHOOK
        + 'secret_env = "B"\n'
    )
    config = load(write(tmp_path, text), {"A": HS256_SECRET, "B": HOOK_SECRET})
    for shown in (repr(config), str(config)):
        assert "url='rediss://***@h/0?***'" in shown
        assert "url='https://hooks.example.org/***?***'" in shown
        for secret in ("hunter2", HS256_SECRET, HOOK_SECRET, "nnnn", "capability"):
            assert secret not in shown


ALERTMANAGER: Final = (
    '[[alerts.receivers]]\nname = "am"\ntype = "alertmanager"\nurl = "https://am.example.org/capability"\n'
)


def test_an_alertmanager_s_token_or_password_is_read_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2.hunter2==\n")
    for keys in (
        'bearer_token_file = "token"',
        'bearer_token_env = "A"',
        'username = "u"\npassword_file = "token"',
        'username = "u"\npassword_env = "A"',
    ):
        config = load(write(tmp_path, ALERTMANAGER + keys), {"A": "hunter2.hunter2=="})
        for shown in (repr(config), str(config), repr(config.alerts.receivers[0].open())):
            assert "hunter2" not in shown
            assert "capability" not in shown


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ('bearer_token_env = "A"\npassword_env = "A"', ":6: alerts.receivers[0].password_env: at most one of"),
        ('username = "u"', ":5: alerts.receivers[0].username: needs password_file or password_env"),
        ('username = "u"\nbearer_token_env = "A"', ":5: alerts.receivers[0].username: needs password_file or"),
        ('password_env = "A"', ":5: alerts.receivers[0].password_env: needs username"),
        ('username = "u:v"\npassword_env = "A"', ":5: alerts.receivers[0].username: must not hold a colon"),
        ('bearer_token_env = "BAD"', ":5: alerts.receivers[0].bearer_token_env: the token holds a control"),
        ('username = "u"\npassword_env = "BAD"', ":6: alerts.receivers[0].password_env: the password holds a control"),
        ('bearer_token_env = "hunter2"', ":5: alerts.receivers[0].bearer_token_env: the environment variable that"),
        ('bearer_token = "hunter2"', ":5: alerts.receivers[0].bearer_token: unknown key; did you mean"),
        ('bearer_token_file = "none"', ":5: alerts.receivers[0].bearer_token_file: cannot read the file"),
    ],
)
def test_an_alertmanager_s_unfit_credentials_are_refused(tmp_path: Path, keys: str, expected: str) -> None:
    (line,) = refused_text(tmp_path, ALERTMANAGER + keys, {"A": "good", "BAD": "hunter2\thunter2"})
    assert expected in line
    assert "hunter2" not in line


def test_a_variable_that_a_receiver_names_may_begin_like_a_key(tmp_path: Path) -> None:
    text = ALERTMANAGER + 'bearer_token_env = "LASTSEEN_AM_TOKEN"'
    assert load(write(tmp_path, text), {"LASTSEEN_AM_TOKEN": "abc"}).alerts.receivers
    text = WEBHOOK + 'secret_env = "LASTSEEN_HOOK"'
    assert load(write(tmp_path, text), {"LASTSEEN_HOOK": HOOK_SECRET}).alerts.receivers
    text = WEBHOOK + 'secret_envs = ["LASTSEEN_NEW", "LASTSEEN_OLD"]'
    assert load(write(tmp_path, text), {"LASTSEEN_NEW": HOOK_SECRET, "LASTSEEN_OLD": OLD_HOOK_SECRET}).alerts.receivers


@given(st.text(), st.sampled_from(["redis", "https", "unix"]))
def test_no_user_part_gets_through_the_mask(user: str, scheme: str) -> None:
    shown = "***" if "?" in user else "***@host"  # after a question mark, the @ may be a password's
    assert masked_url(f"{scheme}://secret{user}@host") == f"{scheme}://{shown}"


@pytest.mark.parametrize(("mode", "is_said"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_a_secret_file_that_all_users_can_read_is_warned_of(tmp_path: Path, mode: int, is_said: bool) -> None:  # noqa: FBT001
    made = tmp_path / "made"
    made.write_text(HS256_SECRET)
    made.chmod(mode)
    warnings = load(write(tmp_path, auth_key("HS256", 'secret_file = "made"')), {}).warnings
    said = f"{made}: every user of this machine can read this secret: chmod o-r {made}"
    assert warnings == ((said,) if is_said else ())


def test_a_public_key_may_be_read_by_all_users(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate()))
    (tmp_path / "made").chmod(0o644)
    assert load(write(tmp_path, auth_key("EdDSA", 'public_key_file = "made"')), {}).warnings == ()
