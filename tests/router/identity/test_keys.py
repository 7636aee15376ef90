"""Keys: what the database holds, how long a worker remembers, who a key is."""

from __future__ import annotations

import asyncio
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from config.database import Database
from policies.access import Scopes, scopes_of
from retrieval.blobs import FolderBlobs
from retrieval.store import Documents
from router.identity import keys as api_keys
from router.identity.authenticator import CACHE_SECONDS, Authenticator
from router.identity.errors import InvalidName, Unknown
from router.identity.first_keys import FirstKeys, ensure_first_keys
from router.identity.keys import NewKey
from router.identity.tables import keys, users
from router.identity.teams import change_team, create_team
from router.identity.tenants import PLATFORM
from router.identity.users import change_user, create_user

SECRET = b"a secret of the tests"


async def make(database: Database, **fields: object) -> NewKey:
    given: dict[str, object] = {"tenant": "acme", "role": "member", **fields}
    return await database.write(lambda connection: api_keys.create_key(connection, SECRET, **given))  # type: ignore[arg-type]


async def test_a_key_is_stored_only_as_its_keyed_hash(database: Database) -> None:
    made = await make(database)
    (row,) = await database.read(lambda connection: connection.execute(select(keys)).mappings().all())
    assert made.key not in str(dict(row))
    assert row["hash"] == api_keys.key_hash(SECRET, made.key) != api_keys.key_hash(b"another secret", made.key)


async def test_a_revoked_key_is_dead_in_every_worker_well_within_a_second(database: Database) -> None:
    now = 100.0
    workers = [Authenticator(database, SECRET, lambda: now) for _ in range(3)]
    made = await make(database)
    for worker in workers:
        assert (await worker.principal(made.key)) is not None
    await database.write(lambda connection: api_keys.revoke_key(connection, made.id))
    now += CACHE_SECONDS
    assert CACHE_SECONDS < 1
    assert [await worker.principal(made.key) for worker in workers] == [None] * 3


async def test_an_expired_key_is_no_key(database: Database) -> None:
    made = await make(database, expires_at=time.time() - 1)
    assert await Authenticator(database, SECRET).principal(made.key) is None


async def test_a_key_knows_its_tenant_role_and_models(database: Database) -> None:
    made = await make(database, role="service", models=("mini", "claude"))
    principal = await Authenticator(database, SECRET).principal(made.key)
    assert principal is not None
    assert (principal.tenant, principal.role, principal.allowed_models, principal.platform) == ("acme", "service", ("mini", "claude"), False)


async def test_a_platform_key_belongs_to_no_tenant(database: Database) -> None:
    made = await make(database, tenant=PLATFORM, role="operator")
    principal = await Authenticator(database, SECRET).principal(made.key)
    assert principal is not None
    assert (principal.platform, principal.tenant) == (True, "")


