"""`headgate tenants` and `headgate keys`: identities live in the database; both work with or without a running server."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from config.secretfile import load_secret
from policies.access import PLATFORM_ROLES, TENANT_ROLES
from router import auth
from router.audit.actors import command_line
from router.audit.log import AuditLog, Subject
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, open_home, print_json, print_table, require_tenant


@click.group()
def tenants() -> None:
    """Tenants: who pays and whose documents they are."""


@tenants.command("create")
@click.argument("name")
@config_option
@json_option
def create_tenant(name: str, config: Path | None, as_json: bool) -> None:
    """Make a tenant."""
    with open_home(config) as (launch, settings, database):
        try:
            made, log = Subject("tenant", name, name), audit_of(launch, settings, database)
            log.change_blocking(command_line(), "tenant.create", made, lambda connection: auth.create_tenant(connection, name))
        except (auth.InvalidName, auth.Exists) as error:
            hint = "; see them with: headgate tenants list" if isinstance(error, auth.Exists) else ""
            raise fail(f"{error}{hint}") from error
    print_json({"name": name}) if as_json else click.echo(f"tenant {name} made; give it a key: headgate keys create --tenant {name}")


@tenants.command("list")
@config_option
@json_option
def list_tenants(config: Path | None, as_json: bool) -> None:
    """List tenants."""
    with open_home(config) as (_, _, database):
        rows = database.read_blocking(auth.list_tenants)
    print_json(rows) if as_json else print_table(["NAME"], [[row["name"]] for row in rows])


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--tenant", default=auth.PLATFORM, help="The tenant it belongs to; without one it is a platform key.")
@click.option("--role", default="member", show_default=True, help=f"Of a tenant: {', '.join(TENANT_ROLES)}. Of the platform: {', '.join(PLATFORM_ROLES)}.")
@click.option("--name", default="", help="A note for your eyes.")
@click.option("--model", "models", multiple=True, help="A backend or model the key may use; repeat it. Without any: all.")
@config_option
@json_option
def create_key(tenant: str, role: str, name: str, models: tuple[str, ...], config: Path | None, as_json: bool) -> None:
    """Make a key. It is shown this once."""
    if tenant == auth.PLATFORM and role not in PLATFORM_ROLES:
        raise click.UsageError(f"a key of role {role!r} needs --tenant NAME; without a tenant the role is one of {', '.join(PLATFORM_ROLES)}")
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()
        try:
            made = AuditLog(database, secret).change_blocking(
                command_line(),
                "key.create",
                lambda key: Subject("key", key.id, key.tenant, {"role": key.role, "name": key.name, "models": models or None}),
                lambda connection: auth.create_key(connection, secret, tenant=tenant, role=role, name=name, models=models or None),
            )
        except (auth.InvalidName, auth.Unknown) as error:
            raise fail(str(error)) from error
    print_json(made) if as_json else click.echo(made.key)


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@config_option
@json_option
def list_keys(tenant: str | None, config: Path | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        found = database.read_blocking(lambda connection: auth.list_keys(connection, tenant))
    if as_json:
        print_json(found)
    else:
        print_table(
            ["ID", "PREFIX", "TENANT", "ROLE", "NAME", "STATE"],
            [[key.id, key.prefix, key.tenant or "(platform)", key.role, key.name, "revoked" if key.revoked_at else "live"] for key in found],
        )


@keys.command("revoke")
@click.argument("key_id")
@config_option
@json_option
def revoke_key(key_id: str, config: Path | None, as_json: bool) -> None:
    """Revoke a key by its id. It is dead in every worker within a second."""
    with open_home(config) as (launch, settings, database):
        try:
            info = audit_of(launch, settings, database).change_blocking(
                command_line(),
                "key.revoke",
                lambda key: Subject("key", key.id, key.tenant, {"role": key.role, "name": key.name}),
                lambda connection: auth.revoke_key(connection, key_id),
            )
        except auth.Unknown as error:
            raise fail(f"{error}; list them with: headgate keys list") from error
    print_json(msgspec.to_builtins(info)) if as_json else click.echo(f"{key_id} revoked")
