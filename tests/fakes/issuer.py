"""A small real issuer on loopback: keys made with cryptography, a discovery document, a key set, tokens; it rotates, goes down, is slow, lies."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
AUDIENCE = "headgate"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def b64(data: bytes | str | Mapping[str, Any]) -> str:
    """Bytes, text or an object as a part of a token."""
    raw = data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def public_jwk(key: PrivateKey, **members: Any) -> dict[str, Any]:
    """A key's public half, as a key set holds it."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        found = json.loads(RSAAlgorithm.to_jwk(public))
    elif isinstance(public, ec.EllipticCurvePublicKey):
        found = json.loads(ECAlgorithm.to_jwk(public))
    else:
        found = json.loads(OKPAlgorithm.to_jwk(public))
    return {key: value for key, value in found.items() if key != "key_ops"} | {"use": "sig"} | members


def public_pem(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class FakeIssuer:
    """`keys` is what it publishes, by key id. `answer`, where it is set, is the key set's body as it stands; `gate` holds every answer back."""

    url: str = ""
    keys: dict[str, PrivateKey] = field(default_factory=dict)
    answer: bytes | None = None
    discovery: dict[str, Any] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def fetches(self) -> int:
        """How often the key set was asked for."""
        return self.asked.count("/keys")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if self.gate is not None:
            await self.gate.wait()
        if request.path == "/.well-known/openid-configuration":
            return web.json_response(self.discovery if self.discovery is not None else {"issuer": self.url, "jwks_uri": f"{self.url}/keys"})
        if request.path != "/keys":
            return web.Response(status=404)
        keys = {"keys": [public_jwk(key, kid=kid) for kid, key in self.keys.items()]}
        body = self.answer if self.answer is not None else json.dumps(keys).encode()
        return web.Response(body=body, status=self.status, headers={"content-type": "application/json", **self.headers})

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims, with some changed; None takes one away."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, "groups": ["users"]}
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, kid: str = "one", *, algorithm: str = "RS256", headers: Mapping[str, Any] | None = None, key: Any = None, **changed: Any) -> str:
        """A token, signed with the published key `kid` unless another is given."""
        return jwt.encode(self.claims(**changed), key or self.keys[kid], algorithm=algorithm, headers={"kid": kid, **(headers or {})})


@asynccontextmanager
async def issuing(**keys: PrivateKey) -> AsyncIterator[FakeIssuer]:
    """An issuer that publishes these keys."""
    issuer = FakeIssuer(keys=dict(keys))
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield issuer
    finally:
        if issuer.gate is not None:
            issuer.gate.set()
        await runner.cleanup()
