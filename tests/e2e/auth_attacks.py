"""Requests that must not be let in, as bytes: credentials, headers, hosts, paths, and what a fuzzer makes of them."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator, Sequence
from random import Random
from urllib.parse import quote, urlsplit

from msgspec import Struct

Header = tuple[bytes, bytes]
PROTECTED = ("/v1/models", "/admin/policy", "/admin/keys", "/admin/tenants", "/admin/ledger", "/metrics", "/v1/files", "/v1/chat/completions")
SQL = (
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE keys; --",
    '" OR ""="',
    "hg-' UNION SELECT * FROM keys --",
    "%' AND role='operator",
    "1; SELECT pg_sleep(9)--",
    "\\'; --",
    "') OR hash LIKE '%",
    "{{7*7}}${7*7}",
    "*",
    "_",
    "%",
    "null",
    "undefined",
    "[object Object]",
    "true",
    "0",
    "../../var/secret",
)


class Attack(Struct, frozen=True):
    """One connection's bytes. `name` is for the report."""

    name: str
    data: bytes


class Answer(Struct, frozen=True):
    """Every status that came back, in order, and the rest as it came."""

    statuses: tuple[int, ...]
    raw: bytes

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


def request(
    target: bytes, headers: Sequence[Header] = (), method: bytes = b"GET", host: bytes | None = b"headgate", body: bytes = b"", version: bytes = b"1.1"
) -> bytes:
    lines = [method + b" " + target + b" HTTP/" + version]
    lines += [b"Host: " + host] if host is not None else []
    lines += [name + b": " + value for name, value in headers]
    lines += [b"Connection: close", b"Content-Length: %d" % len(body)] if body or method == b"POST" else [b"Connection: close"]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def send(url: str, data: bytes, seconds: float = 30.0) -> Answer:
    """Send bytes over a connection of their own and read until it is closed."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(seconds):
            writer.write(data)
            try:
                await writer.drain()
                raw = await reader.read()
            except ConnectionError:
                raw = b""
    finally:
        writer.close()
    return Answer(tuple(int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", raw)), raw)


def bearer(token: bytes) -> list[Header]:
    return [(b"Authorization", b"Bearer " + token)]


def wrong_keys(key: str) -> Iterator[tuple[str, bytes]]:
    """What is near a real key, and what is in no key at all."""
    swapped = "".join("b" if each == "a" else "a" for each in key[3:])
    for name, text in {
        "empty": "",
        "prefix": key[:7],
        "half": key[:23],
        "all but the last": key[:-1],
        "all but the first": key[1:],
        "one more": key + "a",
        "the last changed": key[:-1] + ("a" if key[-1] != "a" else "b"),
        "the first changed": key[:3] + ("a" if key[3] != "a" else "b") + key[4:],
        "upper case": key.upper(),
        "swapped": "hg-" + swapped,
        "reversed": key[::-1],
        "twice": key + key,
        "quoted": f'"{key}"',
        "percent": quote(key, safe="").replace("-", "%2D"),
        "base64": base64.b64encode(key.encode()).decode(),
        "with a comma": key + ",",
        "with a semicolon": key + ";q=1",
        "with another": f"{key},hg-other",
        "basic": base64.b64encode(f":{key}".encode()).decode(),
        "with a dot": key + ".",
        "as a token": f"{base64.urlsafe_b64encode(b'{}').decode()}.{key}.x",
        "huge": "hg-" + "a" * 20_000,
        "as long as may be": "a" * 8192,
        "huge and dotted": "eyJ." * 2000,
    }.items():
        yield name, text.encode()
    for text in SQL:
        yield f"SQL {text}", text.encode()
    for name, raw in {
        "NUL": key.encode()[:10] + b"\x00" + key.encode()[10:],
        "NUL after": key.encode() + b"\x00",
        "tab inside": key.encode()[:10] + b"\t" + key.encode()[10:],
        "delete": key.encode() + b"\x7f",
        "Latin-1": key.encode() + b"\xe9",
        "UTF-8": key.encode() + "é".encode(),
        "not UTF-8": b"\xff\xfe" + key.encode(),
        "UTF-16": key.encode("utf-16"),
        "wide": key.replace("-", "\uff0d").encode(),
        "zero width": key.encode() + "\u200b".encode(),
        "form feed": b"\x0c" + key.encode(),
        "only controls": bytes(range(1, 9)),
    }.items():
        yield name, raw


def misplaced(key: str) -> Iterator[Attack]:
    """A real key where no key is looked for."""
    raw = key.encode()
    path = b"/v1/models"
    for header in (
        b"Proxy-Authorization",
        b"X-Authorization",
        b"X-Forwarded-Authorization",
        b"Api-Key",
        b"X_Api_Key",
        b"Authorization2",
        b"X-Goog-Api-Key",
        b"X-Original-Authorization",
    ):
        yield Attack(f"in {header.decode()}", request(path, [(header, b"Bearer " + raw), (header, raw)]))
    for scheme in (b"Basic ", b"Digest ", b"Token ", b"bearer:", b"Bearer\t", b"Bearer=", b"", b"Bearer Bearer ", b"Bearer\xa0", b"apikey ", b"Negotiate "):
        yield Attack(f"scheme {scheme!r}", request(path, [(b"Authorization", scheme + raw)]))
    yield Attack("basic", request(path, [(b"Authorization", b"Basic " + base64.b64encode(b":" + raw))]))
    yield Attack("cookie", request(path, [(b"Cookie", b"authorization=Bearer " + raw + b"; x-api-key=" + raw)]))
    for query in (b"api_key=", b"key=", b"access_token=", b"x-api-key=", b"authorization=Bearer%20"):
        yield Attack(f"query {query!r}", request(path + b"?" + query + raw))
    yield Attack("in the URL", request(b"http://user:" + raw + b"@headgate/v1/models"))
    yield Attack("in the body", request(b"/v1/chat/completions", method=b"POST", body=b'{"api_key": "' + raw + b'"}'))
    yield Attack("twice", request(path, [*bearer(raw), *bearer(raw)]))
    yield Attack("twice in the other", request(path, [(b"X-Api-Key", raw), (b"x-api-key", raw)]))
    yield Attack("right, then wrong", request(path, [*bearer(raw), *bearer(b"hg-wrong")]))
    yield Attack("wrong, then right", request(path, [*bearer(b"hg-wrong"), *bearer(raw)]))
    yield Attack("basic, then right", request(path, [(b"Authorization", b"Basic eDp5"), *bearer(raw)]))
    yield Attack("right and a wrong x-api-key", request(path, [*bearer(raw), (b"x-api-key", b"hg-wrong")]))
    yield Attack("wrong and a right x-api-key", request(path, [*bearer(b"hg-wrong"), (b"x-api-key", raw)]))


OPEN = (b"/health", b"/health/live", b"/docs", b"/schema", b"/schema/openapi.json", b"")
_STEPS = (
    b"/../",
    b"/./../",
    b"/%2e%2e/",
    b"/%2E%2e/",
    b"/..%2f",
    b"/%2e%2e%2f",
    b"/..;/",
    b"/%252e%252e/",
    b"/..%5c",
    b"/..\\",
    b"//../",
    b"/.%2e/",
    b"/\xc0\xae\xc0\xae/",
    b"/..%00/",
)


def path_tricks() -> Iterator[Attack]:
    """Paths that one reader may take for an open one, and another for a protected one."""
    for target in (b"/admin/policy", b"/admin/keys", b"/v1/models", b"/metrics"):
        bare = target[1:]
        for start in OPEN:
            for step in _STEPS:
                yield Attack(f"{start.decode()}{step!r}{bare.decode()}", request(start + step + bare))
        for written in (
            b"/" + target,
            b"//" + target,
            b"/." + target,
            b"/%2f" + bare,
            b"/%2e" + target,
            target + b"/",
            target + b"//",
            target + b"/.",
            target + b"/health",
            target + b"/../health",
            target + b";/health",
            target + b";x=1",
            target + b"?/health",
            target + b"%00",
            target + b"%20",
            target + b"%09",
            target + b"#/health",
            target + b"?path=/health",
            target.upper(),
            target.replace(b"a", b"%61").replace(b"m", b"%6d"),
            target.replace(b"/", b"\\"),
            target.replace(b"/", b"%2f"),
            b"http://headgate" + target,
            b"http://headgate/health/.." + target,
            b"HTTP://headgate:80" + target,
            b"https://127.0.0.1" + target,
            b"http:///" + bare,
            b"//health" + target,
            b"//docs/.." + target,
            b"health" + target,
            b"*",
            b"/*",
            b"/health" + target,
            b"/docs" + target,
            b"/schema" + target,
            b"/health?" + target,
        ):
            yield Attack(f"target {written!r}", request(written))
        for name in (
            b"X-Original-URL",
            b"X-Rewrite-URL",
            b"X-Forwarded-Path",
            b"X-Forwarded-Prefix",
            b"X-Forwarded-Uri",
            b"X-Script-Name",
            b"X-Envoy-Original-Path",
        ):
            yield Attack(f"{name.decode()} open", request(target, [(name, b"/health")]))
            yield Attack(f"{name.decode()} protected", request(b"/v1/nothing", [(name, target)]))
    for method in (b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"get", b"GE\x54\x00", b"PROPFIND", b"POST"):
        yield Attack(f"method {method!r}", request(b"/admin/policy", method=method))
        yield Attack(
            f"override {method!r}",
            request(b"/admin/keys", [(b"X-HTTP-Method-Override", method), (b"X-Method-Override", method), (b"X-HTTP-Method", method)], b"POST"),
        )


def host_tricks() -> Iterator[Attack]:
    """Hosts and addresses that somebody might take for this machine's own, or for a proxy's."""
    for host in (
        None,
        b"",
        b"localhost",
        b"127.0.0.1",
        b"headgate, evil",
        b"headgate/health",
        b"headgate:99999",
        b"[::1]",
        b"headgate\x00",
        b"' OR 1=1 --",
        b"a" * 5000,
        b"\xff",
        b"/health",
        b"?",
    ):
        yield Attack(f"host {host!r}"[:60], request(b"/admin/policy", host=host))
        yield Attack(f"host {host!r} with a wrong key"[:60], request(b"/admin/policy", bearer(b"hg-wrong"), host=host))
    yield Attack("two hosts", request(b"/admin/policy", [(b"Host", b"localhost")]))
    for name in (
        b"X-Forwarded-For",
        b"X-Real-IP",
        b"Forwarded",
        b"X-Client-IP",
        b"True-Client-IP",
        b"CF-Connecting-IP",
        b"X-Forwarded-Host",
        b"X-Host",
        b"X-Forwarded-Proto",
        b"Via",
    ):
        for value in (b"127.0.0.1", b"::1", b"10.0.0.1", b"localhost", b"for=127.0.0.1;proto=https", b"127.0.0.1, 10.0.0.1", b"\xff" * 9, b"," * 3000):
            yield Attack(f"{name.decode()} {value[:20]!r}", request(b"/admin/policy", [(name, value)]))
    for name in (
        b"X-Forwarded-Client-Cert",
        b"X-SSL-Client-Cert",
        b"X-Client-Cert",
        b"SSL-Client-Verify",
        b"X-Remote-User",
        b"Remote-User",
        b"X-Forwarded-User",
        b"X-Tenant",
        b"X-Role",
        b"X-Principal",
    ):
        for value in (
            b"URI=spiffe://mesh/ops",
            b"Hash=" + b"0" * 64 + b";URI=spiffe://mesh/ops",
            b"SUCCESS",
            b"admin",
            b"operator",
            b"URI=spiffe://mesh/ops,URI=spiffe://mesh/ops",
        ):
            yield Attack(f"{name.decode()} {value[:20]!r}", request(b"/metrics", [(name, value)]))
            yield Attack(f"{name.decode()} {value[:20]!r} forwarded", request(b"/metrics", [(name, value), (b"X-Forwarded-For", b"10.0.0.1")]))


def framing_tricks() -> Iterator[Attack]:
    """What is more than one request, or less."""
    inner = request(b"/admin/keys")
    outer = b"POST /health/live HTTP/1.1\r\nHost: h\r\n"
    yield Attack("pipelined behind an open one", b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n" + inner)
    yield Attack("length and chunks", outer + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner)
    yield Attack("two lengths", outer + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner)
    yield Attack("odd chunks", outer + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + inner)
    yield Attack("folded header", b"GET /admin/keys HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer\r\n hg-wrong\r\nConnection: close\r\n\r\n")
    yield Attack("space before the colon", b"GET /admin/keys HTTP/1.1\r\nHost: h\r\nAuthorization : Bearer hg-wrong\r\nConnection: close\r\n\r\n")
    yield Attack("header without a name", b"GET /admin/keys HTTP/1.1\r\nHost: h\r\n: Bearer hg-wrong\r\nConnection: close\r\n\r\n")
    yield Attack("bare line feeds", b"GET /admin/keys HTTP/1.1\nHost: h\nConnection: close\n\n")
    yield Attack("HTTP/1.0", request(b"/admin/keys", version=b"1.0"))
    yield Attack("HTTP/9.9", request(b"/admin/keys", version=b"9.9"))
    yield Attack(
        "upgrade",
        b"GET /admin/keys HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    )
    yield Attack("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    yield Attack("a thousand headers", request(b"/admin/keys", [(b"X-%d" % number, b"x") for number in range(1000)]))
    yield Attack("a thousand credentials", request(b"/admin/keys", [*bearer(b"hg-wrong")] * 1000))


def table(key: str) -> Iterator[Attack]:
    """Every attack that is written down."""
    for path in PROTECTED:
        yield Attack(f"nothing at {path}", request(path.encode()))
    for name, wrong in wrong_keys(key):
        yield Attack(f"bearer: {name}", request(b"/v1/models", bearer(wrong)))
        yield Attack(f"x-api-key: {name}", request(b"/admin/policy", [(b"x-api-key", wrong)]))
    yield from misplaced(key)
    yield from path_tricks()
    yield from host_tricks()
    yield from framing_tricks()


def invented(random: Random, key: str, tokens: Sequence[str]) -> Attack:
    """An attack drawn by chance: a mutated key or token, in any header, at any path, under any host."""
    seed = random.choice([key, *tokens, "hg-" + "a" * 40, random.choice(SQL)]).encode()
    raw = bytearray(seed)
    for _ in range(random.randint(1, 4)):
        place = random.randrange(len(raw)) if raw else 0
        match random.randrange(6):
            case 0 if raw:
                raw[place] ^= 1 << random.randrange(8)
            case 1:
                raw[place:place] = random.randbytes(random.randint(1, 3))
            case 2 if raw:
                del raw[place]
            case 3:
                raw += random.choice([b"\x00", b" ", b"=", b".", b"%00", b"\xff", b",", b"a" * 9000])
            case 4 if raw:
                raw[place : place + 1] = bytes([raw[place]]).swapcase()
            case _:
                raw = raw[place:] + raw[:place]
    wrong = bytes(raw).replace(b"\r", b"").replace(b"\n", b"")
    if wrong.strip(b" \t") in {key.encode(), *(token.encode() for token in tokens)}:  # by chance the same again
        wrong += b"x"
    headers = [(random.choice([b"Authorization", b"authorization", b"AUTHORIZATION"]), random.choice([b"Bearer ", b"bearer ", b"BEARER  "]) + wrong)]
    if random.random() < 0.4:
        headers = [(random.choice([b"x-api-key", b"X-API-KEY"]), wrong)]
    if random.random() < 0.2:
        headers += headers
    if random.random() < 0.2:
        headers.append((b"X-Forwarded-For", random.choice([b"127.0.0.1", b"10.0.0.1", random.randbytes(4).replace(b"\r", b"").replace(b"\n", b"")])))
    if random.random() < 0.2:
        headers.append((b"X-Forwarded-Client-Cert", b"URI=spiffe://mesh/ops"))
    target = random.choice(PROTECTED).encode()
    if random.random() < 0.3:
        target = random.choice(OPEN) + random.choice(_STEPS) + target[1:]
    host = random.choice([b"headgate", b"localhost", b"127.0.0.1", b"", b"x" * random.randint(1, 300)])
    method = random.choice([b"GET", b"GET", b"GET", b"POST", b"PUT", b"DELETE"])
    return Attack(f"{method!r} {target!r} {headers!r}"[:2000], request(target, headers, method, host))
