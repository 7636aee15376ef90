"""Tokens of other issuers: what is accepted, and everything that is not."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from policies.access import Principal
from policies.claims import NoAccess
from policies.federation import ALGORITHMS, Issuer, RoleClaim
from router.credentials.issuers import CACHE_SECONDS, BadToken, TokenVerifier
from router.credentials.jws import looks_like_token, read_jws
from tests.fakes.issuer import AUDIENCE, FakeIssuer, PrivateKey, b64, issuing, public_jwk, public_pem, rsa_key

KEYS: dict[str, PrivateKey] = {
    "one": rsa_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "ed": ed25519.Ed25519PrivateKey.generate(),
}
KEY_OF = {"RS": "one", "PS": "one", "ES256": "p256", "ES384": "p384", "ES512": "p521", "EdDSA": "ed"}
OTHER = rsa_key()


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with issuing(**KEYS) as issuer:
        yield issuer


def spec(issuer: FakeIssuer, **changed: Any) -> Issuer:
    return Issuer(**{"issuer": issuer.url, "audience": AUDIENCE, "tenant": "acme", "role": "member", "algorithms": ALGORITHMS, "leeway_s": 0.0, **changed})


@pytest.fixture
async def verifier(issuer: FakeIssuer) -> AsyncIterator[TokenVerifier]:
    issuers = {"corp": spec(issuer)}
    verifier = TokenVerifier(lambda: issuers)
    yield verifier
    await verifier.aclose()


async def check(verifier: TokenVerifier, token: str) -> Principal:
    return await verifier.principal(token, hashlib.sha256(token.encode()).digest())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_algorithm_of_the_policy_is_verified_with_the_key_it_is_for(verifier: TokenVerifier, issuer: FakeIssuer, algorithm: str) -> None:
    kid = KEY_OF.get(algorithm) or KEY_OF[algorithm[:2]]
    principal = await check(verifier, issuer.token(kid, algorithm=algorithm))
    assert (principal.tenant, principal.role, principal.platform) == ("acme", "member", False)
    assert principal.user == principal.key_id
    assert len(principal.key_id) <= 40


async def test_a_person_is_the_same_in_every_token_and_another_at_another_issuer(verifier: TokenVerifier, issuer: FakeIssuer) -> None:
    first = await check(verifier, issuer.token(jti="1"))
    second = await check(verifier, issuer.token("p256", algorithm="ES256", jti="2"))
    third = await check(verifier, issuer.token(sub="bob"))
    assert first.user == second.user != third.user
    assert "ada" not in first.user


def _forged(issuer: FakeIssuer, header: Any, claims: Any = None, signature: bytes = b"x" * 256) -> str:
    return ".".join((b64(header), b64(claims if claims is not None else issuer.claims()), b64(signature)))


def _hmac(issuer: FakeIssuer, secret: bytes, algorithm: str = "HS256") -> str:
    text = f"{b64({'alg': algorithm, 'kid': 'one', 'typ': 'JWT'})}.{b64(issuer.claims())}"
    return f"{text}.{b64(hmac.digest(secret, text.encode(), 'sha256'))}"


def _signed(issuer: FakeIssuer, header: str | dict[str, Any], claims: str | dict[str, Any]) -> str:
    """By the real key over whatever text is given, as no library would write it."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    text = f"{b64(header)}.{b64(claims)}"
    key: Any = KEYS["one"]
    return f"{text}.{b64(key.sign(text.encode(), PKCS1v15(), SHA256()))}"


GOOD_HEADER = {"alg": "RS256", "kid": "one", "typ": "JWT"}
JWK_OTHER = public_jwk(OTHER, kid="one")


