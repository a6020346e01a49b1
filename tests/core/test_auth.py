"""Tokens: what is accepted, and every way of being refused (P24). Most are made by hand, not by ``mint``."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from monitor.auth import (
    Authenticator,
    AuthPolicy,
    ForbiddenError,
    Principal,
    Refusal,
    Scope,
    ScopeMissingError,
    UnauthenticatedError,
    VerifyingKey,
    mint,
)
from monitor.auth.keys import KeyAlgorithm

NOW_MS = 1_700_000_000_000
NOW_S = NOW_MS // 1_000
LEEWAY_MS = 5_000
SECRET = b"0123456789abcdef0123456789abcdef"
OTHER_SECRET = b"fedcba9876543210fedcba9876543210"
RSA = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
P256 = ec.generate_private_key(ec.SECP256R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
PRIVATE: dict[str, PrivateKeyTypes] = {"RS256": RSA, "ES256": P256, "EdDSA": ED25519}
CLAIMS: dict[str, Any] = {
    "sub": "deploy",
    "org_id": "acme",
    "scope": "heartbeat:write workers:read",
    "exp": NOW_S + 60,
    "aud": "lastseen",
    "iss": "issuer",
}


def public_pem(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


HS_KEY = VerifyingKey(kid="hs", algorithm="HS256", key=SECRET)
KEYS = (
    HS_KEY,
    VerifyingKey(kid="rs", algorithm="RS256", key=public_pem(RSA)),
    VerifyingKey(kid="es", algorithm="ES256", key=public_pem(P256)),
    VerifyingKey(kid="ed", algorithm="EdDSA", key=public_pem(ED25519)),
)
KID: dict[str, str] = {"HS256": "hs", "RS256": "rs", "ES256": "es", "EdDSA": "ed"}
POLICY = AuthPolicy(keys=KEYS, audience="lastseen", issuer="issuer", leeway_s=5.0, tenant_claim="org_id")
AUTH = Authenticator(POLICY)
ONE_KEY = Authenticator(replace(POLICY, keys=(HS_KEY,)))


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def hs256(header: object, claims: object, secret: bytes = SECRET) -> str:
    """A token with any header and any claims, signed with HMAC whatever the header says."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signed = ".".join(map(b64, parts))
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def token(claims: object = None, *, secret: bytes = SECRET, **header: object) -> str:
    return hs256({"alg": "HS256", "kid": "hs"} | header, CLAIMS if claims is None else claims, secret)


def good(token_: str, *, now_ms: int = NOW_MS, auth: Authenticator = AUTH) -> Principal:
    return auth.authenticate(authorization=f"Bearer {token_}", user_key=None, now_ms=now_ms)


def reason(
    authorization: str | None, *, user_key: str | None = None, now_ms: int = NOW_MS, auth: Authenticator = AUTH
) -> Refusal:
    with pytest.raises(UnauthenticatedError) as caught:
        auth.authenticate(authorization=authorization, user_key=user_key, now_ms=now_ms)
    return caught.value.reason


def refused(token_: str, *, now_ms: int = NOW_MS, auth: Authenticator = AUTH) -> Refusal:
    return reason(f"Bearer {token_}", now_ms=now_ms, auth=auth)


def test_a_good_token_says_who_is_calling() -> None:
    assert good(token()) == Principal(
        subject="deploy",
        tenant="acme",
        scopes=frozenset({"heartbeat:write", "workers:read"}),
        worker_id=None,
        environments=None,
    )
    restricted = good(token(CLAIMS | {"worker_id": "w/1", "environments": ["prod", "test", "prod"], "scope": ""}))
    assert (restricted.worker_id, restricted.environments) == ("w/1", ("prod", "test"))
    assert restricted.scopes == frozenset()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_tokens_signed_with_a_private_key_are_accepted_and_only_by_its_public_key(algorithm: KeyAlgorithm) -> None:
    made = jwt.encode(CLAIMS, PRIVATE[algorithm], algorithm=algorithm, headers={"kid": KID[algorithm]})  # type: ignore[arg-type]
    assert good(made).tenant == "acme"
    fresh: dict[str, PrivateKeyTypes] = {
        "RS256": rsa.generate_private_key(public_exponent=65_537, key_size=2_048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }
    forged = jwt.encode(CLAIMS, fresh[algorithm], algorithm=algorithm, headers={"kid": KID[algorithm]})  # type: ignore[arg-type]
    assert refused(forged) is Refusal.BAD_SIGNATURE
    head, claims, signature = made.split(".")
    for wrong in ("", signature[:4], b64(bytes(64)), b64(bytes(256)), b64(b"\xff" * 64)):
        assert refused(f"{head}.{claims}.{wrong}") is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", " none", "hs256", "HS256 ", "HS512", None, 0, []]
)
@pytest.mark.parametrize("auth", [AUTH, ONE_KEY], ids=["four-keys", "one-key"])
def test_p24_a_token_with_alg_none_or_another_spelling_is_refused(algorithm: object, auth: Authenticator) -> None:
    assert refused(token(alg=algorithm), auth=auth) is Refusal.BAD_ALGORITHM
    unsigned = token(alg=algorithm).rpartition(".")[0] + "."
    assert refused(unsigned, auth=auth) is Refusal.BAD_ALGORITHM


