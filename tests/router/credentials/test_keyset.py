"""An issuer's keys: fresh, stale, rotated, and while the issuer is ill."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from policies.federation import Issuer
from router.credentials import keyset
from router.credentials.keyset import LARGEST, RETRY_S, FetchFailed, IssuerUnavailable, KeySet, fetch, read_keys
from tests.fakes.issuer import FakeIssuer, issuing, public_jwk, rsa_key
from tests.serving import until

ONE, TWO = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa_key()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with issuing(one=ONE) as issuer:
        yield issuer


@pytest.fixture
async def keys(issuer: FakeIssuer, clock: Clock) -> AsyncIterator[KeySet]:
    spec = Issuer(issuer=issuer.url, audience="a", tenant="t", role="member", jwks_ttl_s=300.0, jwks_stale_s=600.0)
    keys = KeySet(spec, fetch, clock)
    yield keys
    await keys.aclose()


async def test_a_new_key_counts_as_soon_as_a_token_names_it_and_an_old_one_goes(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    assert await keys.key("one", "ES256") is not None
    issuer.keys = {"two": TWO}
    clock.now += RETRY_S
    assert await keys.key("two", "ES256") is not None
    assert await keys.key("one", "ES256") is None
    assert issuer.fetches == 2


async def test_a_flood_of_key_ids_asks_the_issuer_once_in_ten_seconds(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    await keys.key("one", "ES256")
    for step in range(200):
        clock.now += 0.1
        assert await keys.key(f"invented-{step}", "ES256") is None
    assert issuer.fetches <= 1 + 200 * 0.1 / RETRY_S


async def test_keys_are_refreshed_in_the_background_before_their_time_is_over(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    await keys.key("one", "ES256")
    clock.now += 151
    issuer.gate = asyncio.Event()
    assert await keys.key("one", "ES256") is not None  # does not wait
    issuer.gate.set()
    await until(lambda: issuer.fetches == 2)


async def test_a_withdrawn_key_is_dead_once_its_time_is_over(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    await keys.key("one", "ES256")
    issuer.keys = {"two": TWO}
    clock.now += 301
    assert await keys.key("one", "ES256") is None


async def test_old_keys_serve_while_the_issuer_is_down_and_not_for_ever(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    await keys.key("one", "ES256")
    issuer.status = 503
    clock.now += 301
    assert await keys.key("one", "ES256") is not None
    asked = len(issuer.asked)
    assert await keys.key("one", "ES256") is not None
    assert len(issuer.asked) == asked
    clock.now += 600
    with pytest.raises(IssuerUnavailable):
        await keys.key("one", "ES256")
    issuer.status = 200
    clock.now += RETRY_S
    assert await keys.key("one", "ES256") is not None


async def test_an_issuer_that_is_down_from_the_start_is_asked_once_in_ten_seconds(keys: KeySet, issuer: FakeIssuer, clock: Clock) -> None:
    issuer.status = 500
    for _ in range(50):
        with pytest.raises(IssuerUnavailable):
            await keys.key("one", "ES256")
    assert issuer.fetches == 1


ILL: dict[str, dict[str, Any]] = {
    "garbage": {"answer": b"<html>login</html>"},
    "a list": {"answer": b"[]"},
    "no list of keys": {"answer": b'{"keys": {}}'},
    "no keys": {"answer": b'{"keys": []}'},
    "only keys that are none": {"answer": json.dumps({"keys": [1, {}, {"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}).encode()},
    "too many keys": {"answer": json.dumps({"keys": [public_jwk(ONE, kid=str(number)) for number in range(101)]}).encode()},
    "deep": {"answer": b'{"keys":' + b"[" * 100_000},
    "huge": {"answer": b" " * (LARGEST + 1)},
    "redirect": {"status": 302, "headers": {"location": "/elsewhere"}},
    "not found": {"status": 404},
    "compressed": {"answer": gzip.compress(b" " * 10_000_000), "headers": {"content-encoding": "gzip"}},
    "another's discovery": {"discovery": {"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"}},
    "no address": {"discovery": {"issuer": ""}},
}


@pytest.mark.parametrize("ill", ILL)
async def test_an_answer_that_is_no_key_set_changes_nothing(keys: KeySet, issuer: FakeIssuer, clock: Clock, ill: str) -> None:
    assert await keys.key("one", "ES256") is not None
    for name, value in ILL[ill].items():
        setattr(issuer, name, value)
    issuer.keys = {"two": TWO}
    clock.now += 301
    assert await keys.key("one", "ES256") is not None
    clock.now += RETRY_S
    assert await keys.key("two", "ES256") is None
    assert "/elsewhere" not in issuer.asked


async def test_an_issuer_that_answers_too_slowly_is_down(keys: KeySet, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset, "FETCH_S", 0.05)
    issuer.gate = asyncio.Event()
    with pytest.raises(IssuerUnavailable):
        await keys.key("one", "ES256")


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/keys",
        "https://127.0.0.1/keys",
        "https://169.254.169.254/latest",
        "https://localhost/",
        "file:///etc/passwd",
        "https://a:b@issuer.example/",
        7,
        None,
        "http://127.0.0.1:1/keys",
        "https://[::ffff:10.0.0.1]/",
        "https://metadata.internal/",
        "gopher://issuer.example/",
    ],
)
async def test_what_an_issuer_outside_names_never_leads_inside(url: object) -> None:
    asked = []

    async def answer(wanted: str) -> bytes:
        asked.append(wanted)
        return json.dumps({"issuer": "https://issuer.example", "jwks_uri": url}).encode()

    keys = KeySet(Issuer(issuer="https://issuer.example", audience="a", tenant="t", role="member"), answer)
    with pytest.raises(IssuerUnavailable):
        await keys.key("one", "ES256")
    assert asked == ["https://issuer.example/.well-known/openid-configuration"]


def test_only_keys_that_may_check_signatures_and_are_strong_enough_are_taken() -> None:
    listed: list[Any] = [
        public_jwk(ONE, kid="good"),
        public_jwk(ONE, kid="for another use", use="enc"),
        public_jwk(ONE, kid="signs only", key_ops=["sign"]),
        public_jwk(ONE, kid="other algorithm", alg="ES384"),
        public_jwk(ONE, kid="algorithm is a list", alg=["ES256"]),
        public_jwk(ONE, kid="private", d="AAAA"),
        public_jwk(ONE, kid=5),
        public_jwk(ONE, kid="no point", x="AAAA"),
        public_jwk(ONE, kid="unknown curve", crv="secp256k1"),
        public_jwk(RSA, kid="rsa"),
        public_jwk(RSA, kid="rsa for one", alg="RS256"),
        public_jwk(RSA, kid="exponent", e="AQ"),
        public_jwk(rsa_key(1024), kid="short"),
        {"kty": "RSA", "kid": "empty"},
        {"kty": ["RSA"], "kid": "kind"},
        {"kty": "oct", "k": "AAAA", "kid": "symmetric"},
        "text",
        None,
    ]
    found = {key.kid: key.algorithms for key in read_keys(json.dumps({"keys": listed}).encode(), ("ES256", "RS256", "PS256"))}
    assert found == {"good": {"ES256"}, "rsa": {"RS256", "PS256"}, "rsa for one": {"RS256"}}


async def test_without_a_key_id_the_only_key_that_fits_is_the_one(clock: Clock) -> None:
    published = [public_jwk(ONE, kid="one"), public_jwk(RSA)]

    async def answer(_url: str) -> bytes:
        return json.dumps({"keys": published}).encode()

    keys = KeySet(Issuer(issuer="https://i.example", jwks_url="https://i.example/k", audience="a", tenant="t", role="member"), answer, clock)
    assert await keys.key(None, "ES256") is not None
    assert await keys.key(None, "RS256") is not None
    published.append(public_jwk(TWO, kid="two"))
    clock.now += 301
    assert await keys.key(None, "ES256") is None
    published.append(public_jwk(TWO, kid="one"))
    clock.now += 301
    assert await keys.key("one", "ES256") is None  # two of one name


async def test_a_port_that_nobody_listens_on_is_a_failure_and_not_a_crash() -> None:
    with pytest.raises(FetchFailed):
        await fetch("http://127.0.0.1:1/keys")