def _bad(issuer: FakeIssuer) -> dict[str, str]:
    """Every token here must be refused."""
    now = int(time.time())
    good = issuer.token()
    head, claims, signature = good.split(".")
    whole = json.dumps(issuer.claims())
    end = f'"exp": {json.loads(whole)["exp"]}'
    assert end in whole
    bad = {
        "none": _forged(issuer, {"alg": "none"}, signature=b"x"),
        "none, no signature": f"{b64({'alg': 'none'})}.{claims}.",
        "two parts": f"{head}.{claims}",
        "four parts": f"{good}.{signature}",
        "JWE": ".".join([b64({"alg": "RSA-OAEP", "enc": "A256GCM", "kid": "one"}), *[b64(b"x" * 16)] * 4]),
        "nested": issuer.token(headers={"cty": "JWT"}),
        "another signature": f"{head}.{claims}.{b64(b'x' * 256)}",
        "no signature": f"{head}.{claims}.",
        "other claims": f"{head}.{b64(issuer.claims(sub='root'))}.{signature}",
        "other key": issuer.token(key=OTHER),
        "HS256 with the PEM": _hmac(issuer, public_pem(KEYS["one"])),
        "HS256 with the JWK": _hmac(issuer, json.dumps(public_jwk(KEYS["one"], kid="one")).encode()),
        "HS256 with nothing": _hmac(issuer, b""),
        "HS256 called RS256": _hmac(issuer, public_pem(KEYS["one"]), "RS256"),
        "padding": f"{head}.{claims}.{signature}==",
        "a space": f"{head}. {claims}.{signature}",
        "repeated claim": _signed(issuer, GOOD_HEADER, whole[:-1] + ', "sub": "root"}'),
        "repeated header": _signed(issuer, '{"alg": "RS256", "kid": "one", "alg": "RS256"}', whole),
        "crit": _signed(issuer, {**GOOD_HEADER, "crit": ["exp"]}, whole),
        "crit b64": _signed(issuer, {**GOOD_HEADER, "crit": ["b64"], "b64": True}, whole),
        "embedded jwk": issuer.token(key=OTHER, headers={"jwk": JWK_OTHER}),
        "embedded jwk, genuine": issuer.token(headers={"jwk": public_jwk(KEYS["one"])}),
        "jku": issuer.token(key=OTHER, headers={"jku": f"{issuer.url}/evil"}),
        "x5u": issuer.token(key=OTHER, headers={"x5u": f"{issuer.url}/evil"}),
        "x5c": issuer.token(key=OTHER, headers={"x5c": [b64(b"x")]}),
        "logout token": _signed(issuer, {**GOOD_HEADER, "typ": "logout+jwt"}, whole),
        "typ is a list": _signed(issuer, {**GOOD_HEADER, "typ": ["JWT"]}, whole),
        "no algorithm": _signed(issuer, {"kid": "one"}, whole),
        "algorithm is a list": _signed(issuer, {"alg": ["RS256"], "kid": "one"}, whole),
        "not JSON": _signed(issuer, "{alg: RS256}", whole),
        "claims are a list": _signed(issuer, GOOD_HEADER, json.dumps([issuer.claims()])),
        "claims are text": _signed(issuer, GOOD_HEADER, '"ada"'),
        "deep": _signed(issuer, GOOD_HEADER, '{"a":' + "[" * 3000 + "]" * 3000 + "}"),
        "NaN": _signed(issuer, GOOD_HEADER, whole[:-1] + ', "nbf": NaN}'),
        "infinite": _signed(issuer, GOOD_HEADER, whole.replace(end, '"exp": 1e999')),
        "a number of 5000 digits": _signed(issuer, GOOD_HEADER, whole[:-1] + ', "n": ' + "9" * 5000 + "}"),
        "UTF-16": f"{head}.{b64(whole.encode('utf-16'))}.{signature}",
        "expired": issuer.token(iat=now - 700, exp=now - 1),
        "expires as text": _signed(issuer, GOOD_HEADER, issuer.claims(exp=str(now + 600))),
        "expires as true": _signed(issuer, GOOD_HEADER, issuer.claims(exp=True)),
        "expires far away": issuer.token(exp=now + 86_500),
        "expires in the year 10000": issuer.token(exp=253_402_300_800),
        "expires before it begins": issuer.token(iat=now, exp=now),
        "not yet": issuer.token(nbf=now + 60),
        "issued in the future": issuer.token(iat=now + 60, exp=now + 120),
        "nbf is text": _signed(issuer, GOOD_HEADER, issuer.claims(nbf="now")),
        "audience": issuer.token(aud="somebody-else"),
        "audience in other case": issuer.token(aud=AUDIENCE.upper()),
        "audiences": issuer.token(aud=["a", "b"]),
        "audience is a table": _signed(issuer, GOOD_HEADER, issuer.claims(aud={AUDIENCE: True})),
        "audience beside a number": _signed(issuer, GOOD_HEADER, issuer.claims(aud=[AUDIENCE, 1])),
        "issuer": issuer.token(iss="https://evil.example"),
        "issuer with a slash": issuer.token(iss=issuer.url + "/"),
        "issuer is a list": _signed(issuer, GOOD_HEADER, issuer.claims(iss=[issuer.url])),
        "subject is a number": _signed(issuer, GOOD_HEADER, issuer.claims(sub=1)),
        "subject is empty": issuer.token(sub=""),
        "a key for another algorithm": issuer.token("p256", algorithm="RS256", key=KEYS["one"]),
        "huge kid": issuer.token(headers={"kid": "k" * 300}),
        "empty": "..",
        "dots": "." * 50,
    }
    for kid in ("../../etc/passwd", "' OR 1=1 --", "one\x00", "ONE", "one ", "http://127.0.0.1:1/", "", "${jndi:ldap://x}", "k" * 256):
        bad[f"kid {kid[:20]!r}"] = issuer.token(headers={"kid": kid})
    for value in (1, None, ["one"], {"a": 1}):
        bad[f"kid {value!r}"] = _signed(issuer, {**GOOD_HEADER, "kid": value}, whole)
    for missing in ("exp", "iat", "aud", "iss", "sub"):
        bad[f"no {missing}"] = issuer.token(**{missing: None})
    for algorithm in ("None", "NONE", "nOnE", "", "rs256", "Rs256", "HS256", "HS384", "HS512", "hs256", "RS256 ", "RS1", "ES256K", "dir", "../RS256"):
        bad[f"alg {algorithm!r}"] = _signed(issuer, {"alg": algorithm, "kid": "one"}, whole)
    return bad


