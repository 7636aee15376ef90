"""Client certificates that a trusted proxy forwards."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from policies.federation import Certificates, ClientCertificate
from router.credentials.certificates import BadCertificate, Presented, known_client, read_certificate
from tests.serving import Service, serving

NOW = time.time()
URI = "spiffe://mesh/ns/a/sa/batch"
KEY = ec.generate_private_key(ec.SECP256R1())


def certificate(begins_s: float = -60, ends_s: float = 3600, *, uri: str | None = URI, name: str = "batch") -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme, Inc"), x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.fromtimestamp(NOW, UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(KEY.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + timedelta(seconds=begins_s)).not_valid_after(now + timedelta(seconds=ends_s))
    if uri is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
    return builder.sign(KEY, SHA256())


GOOD = certificate()
HASH = GOOD.fingerprint(SHA256()).hex()
SUBJECT = "CN=batch,O=Acme\\, Inc"


def pem(found: x509.Certificate = GOOD) -> str:
    return quote(found.public_bytes(Encoding.PEM).decode(), safe="")


@pytest.mark.parametrize(
    ("text", "form", "expected"),
    [
        (pem(), "pem", Presented(HASH, (URI,), SUBJECT)),
        (pem(certificate(uri=None)), "pem", None),
        (f"Hash={HASH}", "xfcc", Presented(HASH, (), None)),
        (f"By=spiffe://x;Hash={HASH.upper()};URI={URI}", "xfcc", Presented(HASH, (URI,), None)),
        (f'Hash={HASH};Subject="CN=batch,O=\\"Acme\\"\\, Inc";URI=a;URI=b;DNS=c', "xfcc", Presented(HASH, ("a", "b"), 'CN=batch,O=\\"Acme\\"\\, Inc')),
        (f'Hash={HASH};Cert="{pem()}";URI=spiffe://forged', "xfcc", Presented(HASH, (URI,), SUBJECT)),
        (f'Hash={HASH};Subject=""', "xfcc", Presented(HASH, (), None)),
    ],
    ids=map(str, range(7)),  # the certificate, and so its hash, is a new one in every process
)
def test_a_certificate_is_read_in_either_form(text: str, form: Literal["xfcc", "pem"], expected: Presented | None) -> None:
    found = read_certificate(text, form, NOW)
    assert found == expected if expected is not None else found.uris == ()


def envoys(found: x509.Certificate) -> str:
    """The subject as Envoy writes it, with OpenSSL's RFC 2253: what is beyond ASCII as its bytes in hexadecimal."""
    return "".join(each if each.isascii() else "".join(f"\\{byte:02X}" for byte in each.encode()) for each in found.subject.rfc4514_string())


@pytest.mark.parametrize("name", ["batch", "batch,O=Acme", "b\\C3\\A9", 'a "b" <c>; d+e=f', "#1 ", "Zoë 東京", "\\é", "é,O=Acme"])
def test_envoys_subject_and_the_certificates_are_one_text_whatever_the_name_holds(name: str) -> None:
    named = certificate(name=name)
    assert read_certificate(f'Subject="{envoys(named)}"', "xfcc", NOW).subject == read_certificate(pem(named), "pem", NOW).subject


def test_a_name_with_a_comma_is_not_two_names() -> None:
    known = Certificates(format="xfcc", clients=(client(subject="CN=batch,O=Acme"),))
    for subject, good in ((rb"CN=batch,O=Acme", True), (rb"CN=batch\,O=Acme", False), (rb"CN=batch\2CO=Acme", False)):
        headers = [(known.header.encode(), b'Subject="' + subject + b'"')]
        if good:
            assert known_client(known, headers, NOW) == known.clients[0]
        else:
            with pytest.raises(BadCertificate):
                known_client(known, headers, NOW)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (pem(certificate(ends_s=-1)), "pem"),
        (pem(certificate(begins_s=60)), "pem"),
        (pem() + pem(), "pem"),
        ("nonsense", "pem"),
        (quote("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "pem"),
        (f'Hash={HASH};Cert="{pem(certificate(ends_s=-1))}"', "xfcc"),
        (f'Hash={"0" * 64};Cert="{pem()}"', "xfcc"),
        (f"Hash={HASH},Hash={HASH}", "xfcc"),
        (f"Hash={HASH};Hash={'0' * 64}", "xfcc"),
        (f"URI={URI};Hash={HASH},By=x;URI=spiffe://proxy", "xfcc"),
        ("Hash=abc", "xfcc"),
        ("By=x", "xfcc"),
        ('Subject="CN=batch', "xfcc"),
        ("=", "xfcc"),
        (";;", "xfcc"),
        (f"Hash={HASH} URI=x", "xfcc"),
    ],
    ids=map(str, range(16)),
)
def test_what_is_no_single_valid_certificate_is_refused(text: str, form: Literal["xfcc", "pem"]) -> None:
    with pytest.raises(BadCertificate) as caught:
        read_certificate(text, form, NOW)
    assert URI not in str(caught.value)


