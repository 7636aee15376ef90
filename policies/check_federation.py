"""The checks of the `identity` block that its types cannot express: URLs that may be asked for keys, and entries that would never count."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from config.yamlfile import Path
from policies.federation import Certificates, Identity, Issuer, PlatformRoleClaim, RoleClaim, TeamClaim, TenantClaim
from policies.hosts import is_host, is_loopback, is_private

RESERVED_HEADERS = frozenset({"authorization", "x-api-key", "host", "cookie", "x-forwarded-for", "forwarded", "content-type", "content-length"})


def url_problem(url: str, private_addresses: bool) -> str | None:
    """Why keys must not be fetched from this URL, or None. Plain http is for loopback only, and only where private addresses may be named."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        valid = parts.scheme in ("http", "https") and parts.port != 0 and is_host(host)
    except ValueError:
        valid = False
    if not valid or not url.isascii() or not url.isprintable() or " " in url:
        return "is no https URL"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must not hold a name, a password or a fragment"
    if parts.scheme == "http" and not (private_addresses and is_loopback(host)):
        return "must begin with https:// (plain http is for an issuer on this machine, in the policy file)"
    if not private_addresses and is_private(host):
        return f"{host} is a private address; only the policy file may name one, unless settings.allow_private_backends is true"
    return None


def federation_problems(identity: Identity, private_addresses: bool) -> Iterator[tuple[Path, str, bool]]:
    """Every problem: its path, what is wrong, and whether the key (not the value) is at fault."""
    seen: dict[tuple[str, str], str] = {}
    for name, issuer in identity.issuers.items():
        path: Path = ("identity", "issuers", name)
        yield from _issuer(issuer, path, private_addresses)
        for audience in issuer.audiences:
            other = seen.setdefault((issuer.issuer, audience), name)
            if other != name:
                yield (*path, "audience"), f"issuer {other!r} takes tokens for {audience!r} already", False
    yield from _shared_subjects(identity)
    if identity.certificates is not None:
        yield from _certificates(identity.certificates, ("identity", "certificates"))


def _shared_subjects(identity: Identity) -> Iterator[tuple[Path, str, bool]]:
    """Two issuers whose users are looked up among the same tenant's subjects: who has a name at the one would be the user of that name at the other."""
    first: dict[str, tuple[str, Issuer]] = {}
    for name, issuer in identity.issuers.items():
        for tenant in sorted(issuer.tenants) if issuer.match_users else ():
            other, its = first.setdefault(tenant, (name, issuer))
            if (its.issuer, its.user) != (issuer.issuer, issuer.user):
                message = f"issuer {other!r} names users of tenant {tenant!r} already, and the same name may be somebody else's; set match_users: false in one"
                yield ("identity", "issuers", name), message, True
                break


def _issuer(issuer: Issuer, path: Path, private_addresses: bool) -> Iterator[tuple[Path, str, bool]]:
    problem = url_problem(issuer.issuer, private_addresses)
    if problem is None and urlsplit(issuer.issuer).query:
        problem = "must not hold a query"
    if problem:
        yield (*path, "issuer"), problem, False
    if issuer.jwks_url is not None and (problem := url_problem(issuer.jwks_url, private_addresses)):
        yield (*path, "jwks_url"), problem, False
    for key in ("tenant", "role", "platform_role", "team"):
        mapped = getattr(issuer, key)
        if isinstance(mapped, TenantClaim | RoleClaim | PlatformRoleClaim | TeamClaim) and not (mapped.map and mapped.claim):
            yield (*path, key), "an empty claim or map matches nothing", False
    for key in ("require", "user", "models"):
        if getattr(issuer, key) == () or (key == "require" and () in issuer.require.values()):
            yield (*path, key), "an empty list matches nothing", False


def _certificates(certificates: Certificates, path: Path) -> Iterator[tuple[Path, str, bool]]:
    if certificates.header in RESERVED_HEADERS:
        yield (*path, "header"), f"{certificates.header!r} has a meaning of its own; choose another header", False
    if not certificates.clients:
        yield (*path, "clients"), "an empty list lets nobody in; leave the block out", False
    seen: set[tuple[str | None, str | None, str | None]] = set()
    for index, client in enumerate(certificates.clients):
        one = (client.sha256, client.uri, client.subject)
        if one in seen:
            yield (*path, "clients", index), "this certificate stands in this list twice", False
        seen.add(one)