def test_p24_a_token_without_alg_or_without_signature_is_refused() -> None:
    assert refused(hs256({"kid": "hs"}, CLAIMS)) is Refusal.BAD_ALGORITHM
    assert refused(token().rpartition(".")[0] + ".") is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize("kid", ["rs", "es", "ed"])
def test_p24_a_public_key_does_not_serve_as_an_hmac_secret(kid: str) -> None:
    key = next(key for key in KEYS if key.kid == kid)
    alone = Authenticator(replace(POLICY, keys=(key,)))
    assert refused(token(kid=kid, secret=key.key)) is Refusal.BAD_ALGORITHM
    assert refused(hs256({"alg": "HS256"}, CLAIMS, key.key), auth=alone) is Refusal.BAD_ALGORITHM
    assert refused(token(kid=kid, alg=key.algorithm, secret=key.key)) is Refusal.BAD_SIGNATURE


def test_p24_a_token_whose_algorithm_is_not_that_of_its_key_is_refused() -> None:
    for algorithm, private in PRIVATE.items():
        for name, kid in KID.items():
            if name != algorithm:
                crossed = jwt.encode(CLAIMS, private, algorithm=algorithm, headers={"kid": kid})  # type: ignore[arg-type]
                assert refused(crossed) is Refusal.BAD_ALGORITHM


def test_p24_a_token_with_a_wrong_key_is_refused() -> None:
    assert refused(token(secret=OTHER_SECRET)) is Refusal.BAD_SIGNATURE
    assert refused(token(kid="other")) is Refusal.UNKNOWN_KEY
    assert refused(token(kid="")) is Refusal.UNKNOWN_KEY
    others: list[object] = [None, 5, ["hs"], {}]
    for kid in others:
        assert refused(token(kid=kid)) is Refusal.MALFORMED


def test_p24_a_token_without_kid_is_accepted_only_if_one_key_is_configured() -> None:
    bare = hs256({"alg": "HS256"}, CLAIMS)
    assert good(bare, auth=ONE_KEY).tenant == "acme"
    assert refused(bare) is Refusal.UNKNOWN_KEY
    assert refused(bare, auth=Authenticator(replace(POLICY, keys=()))) is Refusal.UNKNOWN_KEY


def test_p24_a_token_whose_claims_were_changed_is_refused() -> None:
    head, claims, signature = token().split(".")
    forged = b64(json.dumps(CLAIMS | {"org_id": "other"}).encode())
    assert refused(f"{head}.{forged}.{signature}") is Refusal.BAD_SIGNATURE
    rehead = b64(json.dumps({"alg": "HS256", "kid": "hs", "typ": "x"}).encode())
    assert refused(f"{rehead}.{claims}.{signature}") is Refusal.BAD_SIGNATURE


def test_p24_a_key_of_two_tenants_keeps_them_apart_by_the_claim() -> None:
    assert good(token(CLAIMS | {"org_id": "a"})).tenant != good(token(CLAIMS | {"org_id": "b"})).tenant
    other_claim = Authenticator(replace(POLICY, tenant_claim="team"))
    assert refused(token(), auth=other_claim) is Refusal.MISSING_CLAIM
    assert good(token(CLAIMS | {"team": "red"}), auth=other_claim).tenant == "red"


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}])
def test_p24_a_token_with_critical_extensions_is_refused(header: dict[str, Any]) -> None:
    assert refused(token(**header)) is Refusal.MALFORMED


