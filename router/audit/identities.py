"""What changes of teams, users and keys are called in the audit log.

Entries hold ids, roles and limits, never what names a person: an entry cannot be changed, and a user can be erased.
"""

from __future__ import annotations

from typing import Any

from router.audit.log import Actor, Entry, Subject
from router.identity.keys import KeyInfo
from router.identity.teams import Team
from router.identity.users import User

_PERSONAL = ("subject", "email", "display_name")
_LIMITS = ("models", "routes", "stores", "networks", "max_data_class")


def team_made(actor: Actor, team: Team) -> Entry:
    return Entry(actor, "team.create", _team(team, {"name": team.name}))


def team_changes(actor: Actor, before: Team, after: Team) -> list[Entry]:
    """One entry for each kind of change; none where nothing changed."""
    found = []
    if before.name != after.name:
        found.append(Entry(actor, "team.update", _team(after, {"name": _both(before.name, after.name)})))
    if (before.archived_at is None) != (after.archived_at is None):
        found.append(Entry(actor, "team.restore" if after.archived_at is None else "team.archive", _team(after)))
    return found


def user_made(actor: Actor, user: User) -> Entry:
    return Entry(actor, "user.create", _user(user, {"role": user.role, "team": user.team}))


def user_changes(actor: Actor, before: User, after: User) -> list[Entry]:
    """As `team_changes`. Of subject, e-mail and display name only that they changed."""
    found = []
    details: dict[str, Any] = {field: _both(getattr(before, field), getattr(after, field)) for field in ("role", "team")}
    details = {field: both for field, both in details.items() if both["before"] != both["after"]}
    renamed = [field for field in _PERSONAL if getattr(before, field) != getattr(after, field)]
    if renamed:
        details["changed"] = renamed
    if details:
        found.append(Entry(actor, "user.update", _user(after, details)))
    if (before.disabled_at is None) != (after.disabled_at is None):
        found.append(Entry(actor, "user.enable" if after.disabled_at is None else "user.disable", _user(after)))
    return found


def key_made(actor: Actor, key: KeyInfo) -> Entry:
    return Entry(actor, "key.create", key_subject(key))


def key_rotated(actor: Actor, old: KeyInfo, new: KeyInfo) -> list[Entry]:
    """`old` as it stands afterwards: with its successor and its new end."""
    rotated = Subject("key", old.id, old.tenant, {"replaced_by": new.id, "expires_at": old.expires_at})
    made = key_subject(new)
    return [Entry(actor, "key.rotate", rotated), Entry(actor, "key.create", Subject("key", new.id, new.tenant, {**made.details, "follows": old.id}))]


def key_revoked(actor: Actor, before: KeyInfo) -> list[Entry]:
    """Nothing, where it was revoked before."""
    return [] if before.revoked_at is not None else [Entry(actor, "key.revoke", key_subject(before))]


def key_subject(key: KeyInfo) -> Subject:
    """A key, with what it may do. Its name is left out: it may say whose it is."""
    about = {field: getattr(key, field) for field in ("team", "user", "expires_at", *_LIMITS)}
    return Subject("key", key.id, key.tenant, {"role": key.role, **{field: value for field, value in about.items() if value is not None}})


def _team(team: Team, details: dict[str, Any] | None = None) -> Subject:
    return Subject("team", team.id, team.tenant, details or {})


def _user(user: User, details: dict[str, Any] | None = None) -> Subject:
    return Subject("user", user.id, user.tenant, details or {})


def _both(before: object, after: object) -> dict[str, object]:
    return {"before": before, "after": after}
