"""Who is asking: one credential in, a principal out, or a refusal in the same words whatever was wrong with it."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import structlog
from litestar.types import Scope

from config.database import Database
from config.networks import Address, Network, parse_address, parse_networks, within
from config.settings import Settings
from policies.access import Principal
from policies.claims import NoAccess, principal_of_certificate
from policies.federation import Identity
from router.credentials.certificates import BadCertificate, known_client
from router.credentials.issuers import TokenVerifier
from router.credentials.jws import BadToken, looks_like_token
from router.credentials.keyset import RETRY_S, IssuerUnavailable
from router.credentials.presented import LONGEST, Malformed, presented_key
from router.credentials.slowing import Slowing, TooMany
from router.http.errors import ApiError
from router.http.peer import client_address
from router.identity.holders import holder_id, on_record

if TYPE_CHECKING:
    from router.telemetry import Metrics

Keys: TypeAlias = Callable[[str, Callable[[], Address | None]], Awaitable[Principal | None]]
"""From one of our own keys to its principal. The client's address is asked for only where the key is bound to some."""

Reason: TypeAlias = Literal["missing", "malformed", "key", "token", "certificate", "no_access", "slowed", "issuer_unavailable"]

PEOPLE_SECONDS = 0.5
"""How long a worker believes what is on record of a token's holder."""

MOST_PEOPLE = 10_000
log = structlog.get_logger("headgate.credentials")