async def test_every_bad_token_is_refused_as_bad(verifier: TokenVerifier, issuer: FakeIssuer) -> None:
    await check(verifier, issuer.token())
    await check(verifier, _signed(issuer, GOOD_HEADER, issuer.claims()))  # what the others here differ from
    fetched = issuer.fetches
    accepted, told = [], []
    for name, token in _bad(issuer).items():
        try:
            await check(verifier, token)
        except BadToken as error:
            told.append(str(error))
        else:
            accepted.append(name)
    assert accepted == []
    assert "ada" not in " ".join(told)
    assert issuer.fetches == fetched, "unknown key ids ask an issuer that was asked a moment ago no more"
    assert set(issuer.asked) == {"/.well-known/openid-configuration", "/keys"}, "no address of a token is ever asked"


@given(st.integers(0, 2**31), st.integers(0, 7))
async def test_a_token_with_one_bit_changed_is_refused(place: int, bit: int) -> None:
    key = KEYS["p256"]
    issuer = FakeIssuer(url="https://issuer.example", keys={"p256": key})
    issuers = {"corp": spec(issuer, jwks_url="https://issuer.example/keys")}

    async def fetch(_url: str) -> bytes:
        return json.dumps({"keys": [public_jwk(key, kid="p256")]}).encode()

    verifier = TokenVerifier(lambda: issuers, fetch)
    token = issuer.token("p256", algorithm="ES256")
    await check(verifier, token)
    raw = bytearray(token.encode())
    raw[place % len(raw)] ^= 1 << bit
    with pytest.raises((BadToken, NoAccess)):
        await check(verifier, raw.decode("latin-1"))


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,5}", fullmatch=True))
def test_any_text_is_a_bad_token_and_nothing_else(text: str) -> None:
    looks_like_token(text)
    with pytest.raises(BadToken):
        read_jws(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    )
)
async def test_any_json_for_any_claim_is_an_answer_and_never_a_crash(value: Any) -> None:
    key = KEYS["ed"]
    issuer = FakeIssuer(url="https://issuer.example", keys={"ed": key})
    issuers = {"corp": spec(issuer, jwks_url="https://issuer.example/keys", role=RoleClaim(claim=("a", "b"), map={"x": "member"}), require={"azp": "me"})}

    async def fetch(_url: str) -> bytes:
        return json.dumps({"keys": [public_jwk(key, kid="ed")]}).encode()

    verifier = TokenVerifier(lambda: issuers, fetch)
    for name in ("exp", "iat", "nbf", "aud", "iss", "sub", "jti", "azp", "a"):
        claims = b64(json.dumps(issuer.claims(azp="me", a={"b": "y"}) | {name: value}))
        head = b64({"alg": "EdDSA", "kid": "ed"})
        signature = key.sign(f"{head}.{claims}".encode())  # type: ignore[union-attr, call-arg]
        with pytest.raises((BadToken, NoAccess)):
            await check(verifier, f"{head}.{claims}.{b64(signature)}")