def test_p24_a_token_expires_at_exp_plus_leeway_by_the_stores_time() -> None:
    end_ms = (NOW_S + 60) * 1_000 + LEEWAY_MS
    assert good(token(), now_ms=end_ms - 1).tenant == "acme"
    assert refused(token(), now_ms=end_ms) is Refusal.EXPIRED
    assert refused(token(), now_ms=end_ms + 1) is Refusal.EXPIRED
    assert refused(token(CLAIMS | {"exp": -1})) is Refusal.EXPIRED


def test_p24_a_token_is_not_valid_before_nbf_less_leeway() -> None:
    early = token(CLAIMS | {"nbf": NOW_S + 5})
    assert good(early).tenant == "acme"
    assert refused(early, now_ms=NOW_MS - 1) is Refusal.NOT_YET_VALID
    assert refused(token(CLAIMS | {"nbf": NOW_S + 5.001})) is Refusal.NOT_YET_VALID


@pytest.mark.parametrize("iat", [NOW_S + 86_400, "soon", None, 1e300])
def test_p12_a_token_made_by_a_worker_whose_clock_is_off_is_accepted(iat: object) -> None:
    assert good(token(CLAIMS | {"iat": iat})).tenant == "acme"


@pytest.mark.parametrize("claim", sorted(CLAIMS))
def test_p24_a_token_without_a_required_claim_is_refused(claim: str) -> None:
    less = {name: value for name, value in CLAIMS.items() if name != claim}
    assert refused(token(less)) is Refusal.MISSING_CLAIM


def test_p24_a_token_for_another_audience_or_of_another_issuer_is_refused() -> None:
    assert refused(token(CLAIMS | {"aud": "Lastseen"})) is Refusal.WRONG_AUDIENCE
    assert refused(token(CLAIMS | {"aud": ["a", "b"]})) is Refusal.WRONG_AUDIENCE
    assert refused(token(CLAIMS | {"aud": []})) is Refusal.WRONG_AUDIENCE
    assert good(token(CLAIMS | {"aud": ["a", "lastseen"]})).tenant == "acme"
    assert refused(token(CLAIMS | {"iss": "issuer/"})) is Refusal.WRONG_ISSUER


@pytest.mark.parametrize("other", ["lastseen-staging", "lastseen.example.org", "lastsee", "", "xlastseen", "lastseen "])
def test_p24_an_audience_that_begins_or_ends_with_ours_is_another_one(other: str) -> None:
    assert refused(token(CLAIMS | {"aud": other})) is Refusal.WRONG_AUDIENCE
    assert refused(token(CLAIMS | {"aud": ["a", other]})) is Refusal.WRONG_AUDIENCE


@pytest.mark.parametrize("other", ["issuer.example.org", "issue", "xissuer", "issuer "])
def test_p24_an_issuer_that_begins_or_ends_with_ours_is_another_one(other: str) -> None:
    assert refused(token(CLAIMS | {"iss": other})) is Refusal.WRONG_ISSUER


@pytest.mark.parametrize("other", ["hs-2", "h", "hs ", "HS"])
def test_p24_a_key_id_that_begins_with_one_of_ours_is_another_one(other: str) -> None:
    assert refused(token(kid=other)) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize(
    "scope", ["heartbeat:writer", "heartbeat:writ", "heartbeat", "xheartbeat:write", "admin:x", ""]
)
def test_p24_a_scope_that_begins_or_ends_with_another_is_not_that_one(scope: str) -> None:
    principal = good(token(CLAIMS | {"scope": scope}))
    for one in Scope:
        with pytest.raises(ScopeMissingError, match=one.value):
            principal.require(one)


@pytest.mark.parametrize("other", ["w", "w-10", "W-1", "w-1 ", "xw-1"])
def test_p24_a_worker_whose_id_begins_or_ends_with_that_of_the_token_is_another_one(other: str) -> None:
    principal = good(token(CLAIMS | {"worker_id": "w-1"}))
    principal.require_worker("w-1")
    assert principal.speaks_for("w-1")
    assert not principal.speaks_for(other)
    with pytest.raises(ForbiddenError, match="another worker"):
        principal.require_worker(other)


