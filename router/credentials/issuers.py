"""Bearer tokens that other issuers signed (OIDC, JWT): verified by the policy's `identity.issuers`, with a short memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from policies.access import Principal
from policies.claims import NoAccess, principal_of
from policies.federation import Issuer
from router.credentials.jws import BadToken, Jws, read_jws
from router.credentials.keyset import Fetch, IssuerUnavailable, KeySet, fetch

CACHE_SECONDS = 30.0
CACHE_ENTRIES = 10_000
REQUIRED = ("exp", "iat", "aud", "iss")


class TokenVerifier:
    """From a token to its principal. What is verified is remembered until it expires, for 30 s at most; a change of the issuers forgets it."""

    def __init__(
        self,
        issuers: Callable[[], dict[str, Issuer]],
        fetcher: Fetch = fetch,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`issuers` are those of the policy in force. `clock` is the time of day, which tokens speak of."""
        self._issuers = issuers
        self._fetch = fetcher
        self._clock = clock
        self._monotonic = monotonic
        self._seen: dict[str, Issuer] = {}
        self._keys: dict[str, KeySet] = {}
        self._cache: dict[bytes, tuple[float, Principal]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def any(self) -> bool:
        return bool(self._current())

    def remembered(self, digest: bytes) -> Principal | None:
        """The principal of a token that was verified a moment ago; `digest` is of the whole token."""
        self._current()
        found = self._cache.get(digest)
        return found[1] if found is not None and self._clock() < found[0] else None

    async def principal(self, token: str, digest: bytes) -> Principal:
        """Raises `BadToken`, `NoAccess` for a genuine token without a role here, and `IssuerUnavailable`."""
        if (known := self.remembered(digest)) is not None:
            return known
        jws = read_jws(token)
        issuers = self._current()
        name, issuer = self._chosen(issuers, jws)
        if jws.algorithm not in issuer.algorithms:
            raise BadToken("its algorithm is not allowed")
        key = await self._keys[name].key(jws.kid, jws.algorithm)
        if key is None:
            raise BadToken("its key is not among the issuer's")
        claims = self._verified(token, jws, key, issuer)
        principal = principal_of(name, issuer, claims)
        if self._issuers() is issuers:  # what was verified by issuers that are gone meanwhile is not remembered
            if len(self._cache) >= CACHE_ENTRIES:
                self._cache.clear()
            self._cache[digest] = (min(float(claims["exp"]), self._clock() + CACHE_SECONDS), principal)
        return principal

    async def aclose(self) -> None:
        for keys in self._keys.values():
            await keys.aclose()
        if self._closing:
            await asyncio.wait(self._closing)

    def _current(self) -> dict[str, Issuer]:
        """The issuers in force. An issuer that stayed the same keeps its keys; every result is forgotten with the change of one."""
        issuers = self._issuers()
        if issuers is not self._seen:
            if issuers != self._seen:
                self._cache.clear()
                kept = {name: self._keys[name] for name, issuer in issuers.items() if self._seen.get(name) == issuer}
                for name, keys in self._keys.items():
                    if name not in kept:
                        self._close(keys)
                self._keys = {name: kept.get(name) or KeySet(issuer, self._fetch, self._monotonic) for name, issuer in issuers.items()}
            self._seen = issuers
        return issuers

    def _close(self, keys: KeySet) -> None:
        task = asyncio.ensure_future(keys.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    @staticmethod
    def _chosen(issuers: dict[str, Issuer], jws: Jws) -> tuple[str, Issuer]:
        """The issuer whose name and audience the token carries; that it does so truly is still to be seen."""
        named = jws.claims.get("aud")
        audiences = {named} if isinstance(named, str) else {each for each in named if isinstance(each, str)} if isinstance(named, list) else set()
        for name, issuer in issuers.items():
            if issuer.issuer == jws.claims.get("iss") and audiences & set(issuer.audiences):
                return name, issuer
        raise BadToken("no issuer of the policy has its iss and aud")

    def _verified(self, token: str, jws: Jws, key: Any, issuer: Issuer) -> dict[str, Any]:
        """The claims, once the signature holds and the times and names are right."""
        import jwt

        try:
            # The times are looked at below, by our own clock.
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[jws.algorithm],
                audience=list(issuer.audiences),
                issuer=issuer.issuer,
                options={"require": list(REQUIRED), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.InvalidTokenError, jwt.InvalidKeyError, NotImplementedError, ValueError, TypeError) as error:
            raise BadToken(type(error).__name__) from error
        if claims != jws.claims:
            raise BadToken("it can be read in two ways")
        now = self._clock()
        if claims["exp"] + issuer.leeway_s <= now:
            raise BadToken("it is expired")
        if claims["iat"] - issuer.leeway_s > now or claims.get("nbf", 0) - issuer.leeway_s > now:
            raise BadToken("it is not valid yet")
        if not 0 < claims["exp"] - claims["iat"] <= issuer.max_lifetime_s:
            raise BadToken("it lives longer than the policy allows")
        if not isinstance(claims.get("sub"), str) or not claims["sub"]:
            raise BadToken("it has no subject")
        return claims


__all__ = ["BadToken", "IssuerUnavailable", "NoAccess", "TokenVerifier"]