async def test_the_leeway_is_for_clocks_that_differ_and_no_more(issuer: FakeIssuer) -> None:
    now = [float(int(time.time()))]
    issuers = {"corp": spec(issuer, leeway_s=30.0)}
    verifier = TokenVerifier(lambda: issuers, clock=lambda: now[0])
    token = issuer.token(iat=int(now[0]) + 20, nbf=int(now[0]) + 25, exp=int(now[0]) + 100)
    await check(verifier, token)
    now[0] += 129
    await check(verifier, token)
    now[0] += 2
    with pytest.raises(BadToken, match="expired"):
        await check(verifier, token)
    await verifier.aclose()


async def test_a_verified_token_is_remembered_until_it_expires_and_for_thirty_seconds_at_most(issuer: FakeIssuer) -> None:
    now = [time.time()]
    issuers = {"corp": spec(issuer)}
    verifier = TokenVerifier(lambda: issuers, clock=lambda: now[0])
    short, long = issuer.token(exp=int(now[0]) + 5), issuer.token(exp=int(now[0]) + 300)
    digests = {token: hashlib.sha256(token.encode()).digest() for token in (short, long)}
    for token, digest in digests.items():
        await verifier.principal(token, digest)
    assert all(verifier.remembered(digest) for digest in digests.values())
    now[0] += 5
    assert verifier.remembered(digests[short]) is None
    assert verifier.remembered(digests[long]) is not None
    with pytest.raises(BadToken, match="expired"):
        await verifier.principal(short, digests[short])
    now[0] += CACHE_SECONDS
    assert verifier.remembered(digests[long]) is None
    await verifier.aclose()


async def test_a_change_of_an_issuer_forgets_what_it_vouched_for(issuer: FakeIssuer) -> None:
    current = {"corp": spec(issuer)}
    verifier = TokenVerifier(lambda: current)
    token = issuer.token()
    assert (await check(verifier, token)).role == "member"
    current = {"corp": msgspec.structs.replace(current["corp"], role="service")}
    assert (await check(verifier, token)).role == "service"
    current = {}
    with pytest.raises(BadToken):
        await check(verifier, token)
    await verifier.aclose()


async def test_of_two_entries_for_one_issuer_the_audience_decides(issuer: FakeIssuer) -> None:
    issuers = {"a": spec(issuer, audience="a", tenant="acme"), "b": spec(issuer, audience="b", tenant="globex")}
    verifier = TokenVerifier(lambda: issuers)
    assert (await check(verifier, issuer.token(aud="b"))).tenant == "globex"
    assert (await check(verifier, issuer.token(aud=["x", "a"]))).tenant == "acme"
    await verifier.aclose()


async def test_a_thousand_tokens_at_once_fetch_the_keys_once(verifier: TokenVerifier, issuer: FakeIssuer) -> None:
    issuer.gate = asyncio.Event()
    tokens = [issuer.token("p256", algorithm="ES256", jti=str(number)) for number in range(100)]
    running = [asyncio.create_task(check(verifier, token)) for token in tokens]
    running[0].cancel()  # who gives up takes nobody with it
    issuer.gate.set()
    assert all(isinstance(done, Principal) for done in (await asyncio.gather(*running, return_exceptions=True))[1:])
    assert issuer.fetches == 1
