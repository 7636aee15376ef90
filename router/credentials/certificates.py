"""Client certificates that a trusted proxy checked, and forwards in a header: Envoy's form, and a URL-encoded PEM as nginx sends it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from policies.federation import Certificates, ClientCertificate

LONGEST = 32 * 1024
_PAIR = re.compile(r'([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^",;\\]*))')
_ESCAPED = re.compile(r"((?:\\[89A-Fa-f][0-9A-Fa-f])+)|\\.")
"""A run of bytes beyond ASCII, or another escape, which is passed over whole: in `\\\\C3` the first backslash is escaped, and no byte follows."""


class BadCertificate(ValueError):
    """The header holds no single certificate that is valid now; the message is for the log and repeats nothing of it."""


class Presented(Struct, frozen=True):
    """What is known of a certificate."""

    sha256: str | None
    uris: tuple[str, ...]
    subject: str | None


def known_client(certificates: Certificates, headers: Iterable[tuple[bytes, bytes]], now: float) -> ClientCertificate | None:
    """The client that the policy knows by the forwarded certificate; None without one (proxies send the header empty then).

    Raises `BadCertificate`: for a header that comes twice, more certificates than one, one that is not valid at `now` (where the whole
    certificate is there), and one that the policy does not name. Whoever calls has checked that the header comes from a trusted proxy.
    """
    name = certificates.header.encode()
    found = [value for each, value in headers if each == name]
    if len(found) > 1:
        raise BadCertificate("the header comes twice")
    if not found or not found[0].strip():
        return None
    if len(found[0]) > LONGEST:
        raise BadCertificate("the header is too long")
    presented = read_certificate(found[0].decode("latin-1").strip(), certificates.format, now)
    for client in certificates.clients:
        if client.sha256 is not None and client.sha256 == presented.sha256:
            return client
        if (client.uri is not None and client.uri in presented.uris) or (client.subject is not None and client.subject == presented.subject):
            return client
    raise BadCertificate("the policy does not name this certificate")


def read_certificate(text: str, form: Literal["xfcc", "pem"], now: float) -> Presented:
    """Raises `BadCertificate`."""
    return _read_pem(text, now) if form == "pem" else _read_xfcc(text, now)


def _read_xfcc(text: str, now: float) -> Presented:
    """Envoy's header, of one element: a list of them (a chain of proxies that append) does not say which one was checked by whom."""
    fields: dict[str, list[str]] = {}
    position = 0
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise BadCertificate("the header cannot be read")
        # Quoted as it came: Envoy adds quotes and no escapes. The backslashes are the subject's own, and without them one name reads as two.
        fields.setdefault(found[1].lower(), []).append(found[2] if found[2] is not None else found[3])
        position = found.end()
        if position < len(text):
            if text[position] == ",":
                raise BadCertificate("the header holds more than one certificate")
            if text[position] != ";":
                raise BadCertificate("the header cannot be read")
            position += 1
    if any(len(fields.get(name, [])) > 1 for name in ("hash", "cert", "subject")):
        raise BadCertificate("the header cannot be read")
    digest = fields.get("hash", [""])[0].lower()
    subject = _as_rfc4514(fields.get("subject", [""])[0])
    if "cert" in fields:
        whole = _read_pem(fields["cert"][0], now)
        if digest and digest != whole.sha256:
            raise BadCertificate("the certificate is not the one that the hash is of")
        return whole
    if digest and not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise BadCertificate("the hash is no SHA-256")
    if not (digest or subject or fields.get("uri")):
        raise BadCertificate("the header says nothing of the client's certificate")
    return Presented(digest or None, tuple(fields.get("uri", ())), subject or None)


def _as_rfc4514(subject: str) -> str:
    """A subject in RFC 2253 as Envoy writes it, as `_read_pem` would: letters beyond ASCII are themselves, not their bytes (`\\C3\\A9`)."""
    return _ESCAPED.sub(lambda found: found[0] if found[1] is None else _utf8(found[1]), subject)


def _utf8(escaped: str) -> str:
    try:
        return bytes.fromhex(escaped.replace("\\", "")).decode()
    except UnicodeDecodeError:
        return escaped


def _read_pem(text: str, now: float) -> Presented:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    data = unquote_to_bytes(text)
    try:
        if data.count(b"-----BEGIN") != 1:
            raise ValueError
        certificate = x509.load_pem_x509_certificate(data)
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        subject = certificate.subject.rfc4514_string()
        uris = _uris(certificate)
    except Exception as error:  # what a parser of ASN.1 raises is many things, and all of them mean this
        raise BadCertificate("the header holds no certificate") from error
    if not begins <= datetime.fromtimestamp(now, UTC) <= ends:
        raise BadCertificate("the certificate is not valid now")
    return Presented(certificate.fingerprint(SHA256()).hex(), uris, subject or None)


def _uris(certificate: object) -> tuple[str, ...]:
    from cryptography import x509

    assert isinstance(certificate, x509.Certificate)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
