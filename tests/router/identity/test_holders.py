"""Who comes with a token is the user on record for its subject."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import Connection

from config.database import Database, open_database
from policies.access import Principal, Role
from router.audit.erasing import erase_user
from router.identity.holders import on_record
from router.identity.teams import change_team, create_team
from router.identity.tenants import create_tenant
from router.identity.users import change_user, create_user
from router.launch import migrate_state

SECRET = b"a secret"
HOLDER = Principal(tenant="acme", role="admin", user="oidc:1", subject="ada", key_id="oidc:1")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = open_database(database_url)
    await asyncio.to_thread(migrate_state, database)
    await database.write(lambda connection: create_tenant(connection, "acme"))
    await database.write(lambda connection: create_tenant(connection, "globex"))
    yield database
    await database.aclose()


async def test_a_token_of_nobody_on_record_stays_as_it_is_where_its_tenant_is_there(database: Database) -> None:
    assert await database.read(lambda connection: on_record(connection, HOLDER, SECRET)) == HOLDER
    elsewhere = msgspec.structs.replace(HOLDER, tenant="nowhere")
    assert await database.read(lambda connection: on_record(connection, elsewhere, SECRET)) == "there is no such tenant"


@pytest.mark.parametrize(("recorded", "expected"), [("member", "member"), ("owner", "admin"), ("auditor", "auditor")])
async def test_the_user_on_record_bounds_the_tokens_role_and_gives_the_id_and_team(database: Database, recorded: Role, expected: Role) -> None:
    def work(connection: Connection) -> tuple[str, str]:
        team = create_team(connection, "acme", "research")
        create_user(connection, "globex", role="owner", subject="ada")
        return create_user(connection, "acme", role=recorded, subject="ada", team=team.id).id, team.id

    user, team = await database.write(work)
    found = await database.read(lambda connection: on_record(connection, HOLDER, SECRET))
    assert isinstance(found, Principal)
    assert (found.user, found.team, found.team_name, found.role) == (user, team, "research", expected)


async def test_a_disabled_user_and_an_archived_team_stay_out(database: Database) -> None:
    user = await database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    await database.write(lambda connection: change_user(connection, user.id, SECRET, disabled=True))
    assert await database.read(lambda connection: on_record(connection, HOLDER, SECRET)) == "the user is disabled"
    team = await database.write(lambda connection: create_team(connection, "acme", "old"))
    named = msgspec.structs.replace(HOLDER, subject="eve", team="old")
    found = await database.read(lambda connection: on_record(connection, named, SECRET))
    assert isinstance(found, Principal)
    assert (found.team, found.team_name) == (team.id, "old")
    await database.write(lambda connection: change_team(connection, team.id, archived=True))
    assert await database.read(lambda connection: on_record(connection, named, SECRET)) == "the team is archived"
    unknown = await database.read(lambda connection: on_record(connection, msgspec.structs.replace(named, team="none"), SECRET))
    assert isinstance(unknown, Principal)
    assert unknown.team == ""


async def test_an_erased_user_stays_out_by_every_subject_that_they_had_and_whoever_only_lost_one_does_not(database: Database) -> None:
    user = await database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    for subject in ("ada.l", "ada", None):
        await database.write(lambda connection, subject=subject: change_user(connection, user.id, SECRET, subject=subject))  # type: ignore[misc]
    former = msgspec.structs.replace(HOLDER, subject="ada.l")
    for holder in (HOLDER, former):
        assert await database.read(lambda connection, holder=holder: on_record(connection, holder, SECRET)) == holder  # type: ignore[misc]
    await database.write(lambda connection: erase_user(connection, user.id, SECRET))
    for holder in (HOLDER, former):
        assert await database.read(lambda connection, holder=holder: on_record(connection, holder, SECRET)) == "the user was erased"  # type: ignore[misc]
    assert isinstance(await database.read(lambda connection: on_record(connection, HOLDER, b"another secret")), Principal)


async def test_an_erased_user_stays_out_with_a_token_until_they_are_made_anew(database: Database) -> None:
    user = await database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    await database.write(lambda connection: erase_user(connection, user.id, SECRET))
    assert await database.read(lambda connection: on_record(connection, HOLDER, SECRET)) == "the user was erased"
    assert isinstance(await database.read(lambda connection: on_record(connection, msgspec.structs.replace(HOLDER, tenant="globex"), SECRET)), Principal)
    await database.write(lambda connection: erase_user(connection, user.id, SECRET))  # once more: there is no subject left to mark
    assert await database.read(lambda connection: on_record(connection, HOLDER, SECRET)) == "the user was erased"
    again = await database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    found = await database.read(lambda connection: on_record(connection, HOLDER, SECRET))
    assert isinstance(found, Principal)
    assert found.user == again.id


@pytest.mark.parametrize("recorded", [True, False])
async def test_an_archived_team_keeps_no_owner_out(database: Database, recorded: bool) -> None:
    team = await database.write(lambda connection: create_team(connection, "acme", "old"))
    user = await database.write(lambda connection: create_user(connection, "acme", role="owner", subject="ada", team=team.id)) if recorded else None
    await database.write(lambda connection: change_team(connection, team.id, archived=True))
    owner = msgspec.structs.replace(HOLDER, role="owner", team="old")
    found = await database.read(lambda connection: on_record(connection, owner, SECRET))
    assert isinstance(found, Principal)
    assert (found.role, found.team, found.team_name, found.user) == ("owner", "", "", user.id if user else "oidc:1")
    admin = msgspec.structs.replace(owner, role="admin")
    assert await database.read(lambda connection: on_record(connection, admin, SECRET)) == "the team is archived"