@given(st.text(max_size=100), st.sampled_from(["xfcc", "pem"]))
def test_any_text_is_read_or_refused(text: str, form: Literal["xfcc", "pem"]) -> None:
    try:
        read_certificate(text, form, NOW)
    except BadCertificate:
        return


def client(**by: Any) -> ClientCertificate:
    return ClientCertificate(tenant="acme", role="service", **by)


@pytest.mark.parametrize("by", [{"sha256": HASH}, {"uri": URI}, {"subject": SUBJECT}])
def test_a_client_is_known_by_what_the_policy_names(by: dict[str, Any]) -> None:
    known = Certificates(format="pem", clients=(client(sha256="0" * 64), client(**by)))
    header = known.header.encode()
    assert known_client(known, [(b"host", b"x"), (header, pem().encode())], NOW) == client(**by)
    assert known_client(known, [(b"host", b"x"), (header, b"")], NOW) is None
    assert known_client(known, [], NOW) is None
    for headers in ([(header, pem().encode())] * 2, [(header, b"x" * 40_000)], [(header, pem(certificate(uri=None, name="other")).encode())]):
        with pytest.raises(BadCertificate):
            known_client(known, headers, NOW)


POLICY = """version: 1
settings: {{trusted_proxies: [{proxies}], auth_failures_per_minute: 0}}
backends:
  echo: {{kind: scripted}}
default: echo
fallback: []
identity:
  certificates:
    format: xfcc
    clients:
      - {{uri: "spiffe://mesh/batch", tenant: acme, role: service}}
      - {{uri: "spiffe://mesh/ops", platform_role: operator}}
      - {{uri: "spiffe://mesh/lost", tenant: nowhere, role: owner}}
"""


async def status(service: Service, path: str, *headers: tuple[str, str]) -> int:
    async with aiohttp.ClientSession() as session, session.get(service.url + path, headers=list(headers)) as answer:
        return answer.status


def forwarded(name: str) -> tuple[str, str]:
    return ("X-Forwarded-Client-Cert", f"By=x;URI=spiffe://mesh/{name}")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with serving(POLICY.format(proxies="127.0.0.1"), tmp_path) as service:
        yield service


async def test_a_certificate_from_the_trusted_proxy_is_a_principal(service: Service) -> None:
    assert await status(service, "/v1/models", forwarded("batch")) == 200
    assert await status(service, "/metrics", forwarded("batch")) == 403
    assert await status(service, "/metrics", forwarded("ops")) == 200
    assert await status(service, "/v1/models", forwarded("lost")) == 403
    assert await status(service, "/v1/models", forwarded("unknown")) == 401
    assert await status(service, "/v1/models", forwarded("batch"), forwarded("ops")) == 401
    assert await status(service, "/v1/models", forwarded("batch"), ("x-forwarded-client-cert", "")) == 401


async def test_a_key_goes_before_the_certificate_and_a_wrong_one_is_not_helped_by_it(service: Service) -> None:
    assert await status(service, "/metrics", forwarded("batch"), ("x-api-key", service.admin_key)) == 200
    assert await status(service, "/v1/models", forwarded("batch"), ("x-api-key", "hg-wrong")) == 401


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8, '::1'"])
async def test_from_anybody_else_the_header_is_nothing(tmp_path: Path, proxies: str) -> None:
    async with serving(POLICY.format(proxies=proxies), tmp_path) as service:
        for more in ((), (("X-Forwarded-For", "10.0.0.1"),), (("Forwarded", "for=10.0.0.1"),), (("X-Real-IP", "10.0.0.1"),)):
            assert await status(service, "/v1/models", forwarded("batch"), *more) == 401
        assert await status(service, "/v1/models", forwarded("batch"), ("x-api-key", service.key)) == 200
