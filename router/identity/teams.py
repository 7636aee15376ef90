"""Teams of a tenant: whose spending is counted together."""

from __future__ import annotations

import time
import uuid

from msgspec import Struct
from sqlalchemy import Connection, false, insert, or_, select, update

from router.identity.errors import Exists, InvalidName, Unknown, may_exist
from router.identity.tables import keys, teams, users
from router.identity.tenants import require_tenant

LONGEST_NAME = 200


class Team(Struct, frozen=True, kw_only=True):
    """A team; the keys of an archived one are dead."""

    id: str
    tenant: str
    name: str
    created_at: float
    archived_at: float | None = None


def create_team(connection: Connection, tenant: str, name: str) -> Team:
    """Raises `Unknown` for the tenant, `InvalidName` and `Exists`."""
    require_tenant(connection, tenant)
    team = Team(id="team_" + uuid.uuid4().hex[:24], tenant=tenant, name=_checked(name), created_at=time.time())
    _require_free(connection, team)
    connection.execute(insert(teams), {"id": team.id, "tenant": tenant, "name": team.name, "created_at": team.created_at})
    return team


def list_teams(connection: Connection, tenant: str | None = None) -> list[Team]:
    """Every team, or one tenant's, oldest first."""
    query = select(teams).order_by(teams.c.created_at, teams.c.id)
    if tenant is not None:
        query = query.where(teams.c.tenant == tenant if may_exist(tenant) else false())
    return [Team(**row) for row in connection.execute(query).mappings()]


def get_team(connection: Connection, team_id: str, tenant: str | None = None) -> Team:
    """A team; with `tenant` only that tenant's. Raises `Unknown`."""
    query = select(teams).where(teams.c.id == team_id)
    if tenant is not None:
        query = query.where(teams.c.tenant == tenant)
    row = connection.execute(query).mappings().first() if may_exist(team_id) else None
    if row is None:
        raise Unknown(f"no team {team_id[:80]!r}", "team")
    return Team(**row)


def live_team(connection: Connection, tenant: str, team_id: str) -> Team:
    """A team that somebody can be put into. Raises `Unknown`, and `InvalidName` for one that is archived."""
    team = get_team(connection, team_id, tenant)
    if team.archived_at is not None:
        raise InvalidName(f"team {team.name!r} is archived; choose another, or bring it back first", "team")
    return team


def change_team(connection: Connection, team_id: str, *, name: str | None = None, archived: bool | None = None) -> Team:
    """Rename, archive or bring back. Archiving what is archived changes nothing. Raises `Unknown`, `InvalidName` and `Exists`."""
    team = get_team(connection, team_id)
    values: dict[str, object] = {}
    if name is not None and name != team.name:
        values["name"] = _checked(name)
        _require_free(connection, Team(id=team.id, tenant=team.tenant, name=name, created_at=team.created_at))
    if archived is not None and archived != (team.archived_at is not None):
        values["archived_at"] = time.time() if archived else None
    if values:
        connection.execute(update(teams).where(teams.c.id == team_id).values(values))
    return get_team(connection, team_id)


def holds_an_owner(connection: Connection, team_id: str) -> bool:
    """Whether an owner comes in by this team: a user of that role who is not disabled, or a key that neither ended nor was revoked."""
    user = select(users.c.id).where(users.c.team == team_id, users.c.role == "owner", users.c.disabled_at.is_(None), users.c.erased_at.is_(None))
    goes_on = or_(keys.c.expires_at.is_(None), keys.c.expires_at > time.time())
    key = select(keys.c.id).where(keys.c.team == team_id, keys.c.role == "owner", keys.c.revoked_at.is_(None), goes_on)
    return any(connection.execute(query.limit(1)).first() is not None for query in (user, key))


def _checked(name: str) -> str:
    if not 1 <= len(name) <= LONGEST_NAME or name != name.strip() or not name.isprintable():
        raise InvalidName(f"a team's name has 1 to {LONGEST_NAME} characters, no line breaks, and no space at its ends", "name")
    return name


def _require_free(connection: Connection, team: Team) -> None:
    found = connection.execute(select(teams.c.id).where(teams.c.tenant == team.tenant, teams.c.name == team.name, teams.c.id != team.id)).first()
    if found is not None:
        raise Exists(f"tenant {team.tenant!r} has a team {team.name!r} already, {found.id}")