def test_an_audience_and_an_issuer_that_are_not_configured_are_not_checked() -> None:
    open_ = Authenticator(replace(POLICY, audience=None, issuer=None))
    assert good(token(CLAIMS | {"aud": 5, "iss": []}), auth=open_).tenant == "acme"


LONE = chr(0xD800)
WRONG: dict[str, list[object]] = {
    "exp": [True, "5", None, [], float("nan"), float("inf"), 1e300, 10**30, NOW_MS],
    "nbf": [False, "5", None, {}, float("nan"), -float("inf"), -1e300, NOW_MS],
    "aud": [5, None, {}, ["lastseen", 5], True],
    "iss": [5, None, ["issuer"]],
    "sub": ["", None, 5, [], "a\n", LONE],
    "org_id": ["", None, 5, ["acme"], "a\0", "a\x7f", "a\x85", LONE, "x" * 257],
    "scope": [None, ["heartbeat:write"], 5, {}],
    "worker_id": ["", None, 5, [], "a\n", "x" * 257],
    "environments": ["prod", None, [], [""], [5], ["prod", None], {}, ["a\n"], [LONE]],
}


@pytest.mark.parametrize(("claim", "value"), [(claim, value) for claim, values in WRONG.items() for value in values])
def test_p24_a_claim_of_a_wrong_type_or_value_is_refused(claim: str, value: object) -> None:
    assert refused(token(CLAIMS | {claim: value})) is Refusal.BAD_CLAIM


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "UserKey", "userkey"])
def test_both_schemes_are_taken_in_any_case(scheme: str) -> None:
    principal = AUTH.authenticate(authorization=f"{scheme}  {token()} ", user_key=None, now_ms=NOW_MS)
    assert principal.tenant == "acme"


def test_the_user_key_header_is_taken_and_must_agree_with_the_other() -> None:
    one, two = token(), token(CLAIMS | {"sub": "else"})
    assert AUTH.authenticate(authorization=None, user_key=one, now_ms=NOW_MS).subject == "deploy"
    assert AUTH.authenticate(authorization=f"Bearer {one}", user_key=one, now_ms=NOW_MS).subject == "deploy"
    assert reason(f"Bearer {one}", user_key=two) is Refusal.MALFORMED
    assert reason(f"Bearer {one}", user_key="") is Refusal.MALFORMED
    assert reason(f"Basic {one}", user_key=one) is Refusal.MALFORMED


def test_no_header_is_missing_and_every_other_form_malformed() -> None:
    assert reason(None) is Refusal.MISSING
    made = token()
    head, claims, signature = made.split(".")
    bad = [
        "",
        "Bearer",
        "Bearer ",
        made,
        f"Basic {made}",
        f"Bearer {made} {made}",
        f"Bearer,{made}",
        f"Bearer {made}.x",
    ]
    bad += [f"Bearer {head}.{claims}", f"Bearer {head}.{claims}.{signature}=", f"Bearer a{head}.{claims}.{signature}"]
    bad += [f"Bearer {head}.{claims}.{signature}\n", f"Bearer é.{claims}.{signature}", f"Bearer {LONE}"]
    assert {reason(one) for one in bad} == {Refusal.MALFORMED}


def test_a_token_that_is_good_for_too_long_is_refused() -> None:
    auth = Authenticator(replace(POLICY, max_lifetime_ms=3_600_000))
    hour = CLAIMS | {"iat": NOW_S - 60, "exp": NOW_S + 3_540}
    assert good(token(hour), auth=auth).tenant == "acme"
    assert refused(token(hour | {"exp": NOW_S + 3_541}), auth=auth) is Refusal.LIFETIME
    assert refused(token(hour | {"exp": 253_402_300_799}), auth=auth) is Refusal.LIFETIME
    # Without a time of issue it counts from now, and one to come lengthens nothing.
    without = {name: value for name, value in hour.items() if name != "iat"}
    assert good(token(without | {"exp": NOW_S + 3_600}), auth=auth).tenant == "acme"
    assert refused(token(without | {"exp": NOW_S + 3_601}), auth=auth) is Refusal.LIFETIME
    later = {"iat": NOW_S + 10**6, "exp": NOW_S + 10**6 + 60}
    assert refused(token(hour | later), auth=auth) is Refusal.LIFETIME


