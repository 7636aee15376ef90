"""Who comes with a token is the user on record for its subject."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import Connection, insert, select

from config.database import Database, open_database
from policies.access import Principal, Role
from policies.claims import stable_id
from router import policy_store
from router.audit.erasing import erase_user
from router.audit.tables import prompts
from router.identity.holders import holder_id, on_record
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


POLICIES = (
    "version: 1\ndefault: extractive\nidentity: {issuers: {corp: {issuer: https://id.example.com/a, audience: x}}}\n",
    '{"version": 1, "default": "extractive", "identity": {"issuers": {"corp": {"issuer": "https://other.example.com", "audience": "x"}}}}',
)


async def test_erasing_reaches_what_a_holder_left_before_they_were_on_record_and_nobody_elses(database: Database) -> None:
    for text in POLICIES:
        await database.write(lambda connection, text=text: policy_store.add_version(connection, text, source="api", author=""))  # type: ignore[misc]
    issuers = ("https://id.example.com/a", "https://other.example.com")
    hers = [holder_id(SECRET, stable_id("oidc", issuer, "ada")) for issuer in issuers]
    other, foreign = holder_id(SECRET, stable_id("oidc", issuers[0], "eve")), holder_id(b"another", stable_id("oidc", issuers[0], "ada"))
    kept = [("acme", user) for user in (*hers, other, foreign)] + [("globex", hers[0])]

    def leave(connection: Connection) -> None:
        about = {"data_class": "internal", "created_at": 0.0, "expires_at": 9e9, "content": b""}
        rows = [{"request_id": f"r{number}", "tenant": tenant, "user_id": user, **about} for number, (tenant, user) in enumerate(kept)]
        connection.execute(insert(prompts), rows)

    await database.write(leave)
    user = await database.write(lambda connection: create_user(connection, "acme", role="member", subject="ada"))
    done = await database.write(lambda connection: erase_user(connection, user.id, SECRET, "acme"))
    assert done.deleted["prompts"] == 2
    left = await database.read(lambda connection: {(row.tenant, row.user_id) for row in connection.execute(select(prompts))})
    assert left == set(kept[2:])


def test_a_holders_id_tells_nothing_without_the_secret() -> None:
    plain = stable_id("oidc", "https://id.example.com", "ada@example.com")
    assert holder_id(SECRET, plain) != holder_id(b"another secret", plain) != plain
    assert (len(holder_id(SECRET, plain)), holder_id(SECRET, plain)[:5]) == (37, "oidc:")
