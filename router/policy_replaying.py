"""The decision log decided again: every request under the policy version that decided it. Level 0 of a backtest."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from sqlalchemy import Connection

from policies.load import Policy, PolicyError, load_policy
from policies.replaying import Changed, Replayer
from router import policy_store
from router.audit.replaying import Capable, Chosen, beginning, count, page, read
from router.policy_in_force import known_price


class Unreadable(Struct):
    """A version that cannot be loaded any more, and how many decisions it made."""

    reason: str
    requests: int = 0


class Replayed(Struct, frozen=True, kw_only=True):
    """How many decisions were made again, how many came out the same, the first that did not, and the versions that cannot be loaded any more."""

    requests: int
    identical: int
    changed: tuple[Changed, ...]
    unreadable: dict[int, Unreadable]

    @property
    def share(self) -> float:
        """Of those that are the same; 1 where there was nothing to decide."""
        return self.identical / self.requests if self.requests else 1.0


def replayed(
    connection: Connection, chosen: Chosen, source: str, began: Callable[[int], None] = lambda _: None, done: Callable[[int], None] = lambda _: None
) -> Replayed:
    """Blocking. `began` is told how many requests there are, `done` of every page how many it had. The kinds of backend must be loaded."""
    replayer, able = Replayer(), Capable(connection)
    policies: dict[int, Policy | None] = {}
    unreadable: dict[int, Unreadable] = {}
    began(count(connection, chosen))
    place = beginning(connection, chosen)
    while rows := page(connection, chosen, place):
        place = (rows[-1]["created_at"], rows[-1]["request_id"])
        for record in read(connection, rows, able):
            number = record.policy_version
            if number not in policies:
                loaded = policies[number] = _loaded(connection, number, source, unreadable)
            else:
                loaded = policies[number]
            if loaded is None:
                unreadable[number].requests += 1
            else:
                replayer.add(loaded, record)
        done(len(rows))
    result = replayer.result()
    return Replayed(requests=result.requests, identical=result.identical, changed=result.changed, unreadable=unreadable)


def _loaded(connection: Connection, number: int, source: str, unreadable: dict[int, Unreadable]) -> Policy | None:
    version = policy_store.get_version(connection, number)
    if version is None:
        unreadable[number] = Unreadable("it is not in the database")
        return None
    try:
        return load_policy(version.text, source, price_of=known_price)
    except PolicyError as error:
        unreadable[number] = Unreadable(str(error))
        return None