def test_tokens_issued_before_a_moment_are_refused_and_those_that_do_not_say_when() -> None:
    auth = Authenticator(replace(POLICY, not_before_ms=(NOW_S - 60) * 1_000))
    assert good(token(CLAIMS | {"iat": NOW_S - 60}), auth=auth).tenant == "acme"
    assert refused(token(CLAIMS | {"iat": NOW_S - 61}), auth=auth) is Refusal.ISSUED_TOO_EARLY
    without = {name: value for name, value in CLAIMS.items() if name != "iat"}
    strange: list[object] = [True, "5", None, [], float("nan"), 1e300, NOW_MS]
    for unreadable in (without, *(CLAIMS | {"iat": iat} for iat in strange)):
        assert refused(token(unreadable), auth=auth) is Refusal.MISSING_CLAIM
    # Nor is one of them evidence when it has expired as well.
    late = token(CLAIMS | {"iat": NOW_S - 61, "exp": NOW_S - 50})
    assert refused(late, auth=auth) is Refusal.ISSUED_TOO_EARLY


def test_a_token_over_16_kib_has_a_reason_of_its_own() -> None:
    sized = (token(CLAIMS | {"pad": "x" * size}) for size in range(11_500, 12_100))
    largest = max((made for made in sized if len(made) <= 16_384), key=len)
    assert 16_380 <= len(largest) <= 16_384
    assert good(largest).tenant == "acme"
    assert AUTH.authenticate(authorization=None, user_key=largest, now_ms=NOW_MS).tenant == "acme"
    for longer in (token(CLAIMS | {"pad": "x" * 12_100}), "a" * 16_385, "a" * 100_000):
        assert refused(longer) is Refusal.TOO_LONG
        assert reason(None, user_key=longer) is Refusal.TOO_LONG


def test_every_reason_has_words_that_say_what_is_wrong() -> None:
    words = {reason: str(UnauthenticatedError(reason)) for reason in Refusal}
    assert len(set(words.values())) == len(Refusal)
    assert words[Refusal.MISSING] == "no token: send the header 'Authorization: Bearer <token>'"
    assert "'Authorization: Bearer <token>'" in words[Refusal.MALFORMED]
    assert "16,384 bytes" in words[Refusal.TOO_LONG]


@pytest.mark.parametrize("claim", WRONG)
def test_a_claim_that_is_missing_or_wrong_is_named(claim: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        good(token(CLAIMS | {claim: WRONG[claim][0]}))
    assert str(caught.value) == f"the token has a claim of the wrong form: {claim!r}"
    if claim in {"exp", "aud", "iss", "sub", "org_id", "scope"}:
        with pytest.raises(UnauthenticatedError) as caught:
            good(token({name: value for name, value in CLAIMS.items() if name != claim}))
        assert str(caught.value) == f"the token lacks a claim: {claim!r}"


def test_p24_another_spelling_of_the_same_signature_is_refused() -> None:
    made = token()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(made[-1])
    other = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[last + 1]
    assert refused(made[:-1] + other) is Refusal.MALFORMED


@pytest.mark.parametrize(
    "data", [b"[]", b"5", b"", b"{", b"\xff", b"[" * 5_000, b"9" * 5_000, '{"a": 1}'.encode("utf-16")]
)
def test_a_header_or_claims_that_are_no_json_object_are_malformed(data: bytes) -> None:
    assert refused(hs256(data, CLAIMS)) is Refusal.MALFORMED
    assert refused(hs256({"alg": "HS256", "kid": "hs"}, data)) is Refusal.MALFORMED


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["acme", "", LONE, "hs", "HS256"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SIGNED_CLAIMS = st.dictionaries(
    st.sampled_from([*CLAIMS, "nbf", "iat", "worker_id", "environments"]) | st.text(max_size=5), JSON, max_size=5
)


def answered(auth: Authenticator, authorization: str | None, user_key: str | None) -> None:
    try:
        principal = auth.authenticate(authorization=authorization, user_key=user_key, now_ms=NOW_MS)
    except UnauthenticatedError:
        return
    names = [principal.subject, principal.tenant, *([principal.worker_id] if principal.worker_id else [])]
    assert all(name.encode() for name in [*names, *(principal.environments or ())])


@given(SIGNED_CLAIMS | JSON, st.booleans())
def test_any_signed_claims_give_a_principal_or_a_refusal(claims: object, complete: bool) -> None:  # noqa: FBT001 - drawn
    answered(AUTH, f"Bearer {token(CLAIMS | claims if complete and isinstance(claims, dict) else claims)}", None)


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), JSON) | JSON, st.binary())
def test_any_header_and_bytes_give_a_principal_or_a_refusal(header: object, data: bytes) -> None:
    for auth in (AUTH, ONE_KEY):
        answered(auth, f"Bearer {hs256(header, data)}", None)
        answered(auth, f"Bearer {hs256(data, CLAIMS)}", None)


