"""An issuer's public keys: fetched when they are needed, kept while they are fresh, kept longer while the issuer is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import structlog
from msgspec import Struct

from policies.check_federation import url_problem
from policies.federation import Issuer
from policies.hosts import is_loopback, is_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]
log = structlog.get_logger("headgate.credentials")

FETCH_S = 5.0
"""For all that one refresh fetches, however slowly it comes."""

RETRY_S = 10.0
"""Between two refreshes, whatever asks for them: unknown key ids, or an issuer that is down."""

LARGEST = 256 * 1024
MOST_KEYS = 100
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}


class IssuerUnavailable(Exception):
    """There are no keys to check with: the issuer does not answer, and what it last said is too old."""


class FetchFailed(Exception):
    """The issuer did not answer, or with something that is no key set."""


class Key(Struct, frozen=True):
    """One public key, and the algorithms it may be used with."""

    kid: str | None
    algorithms: frozenset[str]
    public: Any


class KeySet:
    """The keys of one issuer, in one worker.

    Fresh ones are used as they are. From half their time on they are refreshed in the background, from the end of it a caller waits for the
    refresh; while the issuer is down the old ones serve for `jwks_stale_s` more. A key id that is not among them asks again, at most once in `RETRY_S`:
    a flood of invented ids costs the issuer nothing. One refresh runs at a time, and everybody waits for the same.
    """

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._asked_at: float | None = None
        self._failing = False
        self._refreshing: asyncio.Task[None] | None = None

    async def key(self, kid: str | None, algorithm: str) -> PublicKeyTypes | None:
        """The key with this id, for this algorithm; without an id, the only key for the algorithm. Raises `IssuerUnavailable`."""
        ttl = self._issuer.jwks_ttl_s
        age = self._age()
        if age is None or (age >= ttl and not self._failing):
            await self._refresh()
        elif age >= ttl / 2:
            self._start()
        age = self._age()
        if age is None or age >= ttl + self._issuer.jwks_stale_s:
            await self._refresh()
            age = self._age()
            if age is None or age >= ttl + self._issuer.jwks_stale_s:
                raise IssuerUnavailable
        found = self._find(kid, algorithm)
        if found is None and kid is not None and not any(key.kid == kid for key in self._keys):
            await self._refresh()
            found = self._find(kid, algorithm)
        return found

    async def aclose(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    def _age(self) -> float | None:
        return None if self._fetched_at is None else self._clock() - self._fetched_at

    def _find(self, kid: str | None, algorithm: str) -> PublicKeyTypes | None:
        fitting = [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid == kid)]
        return fitting[0].public if len(fitting) == 1 else None  # two of one name: nobody can tell which is meant

    async def _refresh(self) -> None:
        """Wait for a refresh, the running one or another; at once where it is too early for one. It goes on when the waiter is gone."""
        task = self._start()
        if task is not None:
            await asyncio.wait([task])

    def _start(self) -> asyncio.Task[None] | None:
        if self._refreshing is not None and not self._refreshing.done():
            return self._refreshing
        if self._asked_at is not None and self._clock() - self._asked_at < RETRY_S:
            return None
        self._asked_at = self._clock()
        self._refreshing = asyncio.create_task(self._ask())
        return self._refreshing

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                keys = read_keys(await self._fetch(self._issuer.jwks_url or await self._discover()), self._issuer.algorithms)
            if not keys:
                raise FetchFailed("no key of it can be used")
        except (FetchFailed, TimeoutError) as error:
            self._failing = True
            log.warning("issuer_unavailable", issuer=self._issuer.issuer, reason=str(error) or f"no answer within {FETCH_S:g} s")
        else:
            self._keys, self._fetched_at, self._failing = keys, self._clock(), False

    async def _discover(self) -> str:
        document = _json_object(await self._fetch(self._issuer.issuer.rstrip("/") + "/.well-known/openid-configuration"))
        if document.get("issuer") != self._issuer.issuer:
            raise FetchFailed("its discovery document is another issuer's")
        url = document.get("jwks_uri")
        # What an issuer outside names must not lead inside; http only where the issuer itself is this machine.
        here = urlsplit(self._issuer.issuer)
        inside = is_private(here.hostname or "")
        local = here.scheme == "http" and is_loopback(here.hostname or "")
        if not isinstance(url, str) or url_problem(url, inside) or (url.startswith("http:") and not local):
            raise FetchFailed("its discovery document names no https URL of keys, or one inside")
        return url


def read_keys(data: bytes, algorithms: tuple[str, ...]) -> tuple[Key, ...]:
    """The keys of a key set (RFC 7517) that can be used with these algorithms; what is not understood is passed over. Raises `FetchFailed`."""
    listed = _json_object(data).get("keys")
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise FetchFailed(f"it is no list of at most {MOST_KEYS} keys")
    found = (_read_key(each, algorithms) for each in listed if isinstance(each, dict))
    return tuple(key for key in found if key is not None)


def _read_key(jwk: dict[str, Any], allowed: tuple[str, ...]) -> Key | None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
    from jwt.exceptions import InvalidKeyError

    kid = jwk.get("kid")
    operations = jwk.get("key_ops")
    if "d" in jwk or "k" in jwk or jwk.get("use", "sig") != "sig" or not (kid is None or isinstance(kid, str)):
        return None
    if operations is not None and (not isinstance(operations, list) or "verify" not in operations):
        return None
    fitting = _fitting(jwk) & set(allowed)
    if "alg" in jwk:
        fitting &= {jwk["alg"]} if isinstance(jwk["alg"], str) else set()
    if not fitting:
        return None
    reader = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}[jwk["kty"]]
    try:
        public = reader.from_jwk(json.dumps(jwk))  # type: ignore[attr-defined]
    except (InvalidKeyError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError):
        return None
    if jwk["kty"] == "RSA" and not 2048 <= public.key_size <= 8192:
        return None
    return Key(kid, frozenset(fitting), public)


def _fitting(jwk: dict[str, Any]) -> set[str]:
    """The algorithms that a key's type and curve are for."""
    match jwk.get("kty"):
        case "RSA":
            return {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
        case "EC":
            return {algorithm for algorithm, curve in _CURVES.items() if curve == jwk.get("crv")}
        case "OKP" if jwk.get("crv") in ("Ed25519", "Ed448"):
            return {"EdDSA"}
        case _:
            return set()


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FetchFailed("it answers no JSON") from error
    if not isinstance(value, dict):
        raise FetchFailed("it answers no JSON object")
    return value


async def fetch(url: str) -> bytes:
    """The body of a GET: status 200, no redirect followed, at most `LARGEST` bytes, not compressed. Raises `FetchFailed`."""
    import aiohttp

    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            aiohttp.ClientSession(trust_env=True, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), headers=headers) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200 or response.headers.get("content-encoding", "identity") != "identity":
                raise FetchFailed(f"it answers {response.status}")
            body = b""
            async for chunk in response.content.iter_chunked(64 * 1024):
                body += chunk
                if len(body) > LARGEST:
                    raise FetchFailed(f"it answers more than {LARGEST} bytes")
            return body
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from error
