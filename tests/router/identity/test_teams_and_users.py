"""Teams and users: made, changed, unique inside their tenant."""

from __future__ import annotations

from typing import Any

import pytest

from config.database import Database
from router.identity import teams, users
from router.identity.errors import Exists, InvalidName, Unknown

SECRET = b"a secret of the tests"


async def team(database: Database, name: str = "Research", tenant: str = "acme") -> teams.Team:
    return await database.write(lambda connection: teams.create_team(connection, tenant, name))


async def user(database: Database, tenant: str = "acme", **fields: Any) -> users.User:
    return await database.write(lambda connection: users.create_user(connection, tenant, **{"role": "member", **fields}))


async def test_a_teams_name_is_unique_in_its_tenant_only(database: Database) -> None:
    mine = await team(database)
    with pytest.raises(Exists, match=mine.id):
        await team(database)
    theirs = await team(database, tenant="globex")
    other = await team(database, "Sales")
    with pytest.raises(Exists):
        await database.write(lambda c: teams.change_team(c, other.id, name="Research"))
    assert (await database.write(lambda c: teams.change_team(c, mine.id, name="Research"))).name == "Research"
    assert [each.id for each in await database.read(lambda c: teams.list_teams(c, "acme"))] == [mine.id, other.id]
    assert len(await database.read(teams.list_teams)) == 3
    with pytest.raises(Unknown):
        await database.read(lambda c: teams.get_team(c, theirs.id, "acme"))


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a\0", "x" * 201])
async def test_a_team_is_called_something_that_can_be_shown(database: Database, name: str) -> None:
    with pytest.raises(InvalidName):
        await team(database, name)


async def test_archiving_twice_keeps_the_first_time_and_a_team_comes_back(database: Database) -> None:
    made = await team(database)

    async def archive(archived: bool) -> float | None:
        return (await database.write(lambda c: teams.change_team(c, made.id, archived=archived))).archived_at

    first = await archive(True)
    assert first is not None
    assert await archive(True) == first
    assert await archive(False) is None


async def test_a_subject_is_one_users_of_a_tenant_and_none_is_anybodys(database: Database) -> None:
    ada = await user(database, subject="auth0|1", email="ada@example.com", display_name="Ada")
    with pytest.raises(Exists) as failed:
        await user(database, subject="auth0|1")
    assert (failed.value.field, "auth0" in str(failed.value)) == ("subject", False)
    await user(database, tenant="globex", subject="auth0|1")
    nobody, no_one = await user(database), await user(database)
    with pytest.raises(Exists):
        await database.write(lambda c: users.change_user(c, nobody.id, SECRET, subject="auth0|1"))
    gone = await database.write(lambda c: users.change_user(c, ada.id, SECRET, subject=None, email=None, display_name=None))
    assert (gone.subject, gone.email, gone.display_name) == (None, None, None)
    assert (await database.write(lambda c: users.change_user(c, no_one.id, SECRET, subject="auth0|1"))).subject == "auth0|1"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"role": "operator"}, "role"), ({"subject": ""}, "subject"), ({"email": "x" * 321}, "email"), ({"display_name": "a\0"}, "display_name")],
)
async def test_what_a_user_cannot_be_is_refused_by_the_field_at_fault(database: Database, fields: dict[str, Any], field: str) -> None:
    made = await user(database)
    with pytest.raises(InvalidName) as failed:
        await user(database, **fields)
    assert failed.value.field == field
    with pytest.raises(InvalidName) as failed:
        await database.write(lambda c: users.change_user(c, made.id, SECRET, **fields))
    assert failed.value.field == field
    assert await database.read(users.list_users) == [made]


async def test_a_user_is_in_a_live_team_of_the_same_tenant(database: Database) -> None:
    mine, theirs = await team(database), await team(database, tenant="globex")
    made = await user(database, team=mine.id)
    for wrong in (theirs.id, "team_nothing", "a\0b"):
        with pytest.raises(Unknown):
            await user(database, team=wrong)
        with pytest.raises(Unknown):
            await database.write(lambda c, wrong=wrong: users.change_user(c, made.id, SECRET, team=wrong))  # type: ignore[misc]
    assert [each.id for each in await database.read(lambda c: users.list_users(c, "acme", mine.id))] == [made.id]
    assert await database.read(lambda c: users.list_users(c, "acme", "a\0b")) == []
    await database.write(lambda c: teams.change_team(c, mine.id, archived=True))
    with pytest.raises(InvalidName, match="archived"):
        await user(database, team=mine.id)
    assert (await database.write(lambda c: users.change_user(c, made.id, SECRET, team=None))).team is None


async def test_an_erased_user_is_not_changed(database: Database) -> None:
    made = await user(database)
    await database.write(lambda c: c.execute(users.users.update().values(erased_at=1.0)) and None)
    with pytest.raises(InvalidName, match="erased"):
        await database.write(lambda c: users.change_user(c, made.id, SECRET, disabled=False))


@pytest.mark.parametrize("id", ["", "nothing", "a\0b", "x" * 1000, "'; DROP TABLE users; --"])
async def test_whatever_an_id_is_it_is_just_not_there(database: Database, id: str) -> None:
    for read in (teams.get_team, users.get_user):
        with pytest.raises(Unknown):
            await database.read(lambda c, read=read: read(c, id))  # type: ignore[misc]