@given(st.sampled_from(KEYS), st.binary(max_size=300))
def test_any_signature_is_refused(key: VerifyingKey, signature: bytes) -> None:
    signed = token(kid=key.kid, alg=key.algorithm).rpartition(".")[0]
    assert refused(f"{signed}.{b64(signature)}") is Refusal.BAD_SIGNATURE


ANY_TEXT = (
    st.text(st.characters()) | st.text(".-_= aA0", max_size=20) | st.text(st.characters()).map("Bearer {}".format)
)


@given(st.none() | ANY_TEXT, st.none() | ANY_TEXT)
def test_any_headers_are_refused_with_a_reason(authorization: str | None, user_key: str | None) -> None:
    assert reason(authorization, user_key=user_key) in Refusal


def test_no_scope_implies_another() -> None:
    for scope in Scope:
        principal = good(token(CLAIMS | {"scope": f"{scope.value}  unknown"}))
        principal.require(scope)
        for other in set(Scope) - {scope}:
            with pytest.raises(ForbiddenError, match=other.value):
                principal.require(other)


def test_p24_a_token_restricted_to_a_worker_acts_for_no_other() -> None:
    restricted = good(token(CLAIMS | {"worker_id": "w1"}))
    restricted.require_worker("w1")
    for other in ("w2", "", "W1", "w1 "):
        with pytest.raises(ForbiddenError):
            restricted.require_worker(other)
    good(token()).require_worker("any")


