"""The migration makes the tables that the code uses, and goes back without giving anybody more than they had."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Connection, inspect, text

from config.database import Database
from config.schema import downgrade
from policies.access import Scopes
from router.identity import keys as api_keys
from router.identity.authenticator import Authenticator
from router.identity.tables import keys, teams, tenants, users
from router.identity.teams import change_team, create_team
from router.identity.users import change_user, create_user
from router.launch import MIGRATIONS, migrate_state
from router.tables import metadata

SECRET = b"a secret of the tests"
TABLES = tuple(table.name for table in (tenants, teams, users, keys))


async def test_the_migrations_make_exactly_the_tables_the_code_uses(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compared: Any) -> bool:
        return kind != "table" or name in TABLES

    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        return list(compare_metadata(context, metadata))

    assert await database.read(differences) == []


async def test_going_back_revokes_the_keys_that_an_older_release_would_let_do_more(database: Database) -> None:
    made: dict[str, api_keys.NewKey] = {}

    def prepare(connection: Connection) -> None:
        def key(name: str, **fields: Any) -> None:
            made[name] = api_keys.create_key(connection, SECRET, tenant="acme", role="member", **fields)

        here, gone = create_team(connection, "acme", "here"), create_team(connection, "acme", "gone")
        live, disabled, orphan = (create_user(connection, "acme", role="member", team=team) for team in (here.id, here.id, gone.id))
        key("plain", models=("mini",), team=here.id, user=live.id)
        key("routes", scopes=Scopes(routes=("chat",)))
        key("networks", scopes=Scopes(networks=("::/0",)))
        key("archived", team=gone.id)
        key("disabled", user=disabled.id)
        key("orphan", user=orphan.id)
        change_team(connection, gone.id, archived=True)
        change_user(connection, disabled.id, SECRET, disabled=True)

    await database.write(prepare)
    await asyncio.to_thread(lambda: database.alter_blocking(lambda connection: downgrade(connection, MIGRATIONS, "0004_kept")))

    def older(connection: Connection) -> tuple[dict[str, bool], set[str]]:
        rows = connection.execute(text("SELECT id, revoked_at FROM keys"))
        return {row.id: row.revoked_at is None for row in rows}, set(inspect(connection).get_table_names())

    live, tables = await database.read(older)
    assert {name: live[key.id] for name, key in made.items()} == {name: name == "plain" for name in made}
    assert not {"teams", "users"} & tables

    await asyncio.to_thread(migrate_state, database)
    principal = await Authenticator(database, SECRET).principal(made["plain"].key)
    assert principal is not None
    assert (principal.allowed_models, principal.team, principal.user) == (("mini",), "", "")