@pytest.mark.parametrize(("tenant", "role", "error"), [("acme", "operator", InvalidName), (PLATFORM, "member", InvalidName), ("nobody", "member", Unknown)])
async def test_a_key_for_a_wrong_role_or_tenant_is_refused(database: Database, tenant: str, role: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await make(database, tenant=tenant, role=role)


async def test_the_first_keys_are_made_once_and_a_configured_one_replaces_the_configured_one(database: Database) -> None:
    def ensure(configured: str | None) -> FirstKeys:
        return database.write_blocking(lambda connection: ensure_first_keys(connection, SECRET, configured))

    first = await asyncio.to_thread(ensure, "configured-key-number-1")
    assert first.admin is None
    who = Authenticator(database, SECRET, iter(range(0, 1000, 10)).__next__)
    assert (await who.principal("configured-key-number-1")) is not None
    await asyncio.to_thread(ensure, "configured-key-number-2")
    assert (await who.principal("configured-key-number-1")) is None
    assert (await who.principal("configured-key-number-2")) is not None
    assert await asyncio.to_thread(ensure, None) == FirstKeys()


async def test_the_configured_key_is_not_rotated_and_is_good_again_at_the_next_start(database: Database) -> None:
    def ensure(configured: str | None) -> FirstKeys:
        return database.write_blocking(lambda connection: ensure_first_keys(connection, SECRET, configured))

    await asyncio.to_thread(ensure, "configured-key-number-1")
    (made,) = await database.read(lambda connection: api_keys.list_keys(connection, PLATFORM))
    with pytest.raises(InvalidName, match="change the variable"):
        await database.write(lambda connection: api_keys.rotate_key(connection, SECRET, made.id, overlap_s=0))
    who = Authenticator(database, SECRET, iter(range(0, 1000, 10)).__next__)
    for values in ({"expires_at": 1.0}, {"revoked_at": 1.0}):
        await database.write(lambda connection, values=values: connection.execute(keys.update().values(**values)))  # type: ignore[misc]
        assert (await who.principal("configured-key-number-1")) is None
        await asyncio.to_thread(ensure, "configured-key-number-1")
        assert (await who.principal("configured-key-number-1")) is not None


async def test_an_operators_key_that_expired_is_none_and_another_is_made(database: Database) -> None:
    def ensure() -> FirstKeys:
        return database.write_blocking(lambda connection: ensure_first_keys(connection, SECRET, None))

    first = await asyncio.to_thread(ensure)
    assert first.admin is not None
    assert (await asyncio.to_thread(ensure)).admin is None
    await database.write(lambda connection: connection.execute(keys.update().where(keys.c.role == "operator").values(expires_at=1.0)))
    again = await asyncio.to_thread(ensure)
    assert again.admin is not None
    assert await Authenticator(database, SECRET).principal(again.admin) is not None


# --- what narrows a key, and who it acts for ----------------------------------------------------------------------------------------------

ALL = Scopes(routes=("chat", "documents"), models=("mini",), networks=("10.0.0.0/8", "2001:db8::/32"), max_data_class="confidential")


class Clock:
    """A worker's clock; every look is beyond what it remembers."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += CACHE_SECONDS
        return self.now


async def write(database: Database, work: Any) -> Any:
    return await database.write(work)


async def test_a_key_knows_what_narrows_it_and_shows_it(database: Database) -> None:
    made = await make(database, scopes=ALL, expires_at=time.time() + 60)
    principal = await Authenticator(database, SECRET).principal(made.key, lambda: ip_address("10.1.2.3"))
    assert principal is not None
    assert scopes_of(principal) == ALL
    assert principal.expires_at == made.expires_at
    assert (await database.read(lambda connection: api_keys.get_key(connection, made.id))).scopes == ALL


async def test_a_key_is_limited_to_vector_stores_of_its_tenant_that_exist(database: Database, tmp_path: Path) -> None:
    documents = Documents(database, FolderBlobs(tmp_path))
    mine, theirs = await documents.create_store("acme"), await documents.create_store("globex")
    made = await make(database, scopes=Scopes(stores=(mine.id,)))
    principal = await Authenticator(database, SECRET).principal(made.key)
    assert principal is not None
    assert principal.stores == (mine.id,)
    for store in (theirs.id, "vs_nothing"):
        with pytest.raises(Unknown, match="No vector store with id") as failed:
            await make(database, scopes=Scopes(stores=(mine.id, store)))
        assert (failed.value.kind, failed.value.field) == ("vector_store", "stores")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"scopes": Scopes(networks=("10.0.0.1/8",))}, "networks"),
        ({"scopes": Scopes(networks=())}, "networks"),
        ({"scopes": Scopes(routes=())}, "routes"),
        ({"scopes": Scopes(models=("a\nb",))}, "models"),
        ({"scopes": Scopes(models=tuple(map(str, range(101))))}, "models"),
        ({"name": "a\0b"}, "name"),
        ({"tenant": PLATFORM, "role": "operator", "scopes": Scopes(stores=("vs_1",))}, "stores"),
        ({"tenant": PLATFORM, "role": "operator", "scopes": Scopes(max_data_class="public")}, "max_data_class"),
        ({"tenant": PLATFORM, "role": "operator", "team": "team_1"}, "team"),
    ],
)
async def test_what_a_key_cannot_be_is_refused_by_the_field_at_fault(database: Database, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidName) as failed:
        await make(database, **fields)
    assert failed.value.field == field
    assert await database.read(api_keys.list_keys) == []


async def test_a_key_with_networks_is_no_key_from_elsewhere(database: Database) -> None:
    made = await make(database, scopes=Scopes(networks=("10.0.0.0/8", "2001:db8::/32")))
    worker = Authenticator(database, SECRET)
    for address, good in (("10.255.0.1", True), ("11.0.0.1", False), ("2001:db8::5", True), ("2001:db9::5", False), (None, False)):
        found = await worker.principal(made.key, lambda address=address: None if address is None else ip_address(address))  # type: ignore[misc]
        assert (found is not None) is good, address
    assert await worker.principal(made.key) is None


async def test_the_address_is_asked_for_only_where_a_key_depends_on_it(database: Database) -> None:
    def never() -> None:
        raise AssertionError("nobody needs the address")

    assert await Authenticator(database, SECRET).principal((await make(database)).key, never) is not None


async def test_a_key_acts_for_its_user_and_team_and_follows_its_user_to_another_team(database: Database) -> None:
    one, two = [await write(database, lambda c, name=name: create_team(c, "acme", name)) for name in ("one", "two")]
    user = await write(database, lambda c: create_user(c, "acme", role="member", team=one.id))
    made = await make(database, user=user.id)
    worker = Authenticator(database, SECRET, Clock())
    principal = await worker.principal(made.key)
    assert principal is not None
    assert (principal.user, principal.team) == (user.id, one.id)
    await write(database, lambda c: change_user(c, user.id, SECRET, team=two.id))
    moved = await worker.principal(made.key)
    assert moved is not None
    assert moved.team == two.id


@pytest.mark.parametrize("way", ["user disabled", "user erased", "own team archived", "users team archived"])
async def test_the_keys_of_whoever_is_gone_are_dead_within_a_second_and_come_back_with_them(database: Database, way: str) -> None:
    team = await write(database, lambda c: create_team(c, "acme", "team"))
    user = await write(database, lambda c: create_user(c, "acme", role="member", team=team.id))
    mine = await make(database, **({"team": team.id} if way == "own team archived" else {"user": user.id}))
    now = 0.0
    workers = [Authenticator(database, SECRET, lambda: now) for _ in range(2)]
    other = await make(database)

    async def change(gone: bool) -> None:
        match way:
            case "user disabled":
                await write(database, lambda c: change_user(c, user.id, SECRET, disabled=gone))
            case "user erased":
                await write(database, lambda c: c.execute(users.update().values(erased_at=time.time() if gone else None)))
            case _:
                await write(database, lambda c: change_team(c, team.id, archived=gone))

    for gone in (False, True, False):
        await change(gone)
        now += CACHE_SECONDS
        assert [(await worker.principal(mine.key)) is None for worker in workers] == [gone] * 2, gone
        assert await workers[0].principal(other.key) is not None


async def test_a_key_whose_user_is_not_there_is_dead(database: Database) -> None:
    user = await write(database, lambda c: create_user(c, "acme", role="member"))
    made = await make(database, user=user.id)
    await write(database, lambda c: c.execute(users.delete()))
    assert await Authenticator(database, SECRET).principal(made.key) is None


@pytest.mark.parametrize(
    ("before", "key", "after", "acts_as"),
    [
        ("owner", "admin", "owner", "admin"),
        ("owner", "admin", "member", "member"),
        ("owner", "owner", "admin", "admin"),
        ("admin", "service", "member", "service"),
        ("admin", "auditor", "member", None),
        ("member", "member", "auditor", None),
    ],
)
async def test_a_users_role_bounds_their_keys_also_afterwards(database: Database, before: str, key: str, after: str, acts_as: str | None) -> None:
    user = await write(database, lambda c: create_user(c, "acme", role=before))
    made = await make(database, user=user.id, role=key)
    worker = Authenticator(database, SECRET, Clock())
    first = await worker.principal(made.key)
    assert first is not None
    assert first.role == key
    await write(database, lambda c: change_user(c, user.id, SECRET, role=after))
    then = await worker.principal(made.key)
    assert (None if then is None else then.role) == acts_as


async def test_a_key_does_not_do_more_than_its_user_and_is_not_for_somebody_gone_or_elsewhere(database: Database) -> None:
    team, other = [await write(database, lambda c, name=name: create_team(c, "acme", name)) for name in ("one", "two")]
    user = await write(database, lambda c: create_user(c, "acme", role="member", team=team.id))
    stranger = await write(database, lambda c: create_user(c, "globex", role="owner"))
    for fields, field in (({"role": "admin"}, "role"), ({"role": "auditor"}, "role"), ({"team": other.id}, "team")):
        with pytest.raises(InvalidName) as failed:
            await make(database, user=user.id, **fields)
        assert failed.value.field == field
    with pytest.raises(Unknown):
        await make(database, user=stranger.id)
    await write(database, lambda c: change_team(c, other.id, archived=True))
    await write(database, lambda c: change_user(c, user.id, SECRET, disabled=True))
    for fields in ({"team": other.id}, {"user": user.id}):
        with pytest.raises(InvalidName, match=r"archived|disabled"):
            await make(database, **fields)


# --- rotation ------------------------------------------------------------------------------------------------------------------------------


async def rotate(database: Database, key_id: str, **fields: Any) -> NewKey:
    return await database.write(lambda connection: api_keys.rotate_key(connection, SECRET, key_id, **{"overlap_s": 0.0, **fields}))


async def info(database: Database, key_id: str) -> api_keys.KeyInfo:
    return await database.read(lambda connection: api_keys.get_key(connection, key_id))


async def test_a_rotated_key_has_a_successor_of_the_same_reach_and_both_are_good_during_the_overlap(database: Database) -> None:
    team = await write(database, lambda c: create_team(c, "acme", "team"))
    user = await write(database, lambda c: create_user(c, "acme", role="member"))
    old = await make(database, scopes=ALL, team=team.id, user=user.id, name="reports", expires_at=time.time() + 1000)
    began = time.time()
    new = await rotate(database, old.id, overlap_s=100.0)
    before, after = await info(database, old.id), await info(database, new.id)
    for field in ("tenant", "team", "user", "role", "name", "scopes"):
        assert getattr(after, field) == getattr(before, field), field
    assert (before.replaced_by, after.replaced_by, new.key == old.key) == (new.id, None, False)
    assert before.expires_at == pytest.approx(began + 100, abs=30)
    assert after.expires_at == pytest.approx(began + 1000, abs=30)
    worker = Authenticator(database, SECRET)
    for key in (old, new):
        assert await worker.principal(key.key, lambda: ip_address("10.0.0.1")) is not None


async def test_a_key_that_is_rotated_without_overlap_is_dead_at_once(database: Database) -> None:
    old = await make(database)
    new = await rotate(database, old.id)
    worker = Authenticator(database, SECRET)
    assert await worker.principal(old.key) is None
    assert await worker.principal(new.key) is not None


async def test_an_overlap_never_prolongs_the_old_key(database: Database) -> None:
    ends = time.time() + 50
    old = await make(database, expires_at=ends)
    await rotate(database, old.id, overlap_s=1000.0)
    assert (await info(database, old.id)).expires_at == pytest.approx(ends)


async def test_a_key_is_rotated_once_and_a_dead_one_never(database: Database) -> None:
    once, revoked, expired = await make(database), await make(database), await make(database, expires_at=time.time() - 1)
    await rotate(database, once.id, overlap_s=100.0)
    await write(database, lambda c: api_keys.revoke_key(c, revoked.id))
    for key, message in ((once, "rotated already"), (revoked, "revoked"), (expired, "expired")):
        with pytest.raises(InvalidName, match=message):
            await rotate(database, key.id)
    with pytest.raises(Unknown):
        await rotate(database, "key_nothing")
    for overlap_s in (-1.0, api_keys.LONGEST_OVERLAP_S + 1, float("nan")):
        with pytest.raises(InvalidName, match="overlap_s"):
            await rotate(database, (await make(database)).id, overlap_s=overlap_s)
    assert len(await database.read(api_keys.list_keys)) == 7


async def test_of_many_that_rotate_a_key_at_once_one_does(database: Database) -> None:
    old = await make(database)
    done = await asyncio.gather(*(rotate(database, old.id, overlap_s=10.0) for _ in range(8)), return_exceptions=True)
    made = [each for each in done if isinstance(each, NewKey)]
    assert len(made) == 1
    assert all(isinstance(each, InvalidName) for each in done if each not in made)
    assert (await info(database, old.id)).replaced_by == made[0].id
