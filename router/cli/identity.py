"""`headgate tenants`, `teams`, `users` and `keys`: identities live in the database; all of it works with or without a running server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import click
from sqlalchemy import Connection

from adapters.backend import DATA_CLASSES, DataClass
from config.database import Database
from config.secretfile import load_secret
from policies.access import PLATFORM_ROLES, TENANT_ROLES, RouteGroup, Scopes
from router.audit.actors import command_line
from router.audit.identities import key_made, key_revoked, key_rotated, team_changes, team_made, user_changes, user_made
from router.audit.log import AuditLog, Entry, Subject
from router.cli.audit import audit_of
from router.cli.common import config_option, fail, json_option, moment, open_home, print_json, print_table, require_tenant
from router.identity import keys as api_keys
from router.identity import teams as all_teams
from router.identity import tenants as all_tenants
from router.identity import users as all_users
from router.identity.errors import Exists, InvalidName, Unknown
from router.identity.tenants import PLATFORM

T = TypeVar("T")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _write(database: Database, log: AuditLog, work: Callable[[Connection], tuple[T, Sequence[Entry]]]) -> T:
    """Do the work and record it, in one transaction. Ends the command with status 1, in words that help, for what cannot be."""
    try:
        return database.write_blocking(log.recorded(work))
    except (InvalidName, Exists, Unknown) as error:
        kind = error.kind if isinstance(error, Unknown) else ""
        group = {"team": "teams", "user": "users", "key": "keys"}.get(kind)
        raise fail(f"{error}; list them with: headgate {group} list" if group else str(error)) from error


# --- tenants ---------------------------------------------------------------------------------------------------------------------------------


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
            log.change_blocking(command_line(), "tenant.create", made, lambda connection: all_tenants.create_tenant(connection, name))
        except (InvalidName, Exists) as error:
            hint = "; see them with: headgate tenants list" if isinstance(error, Exists) else ""
            raise fail(f"{error}{hint}") from error
    print_json({"name": name}) if as_json else click.echo(f"tenant {name} made; give it a key: headgate keys create --tenant {name}")


@tenants.command("list")
@config_option
@json_option
def list_tenants(config: Path | None, as_json: bool) -> None:
    """List tenants."""
    with open_home(config) as (_, _, database):
        rows = database.read_blocking(all_tenants.list_tenants)
    print_json(rows) if as_json else print_table(["NAME"], [[row["name"]] for row in rows])


# --- teams -----------------------------------------------------------------------------------------------------------------------------------


@click.group()
def teams() -> None:
    """Teams of a tenant: whose spending is counted together."""


@teams.command("create")
@click.argument("name")
@click.option("--tenant", required=True, help="The tenant it belongs to.")
@config_option
@json_option
def create_team(name: str, tenant: str, config: Path | None, as_json: bool) -> None:
    """Make a team."""
    with open_home(config) as (launch, settings, database):

        def work(connection: Connection) -> tuple[all_teams.Team, list[Entry]]:
            team = all_teams.create_team(connection, tenant, name)
            return team, [team_made(command_line(), team)]

        team = _write(database, audit_of(launch, settings, database), work)
    print_json(team) if as_json else click.echo(f"team {team.id} made; give it a key: headgate keys create --tenant {tenant} --team {team.id}")


@teams.command("list")
@click.option("--tenant", help="Only this tenant's.")
@config_option
@json_option
def list_teams(tenant: str | None, config: Path | None, as_json: bool) -> None:
    """List teams."""
    with open_home(config) as (_, _, database):
        if tenant is not None:
            require_tenant(database, tenant)
        found = database.read_blocking(lambda connection: all_teams.list_teams(connection, tenant))
    if as_json:
        print_json(found)
    else:
        print_table(["ID", "TENANT", "NAME", "STATE"], [[team.id, team.tenant, team.name, "archived" if team.archived_at else "live"] for team in found])


@teams.command("archive")
@click.argument("team_id")
@config_option
@json_option
def archive_team(team_id: str, config: Path | None, as_json: bool) -> None:
    """Archive a team: its keys, and those of its users, are dead in every worker within a second."""
    _change_team(team_id, True, config, as_json)


@teams.command("restore")
@click.argument("team_id")
@config_option
@json_option
def restore_team(team_id: str, config: Path | None, as_json: bool) -> None:
    """Bring an archived team back; its keys work again, unless they were revoked or have expired."""
    _change_team(team_id, False, config, as_json)


def _change_team(team_id: str, archived: bool, config: Path | None, as_json: bool) -> None:
    with open_home(config) as (launch, settings, database):

        def work(connection: Connection) -> tuple[all_teams.Team, list[Entry]]:
            before = all_teams.get_team(connection, team_id)
            after = all_teams.change_team(connection, team_id, archived=archived)
            return after, team_changes(command_line(), before, after)

        team = _write(database, audit_of(launch, settings, database), work)
    print_json(team) if as_json else click.echo(f"{team_id} {'archived' if archived else 'restored'}")


# --- users -----------------------------------------------------------------------------------------------------------------------------------


@click.group()
def users() -> None:
    """Users of a tenant: who keys and bearer tokens act for."""


@users.command("create")
@click.option("--tenant", required=True, help="The tenant it belongs to.")
@click.option("--role", default="member", show_default=True, type=click.Choice(TENANT_ROLES), help="What the user's keys may do at most.")
@click.option("--team", help="The id of the user's team.")
@click.option("--subject", help="The identity provider's name for the user.")
@click.option("--email")
@click.option("--name", "display_name", help="A name to show.")
@config_option
@json_option
def create_user(
    tenant: str,
    role: str,
    team: str | None,
    subject: str | None,
    email: str | None,
    display_name: str | None,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a user."""
    about = {"team": team, "subject": subject, "email": email, "display_name": display_name}
    with open_home(config) as (launch, settings, database):

        def work(connection: Connection) -> tuple[all_users.User, list[Entry]]:
            user = all_users.create_user(connection, tenant, role=role, **about)
            return user, [user_made(command_line(), user)]

        user = _write(database, audit_of(launch, settings, database), work)
    print_json(user) if as_json else click.echo(f"user {user.id} made; give them a key: headgate keys create --tenant {tenant} --user {user.id}")


