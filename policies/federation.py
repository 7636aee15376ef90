"""Who else may say who is calling: the issuers of bearer tokens, and a proxy that checked a client's certificate. The `identity` block, as types."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta, Struct

from adapters.backend import DataClass
from policies.access import PlatformRole, TenantRole

Algorithm: TypeAlias = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a private key. There is no HS*: whoever can check one of those can make one."""

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
Text: TypeAlias = Annotated[str, Meta(min_length=1)]
Claim: TypeAlias = Text | tuple[Text, ...]
"""A claim's name, or the path to one inside others: `[realm_access, roles]`."""


class TenantClaim(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The tenant by a claim's value. A value that `map` does not name is no tenant."""

    claim: Claim
    map: dict[str, Text]


class RoleClaim(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A tenant's role by a claim's values: the first line of `map` that the claim holds."""

    claim: Claim
    map: dict[str, TenantRole]


class PlatformRoleClaim(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A role of the platform by a claim's values. It goes before the tenant's."""

    claim: Claim
    map: dict[str, PlatformRole]


class TeamClaim(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The team by a claim's values: the first line of `map` that the claim holds, else none."""

    claim: Claim
    map: dict[str, Text]


class Issuer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One issuer of signed tokens (JWT), for one audience. Times are in seconds.

    `jwks_url` None asks the issuer's discovery document for it. `require` names further claims and the values of which they must hold one.
    `match_users` says whether the user claim is looked up among the subjects of a tenant's users; those are one issuer's names.
    """

    issuer: Text
    audience: Text | tuple[Text, ...]
    jwks_url: Text | None = None
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    leeway_s: Annotated[float, Meta(ge=0, le=300)] = 30.0
    max_lifetime_s: Annotated[float, Meta(gt=0)] = 86_400.0
    require: dict[str, Text | tuple[Text, ...]] = {}
    tenant: Text | TenantClaim | None = None
    role: TenantRole | RoleClaim | None = None
    platform_role: PlatformRoleClaim | None = None
    team: Text | TeamClaim | None = None
    user: Claim = "sub"
    match_users: bool = True
    models: tuple[Text, ...] | None = None
    max_data_class: DataClass = "restricted"
    jwks_ttl_s: Annotated[float, Meta(ge=10)] = 300.0
    jwks_stale_s: Annotated[float, Meta(ge=0)] = 3_600.0

    def __post_init__(self) -> None:
        if (self.tenant is None) != (self.role is None):
            raise ValueError("tenant and role belong together: a token is given a role of a tenant")
        if self.role is None and self.platform_role is None:
            raise ValueError("a token of this issuer would never get a role: set tenant and role, or platform_role")
        if not self.audience or not self.algorithms:
            raise ValueError("audience and algorithms must not be empty: every token would be refused")
        if self.team is not None and self.tenant is None:
            raise ValueError("team does nothing without tenant")

    @property
    def tenants(self) -> frozenset[str]:
        """Those that a token of this issuer may be of."""
        if self.tenant is None:
            return frozenset()
        return frozenset((self.tenant,) if isinstance(self.tenant, str) else self.tenant.map.values())

    @property
    def audiences(self) -> tuple[str, ...]:
        return (self.audience,) if isinstance(self.audience, str) else self.audience


class ClientCertificate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client by its certificate: by the SHA-256 of it, by a URI among its alternative names, or by its subject (RFC 4514)."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    uri: Text | None = None
    subject: Text | None = None
    tenant: Text | None = None
    role: TenantRole | None = None
    platform_role: PlatformRole | None = None
    team: str = ""
    models: tuple[Text, ...] | None = None
    max_data_class: DataClass = "restricted"

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.sha256, self.uri, self.subject)) != 1:
            raise ValueError("name the certificate by exactly one of sha256, uri and subject")
        if (self.tenant is None) != (self.role is None) or (self.role is None) == (self.platform_role is None):
            raise ValueError("give the client a tenant and a role, or a platform_role")


class Certificates(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Client certificates that a trusted proxy checked and forwards in a header.

    `xfcc` is Envoy's `x-forwarded-client-cert`, `pem` a URL-encoded certificate (nginx's `$ssl_client_escaped_cert`).
    """

    format: Literal["xfcc", "pem"]
    clients: tuple[ClientCertificate, ...]
    header: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$")] = "x-forwarded-client-cert"


class Identity(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who besides Headgate's own keys may say who is calling."""

    issuers: dict[str, Issuer] = {}
    certificates: Certificates | None = None