class _Refused(Exception):
    """The credential is none of anybody's; `detail` is for the log."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


class Door:
    """One worker's. It costs a known key two hashes; what is unknown is slowed by its address and, for our keys, by their first characters."""

    def __init__(
        self,
        *,
        keys: Keys,
        database: Database,
        secret: bytes,
        settings: Settings,
        identity: Callable[[], Identity],
        metrics: Metrics,
        verifier: TokenVerifier | None = None,
        slowing: Slowing | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._database = database
        self._service_secret = secret
        self._secret = hmac.digest(secret, b"credentials seen at the door", "sha256")
        self._trusted = parse_networks(settings.trusted_proxies)
        self._identity = identity
        self._metrics = metrics
        self._tokens = verifier or TokenVerifier(lambda: identity().issuers)
        self._slowing = slowing or Slowing(settings.auth_failures_per_minute)
        self._clock = clock
        self._people: dict[tuple[str, str], tuple[float, Principal, Principal | str]] = {}

    async def admit(self, scope: Scope) -> Principal:
        """The principal of a request. Raises `ApiError`: 401 for none, for a bad one and for what is no single credential, 403 for a genuine
        token without a role here, 429 for an address that guesses, 503 where an issuer's keys cannot be had.

        A forwarded certificate counts where there is no key or token, and is taken out of what later readers see unless a trusted proxy sent it.
        """
        certificates = self._identity().certificates
        if certificates is not None and not _from_proxy(scope, self._trusted):
            header = certificates.header.encode()
            scope["headers"] = [each for each in scope["headers"] if each[0] != header]
            certificates = None
        try:
            shown = presented_key(scope["headers"])
        except Malformed:
            return await self._guess(scope, None, self._malformed)
        if shown is not None:
            digest = hmac.digest(self._secret, shown.encode(), hashlib.sha256)
            if (principal := self._tokens.remembered(digest)) is not None:
                return await self._inside(scope, principal)
            return await self._guess(scope, digest, lambda: self._principal(scope, shown, digest), shown)
        if certificates is not None:
            try:
                client = known_client(certificates, scope["headers"], self._clock())
            except BadCertificate as error:
                raise self._refusal(scope, "certificate", str(error)) from error
            if client is not None:
                return await self._inside(scope, principal_of_certificate(client))
        self._metrics.auth_failed("missing")
        raise ApiError(401, "missing_api_key", "No API key: send 'Authorization: Bearer hg-...' or 'x-api-key: hg-...'.")

    def address(self, scope: Scope) -> str:
        """Who is counted as one sender."""
        return _place(client_address(scope, self._trusted))

    async def aclose(self) -> None:
        await self._tokens.aclose()

    async def _guess(self, scope: Scope, digest: bytes | None, decide: Callable[[], Awaitable[Principal]], shown: str = "") -> Principal:
        """Decide about a credential, unless its sender has been wrong too often."""
        names: tuple[str, ...] = ()
        if digest is None or not self._slowing.known_good(digest):
            names = (_place(client_address(scope, self._trusted)), *((f"key {shown[:7]}",) if shown.startswith("hg-") else ()))
        try:
            await self._slowing.enter(names, digest)
        except TooMany as error:
            self._metrics.auth_failed("slowed")
            wait = max(1, math.ceil(error.wait_s))
            message = f"Too many wrong keys came from your address. A key that worked before still does; try another in {wait} s."
            raise ApiError(429, "too_many_failures", message, headers={"retry-after": str(wait)}) from error
        good: bool | None = None
        try:
            principal = await decide()
            good = True
        except NoAccess as error:
            good = True
            raise self._no_access(scope, str(error)) from error
        except IssuerUnavailable as error:
            self._metrics.auth_failed("issuer_unavailable")
            message = "Your identity provider does not answer, so your token cannot be checked now. Try again, or use an API key."
            raise ApiError(503, "issuer_unavailable", message, headers={"retry-after": f"{RETRY_S:.0f}"}) from error
        except _Refused as error:
            good = False
            raise self._refusal(scope, error.reason, error.detail) from error
        finally:
            self._slowing.leave(names, digest, good)
            if digest is not None and good is not None:
                self._slowing.was(digest, good)
        return await self._inside(scope, principal)

    async def _malformed(self) -> Principal:
        raise _Refused("malformed")

    async def _principal(self, scope: Scope, shown: str, digest: bytes) -> Principal:
        if looks_like_token(shown) and self._tokens.any:
            try:
                return await self._tokens.principal(shown, digest)
            except BadToken as error:
                raise _Refused("token", str(error)) from error
        principal = await self._keys(shown, lambda: client_address(scope, self._trusted))
        if principal is None:
            raise _Refused("key")
        return principal

    async def _inside(self, scope: Scope, principal: Principal) -> Principal:
        """The principal as this service knows it: its tenant must be there, and where its user and team are on record, what stands there holds.

        (Keys' own look-up knows all that.) Whoever comes without a key of ours goes by an id that only the secret gives. Raises `ApiError` 403.
        """
        if principal.key_id.startswith("key_"):
            return principal
        if principal.platform:
            return self._called(principal)
        now, name = time.monotonic(), (principal.tenant, principal.key_id)
        known = self._people.get(name)
        if known is None or known[1] != principal or now - known[0] >= PEOPLE_SECONDS:
            found = await self._database.read(lambda connection: on_record(connection, self._called(principal), self._service_secret))
            if len(self._people) >= MOST_PEOPLE:
                self._people.clear()
            known = self._people[name] = (now, principal, found)
        if isinstance(known[2], str):
            raise self._no_access(scope, known[2])
        return known[2]

    def _called(self, principal: Principal) -> Principal:
        called = holder_id(self._service_secret, principal.key_id)
        return msgspec.structs.replace(principal, key_id=called, user=called)

    def _refusal(self, scope: Scope, reason: Reason, detail: str) -> ApiError:
        self._note(scope, reason, detail)
        if reason == "malformed":
            message = f"Send one API key or token of at most {LONGEST} printable ASCII characters, once: 'Authorization: Bearer ...' or 'x-api-key: ...'."
            return ApiError(401, "invalid_api_key", message)
        return ApiError(401, "invalid_api_key", "This API key is unknown, expired, revoked or not for use here. Ask your administrator for another.")

    def _no_access(self, scope: Scope, detail: str) -> ApiError:
        self._note(scope, "no_access", detail)
        return ApiError(403, "no_access", "Your token or certificate is genuine, but gives you no role here. Ask your administrator for access.")

    def _note(self, scope: Scope, reason: Reason, detail: str) -> None:
        """A metric, and a line in the log: never the credential, nor a part of it."""
        self._metrics.auth_failed(reason)
        address = client_address(scope, self._trusted)
        log.warning("auth_failed", reason=reason, detail=detail, address=str(address or ""), request_id=scope.get("state", {}).get("request_id"))


def _from_proxy(scope: Scope, trusted: Sequence[Network]) -> bool:
    """Whether the other end of the connection itself is a trusted proxy."""
    client = scope["client"]
    try:
        return client is not None and within(parse_address(client[0]), trusted)
    except ValueError:
        return False


def _place(address: Address | None) -> str:
    """Who is counted as one: an IPv4 address, or the /64 of an IPv6 one, all of which is one customer's."""
    if isinstance(address, IPv6Address):
        return f"from {IPv6Network((int(address) >> 64 << 64, 64))}"
    return f"from {address or 'this machine'}"