@users.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--team", help="Only this team's, by its id.")
@config_option
@json_option
def list_users(tenant: str | None, team: str | None, config: Path | None, as_json: bool) -> None:
    """List users."""
    with open_home(config) as (launch, settings, database):
        if tenant is not None:
            require_tenant(database, tenant)
        found = database.read_blocking(lambda connection: all_users.list_users(connection, tenant, team))
        shown = Subject("users", "", tenant or "", {"count": len(found)})
        audit_of(launch, settings, database).note_blocking(command_line(), "user.read", shown)
    if as_json:
        print_json(found)
    else:
        print_table(
            ["ID", "TENANT", "TEAM", "ROLE", "NAME", "STATE"], [[user.id, user.tenant, user.team, user.role, _called(user), _state(user)] for user in found]
        )


def _called(user: all_users.User) -> str | None:
    return user.display_name or user.email or user.subject


def _state(user: all_users.User) -> str:
    return "erased" if user.erased_at is not None else "disabled" if user.disabled_at is not None else "live"


@users.command("disable")
@click.argument("user_id")
@config_option
@json_option
def disable_user(user_id: str, config: Path | None, as_json: bool) -> None:
    """Disable a user: their keys are dead in every worker within a second."""
    _change_user(user_id, True, config, as_json)


@users.command("enable")
@click.argument("user_id")
@config_option
@json_option
def enable_user(user_id: str, config: Path | None, as_json: bool) -> None:
    """Let a disabled user in again; their keys work again, unless they were revoked or have expired."""
    _change_user(user_id, False, config, as_json)


def _change_user(user_id: str, disabled: bool, config: Path | None, as_json: bool) -> None:
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()

        def work(connection: Connection) -> tuple[all_users.User, list[Entry]]:
            before = all_users.get_user(connection, user_id)
            after = all_users.change_user(connection, user_id, secret, disabled=disabled)
            return after, user_changes(command_line(), before, after)

        user = _write(database, audit_of(launch, settings, database), work)
    print_json(user) if as_json else click.echo(f"{user_id} {'disabled' if disabled else 'enabled'}")