PRIVATE_PEM = ED25519.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
MISFITS: list[tuple[KeyAlgorithm, bytes]] = [
    ("HS256", SECRET[:31]),
    ("HS256", public_pem(RSA)),
    ("HS256", RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    ("HS256", b'{"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZg"}'),
    ("RS256", public_pem(P256)),
    ("RS256", SECRET),
    ("RS256", public_pem(rsa.generate_private_key(public_exponent=65_537, key_size=1_024))),  # noqa: S505 - what is refused
    ("ES256", public_pem(ED25519)),
    ("ES256", public_pem(ec.generate_private_key(ec.SECP384R1()))),
    ("EdDSA", public_pem(P256)),
    ("EdDSA", PRIVATE_PEM),
    ("EdDSA", b""),
]


@pytest.mark.parametrize(("algorithm", "material"), MISFITS)
def test_key_material_that_does_not_fit_its_algorithm_is_refused(algorithm: KeyAlgorithm, material: bytes) -> None:
    with pytest.raises(ValueError, match="'k1'") as caught:
        VerifyingKey(kid="k1", algorithm=algorithm, key=material)
    assert repr(material) not in str(caught.value) or not material


def test_a_key_does_not_show_its_material() -> None:
    assert "0123456789" not in f"{HS_KEY!r} {HS_KEY} {POLICY!r}"


def minted(**changes: Any) -> str:
    settings: dict[str, Any] = {
        "key": HS_KEY,
        "tenant": "acme",
        "tenant_claim": "org_id",
        "subject": "cli",
        "scopes": [Scope.ADMIN, Scope.HEARTBEAT_WRITE],
        "now_ms": NOW_MS,
        "expires_in_ms": 1_500,
        "audience": "lastseen",
        "issuer": "issuer",
        "token_id": "t-1",
    }
    return mint(**(settings | changes))


def test_a_minted_token_is_accepted_until_it_expires() -> None:
    made = minted(worker_id="w1", environments=("prod",))
    principal = good(made, now_ms=NOW_MS + 1_499 + LEEWAY_MS)
    assert principal == Principal(
        subject="cli",
        tenant="acme",
        scopes=frozenset({"admin", "heartbeat:write"}),
        worker_id="w1",
        environments=("prod",),
    )
    assert refused(made, now_ms=NOW_MS + 1_500 + LEEWAY_MS) is Refusal.EXPIRED
    assert jwt.get_unverified_header(made) == {"alg": "HS256", "kid": "hs", "typ": "JWT"}
    claims = jwt.decode(made, options={"verify_signature": False})
    assert (claims["iat"], claims["exp"], claims["jti"]) == (NOW_S, NOW_S + 1.5, "t-1")


@pytest.mark.parametrize(
    "change",
    [
        {"key": KEYS[1]},
        {"tenant": ""},
        {"tenant": "a\n"},
        {"tenant_claim": "exp"},
        {"tenant_claim": "aud"},
        {"subject": ""},
        {"worker_id": ""},
        {"environments": ()},
        {"environments": ("",)},
        {"expires_in_ms": 0},
        {"scopes": ["everything"]},
        {"subject": "x" * 16_000},
    ],
)
def test_a_token_that_would_be_refused_is_not_minted(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        minted(**change)


# What is remembered


def known(auth: Authenticator, credentials: str, *, now_ms: int = NOW_MS) -> Principal | None:
    return auth.known(auth.digest(credentials.encode()), now_ms=now_ms)


def test_p24_credentials_are_known_once_they_were_found_good_and_only_as_they_were_sent() -> None:
    auth = Authenticator(POLICY)
    credentials = f"Bearer {token()}"
    assert known(auth, credentials) is None
    principal = auth.authenticate(authorization=credentials, user_key=None, now_ms=NOW_MS)
    assert known(auth, credentials) == principal
    for other in (f"{credentials}x", credentials[:-1], credentials.lower(), token(), "", "Bearer"):
        assert known(auth, other) is None
    for user_key in (token(), "x"):  # a second header takes nothing from the memory
        with pytest.raises(UnauthenticatedError):
            auth.authenticate(authorization=f"{credentials}x", user_key=user_key, now_ms=NOW_MS)


def test_p24_what_was_refused_is_not_remembered() -> None:
    auth = Authenticator(POLICY)
    for wrong in (token(secret=OTHER_SECRET), token(CLAIMS | {"exp": NOW_S - 60}), token(CLAIMS | {"aud": "x"})):
        assert refused(wrong, auth=auth)
        assert known(auth, f"Bearer {wrong}") is None


def test_p24_a_token_is_known_no_longer_and_no_earlier_than_it_is_good() -> None:
    auth = Authenticator(POLICY)
    made = token(CLAIMS | {"nbf": NOW_S})
    good(made, auth=auth)
    first, end = NOW_MS - LEEWAY_MS, CLAIMS["exp"] * 1_000 + LEEWAY_MS
    for now_ms, expected in ((first - 1, False), (first, True), (end - 1, True), (end, False)):
        assert (known(auth, f"Bearer {made}", now_ms=now_ms) is not None) is expected
    assert refused(made, now_ms=end, auth=auth) is Refusal.EXPIRED
    assert refused(made, now_ms=first - 1, auth=auth) is Refusal.NOT_YET_VALID


def test_p24_other_keys_know_nothing_of_it() -> None:
    good(token(), auth=AUTH)
    assert known(Authenticator(replace(POLICY, keys=KEYS[1:])), f"Bearer {token()}") is None


def test_p28_a_bounded_number_is_remembered_and_the_oldest_goes_first() -> None:
    auth = Authenticator(POLICY, remembered=2)
    first, second, third = (token(CLAIMS | {"jti": name}) for name in "abc")
    for made in (first, second, second, third):
        good(made, auth=auth)
    assert [known(auth, f"Bearer {made}") is not None for made in (first, second, third)] == [False, True, True]


def test_before_any_answer_of_the_store_no_token_is_refused_for_its_lifetime() -> None:
    auth = Authenticator(replace(POLICY, max_lifetime_ms=3_600_000))
    for made in (CLAIMS, {name: value for name, value in CLAIMS.items() if name != "iat"}):
        assert good(token(made | {"exp": NOW_S + 60}), now_ms=0, auth=auth).tenant == "acme"