# --- keys ------------------------------------------------------------------------------------------------------------------------------------


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--tenant", default=PLATFORM, help="The tenant it belongs to; without one it is a platform key.")
@click.option("--role", default="member", show_default=True, help=f"Of a tenant: {', '.join(TENANT_ROLES)}. Of the platform: {', '.join(PLATFORM_ROLES)}.")
@click.option("--name", default="", help="A note for your eyes.")
@click.option("--team", help="The id of the team whose spending it is.")
@click.option("--user", help="The id of the user it acts for.")
@click.option("--expires", help="When it ends: a date or time (UTC unless it says otherwise), or from now on, as in 90d or 12h.")
@click.option("--model", "models", multiple=True, help="A backend or model the key may use; repeat it. Without any: all.")
@click.option("--route", "routes", multiple=True, type=click.Choice(get_args(RouteGroup)), help="Routes the key may use; repeat it. Without any: its role's.")
@click.option("--store", "stores", multiple=True, help="The id of a vector store the key may use; repeat it. Without any: all.")
@click.option("--network", "networks", multiple=True, help="Addresses the key is good from, as in 10.0.0.0/8; repeat it. Without any: all.")
@click.option("--max-data-class", default="restricted", show_default=True, type=click.Choice(DATA_CLASSES), help="The most sensitive data it may touch.")
@config_option
@json_option
def create_key(
    tenant: str,
    role: str,
    name: str,
    team: str | None,
    user: str | None,
    expires: str | None,
    models: tuple[str, ...],
    routes: tuple[RouteGroup, ...],
    stores: tuple[str, ...],
    networks: tuple[str, ...],
    max_data_class: DataClass,
    config: Path | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown this once."""
    if tenant == PLATFORM and role not in PLATFORM_ROLES:
        raise click.UsageError(f"a key of role {role!r} needs --tenant NAME; without a tenant the role is one of {', '.join(PLATFORM_ROLES)}")
    expires_at = _when(expires)
    scopes = Scopes(models=models or None, routes=routes or None, stores=stores or None, networks=networks or None, max_data_class=max_data_class)
    about = {"tenant": tenant, "role": role, "name": name, "team": team, "user": user}
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()

        def work(connection: Connection) -> tuple[api_keys.NewKey, list[Entry]]:
            made = api_keys.create_key(connection, secret, **about, scopes=scopes, expires_at=expires_at)  # type: ignore[arg-type]
            return made, [key_made(command_line(), api_keys.get_key(connection, made.id))]

        made = _write(database, AuditLog(database, secret), work)
    print_json(made) if as_json else click.echo(made.key)


def _when(expires: str | None) -> float | None:
    """A moment in the future, as given on the command line."""
    if expires is None:
        return None
    at = time.time() + _seconds(expires) if re.fullmatch(r"\d+(\.\d+)?[smhd]", expires) else moment(expires)
    if at is not None and at <= time.time():
        raise click.BadParameter(f"{expires!r} is in the past", param_hint="--expires")
    return at


def _seconds(text: str) -> float:
    """A length of time, as in 24h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no length of time; write 30m, 24h or 7d")
    return float(found[1]) * _UNITS[found[2]]


@keys.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--team", help="Only this team's, by its id.")
@click.option("--user", help="Only this user's, by their id.")
@config_option
@json_option
def list_keys(tenant: str | None, team: str | None, user: str | None, config: Path | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    with open_home(config) as (launch, settings, database):
        if tenant is not None:
            require_tenant(database, tenant)
        found = database.read_blocking(lambda connection: api_keys.list_keys(connection, tenant, team, user))
        shown = Subject("keys", "", tenant or "", {"count": len(found)})
        audit_of(launch, settings, database).note_blocking(command_line(), "key.read", shown)
    if as_json:
        print_json(found)
    else:
        print_table(
            ["ID", "PREFIX", "TENANT", "ROLE", "NAME", "STATE"],
            [[key.id, key.prefix, key.tenant or "(platform)", key.role, key.name, _key_state(key)] for key in found],
        )


def _key_state(key: api_keys.KeyInfo) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "live" if api_keys.is_live(key, time.time()) else "expired"


@keys.command("rotate")
@click.argument("key_id")
@click.option("--overlap", default="0s", show_default=True, help="How long the old key goes on beside the new one, as in 24h.")
@config_option
@json_option
def rotate_key(key_id: str, overlap: str, config: Path | None, as_json: bool) -> None:
    """Make a key of the same reach that follows another. It is shown this once; the old one dies after the overlap."""
    overlap_s = _seconds(overlap)
    with open_home(config) as (launch, settings, database):
        secret = load_secret(launch.environ(), settings.home).reveal().encode()

        def work(connection: Connection) -> tuple[api_keys.NewKey, list[Entry]]:
            made = api_keys.rotate_key(connection, secret, key_id, overlap_s=overlap_s)
            return made, key_rotated(command_line(), api_keys.get_key(connection, key_id), api_keys.get_key(connection, made.id))

        made = _write(database, AuditLog(database, secret), work)
    print_json(made) if as_json else click.echo(made.key)


@keys.command("revoke")
@click.argument("key_id")
@config_option
@json_option
def revoke_key(key_id: str, config: Path | None, as_json: bool) -> None:
    """Revoke a key by its id. It is dead in every worker within a second."""
    with open_home(config) as (launch, settings, database):

        def work(connection: Connection) -> tuple[api_keys.KeyInfo, list[Entry]]:
            before = api_keys.get_key(connection, key_id)
            return api_keys.revoke_key(connection, key_id), key_revoked(command_line(), before)

        info = _write(database, audit_of(launch, settings, database), work)
    print_json(info) if as_json else click.echo(f"{key_id} revoked")
