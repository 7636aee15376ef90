"""The books checked against each other: whatever is booked holds together, levels that come and go too, and a changed counter is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, update

from adapters.types import Usage
from config.database import Database, open_database
from config.prices import Price
from policies.access import Principal
from policies.schema import TenantBudget
from router import policy_store
from router.audit.findings import Finding
from router.audit.ledger_check import check_ledger
from router.audit.tables import audit_heads, audit_log, ledger_seals
from router.audit.triggers import changeable
from router.launch import migrate_state
from router.money.accounting import DAY_S, periods_of
from router.money.batch import CountersMissing, Entry, Next, Open, Release, Settle, book, make_counters
from router.money.levels import caps_of
from router.money.recovery import recover
from router.money.rollup import usage_days
from router.money.sealing import LedgerChain, ledger_heads
from router.money.settlement import AttemptPlan, Booking, Counter, Settlement
from router.tables import budgets, ledger, reservations
from tests.seals import SEALS, SECRET

BUDGETS: tuple[dict[str, Any], ...] = (
    {"month": 1000},
    {
        "per_key": {"day": 1000, "month": 1000},
        "models": {"gpt": {"day": 1000}, "mini": {"month": 1000}, "scripted": {"day": 1000}},
        "teams": {"red": {"day": 1000}},
    },
    {"day": 1000, "per_key": {"month": 1000}, "models": {"mini": {"day": 1000}}, "teams": {"team_1": {"month": 1000}}},
)
"""Of the policy versions 1, 2, 3."""

MODELS = {"mini": "gpt", "large": "gpt-large", "plain": "scripted"}
"""The policies' backends; `plain` names no model, so that its own default is what was planned."""

ANSWERED = ("gpt", "gpt-2026-01-01", "gpt-large", "scripted")
MIDNIGHT = 1_796_083_200.0  # of the first of December 2026: a month ends too
KEYS = ("key_a", "key_b", "")


def text_of(budget: dict[str, Any]) -> str:
    backends = {"mini": {"model": "gpt"}, "large": {"model": "gpt-large"}, "plain": {}}
    file = {"version": 1, "backends": {name: {"kind": "scripted", **table} for name, table in backends.items()}, "tenants": {"acme": {"budget_usd": budget}}}
    return msgspec.json.encode(file).decode()


def opened(url: str) -> Database:
    database = open_database(url)
    migrate_state(database)
    for budget in BUDGETS:
        database.write_blocking(lambda connection, budget=budget: policy_store.add_version(connection, text_of(budget), source="file", author=""))  # type: ignore[misc]
    return database


@dataclass
class Books:
    """Requests as a worker books them."""

    database: Database
    now: float = MIDNIGHT - 3_600
    made: int = 0
    open: dict[int, Booking] = field(default_factory=dict)
    recovered: dict[int, Booking] = field(default_factory=dict)

    def write(self, entry: Entry) -> None:
        while True:
            try:
                self.database.write_blocking(lambda connection: book(connection, "w", [entry], LedgerChain(SEALS)))
                return
            except CountersMissing as error:
                self.make(error.counters)

    def make(self, missing: tuple[Counter, ...]) -> None:
        self.database.write_blocking(lambda connection: make_counters(connection, missing))

    def plan(self, backend: str, late_s: float = 0.0) -> AttemptPlan:
        return AttemptPlan(backend, "p", MODELS[backend], Price(input=1.0, output=1.0), 10, 10, 100, "default", self.now + late_s)

    def begin(self, place: int, version: int, key: str, backend: str, *, again: bool = False) -> None:
        """`again`: the request's attempts before were settled, and it makes one more, as a repair does."""
        if place in self.open:
            return
        self.made += 1
        day, month = periods_of(int(self.now // DAY_S))
        principal = Principal(role="member", tenant="acme", key_id=key, team="team_1", team_name="red")
        booking = Booking(
            request_id=f"r{place}" if again else f"r{place}-{self.made}",
            tenant="acme",
            key_id=key,
            policy_version=version,
            caps=caps_of(msgspec.convert(BUDGETS[version - 1], TenantBudget), principal),
            day=day,
            month=month,
            attempt=self.made,
            plan=self.plan(backend, 1.0),
            team=principal.team,
        )
        self.write(Open(booking))
        self.open[place] = booking

    def settlement(self, model: str, cost: int) -> Settlement:
        return Settlement(outcome="ok", usage=Usage(), cost=cost, provider_request_id=None, model=model, delivered_characters=0, error=None, ended_at=self.now)

    def follow(self, place: int, model: str, cost: int, backend: str) -> None:
        if (booking := self.open.get(place)) is not None:
            plan = self.plan(backend)
            self.write(Next(booking, self.settlement(model, cost), plan))
            booking.attempt, booking.plan = booking.attempt + 1, plan

    def settle(self, place: int, model: str, cost: int) -> None:
        for booking in (self.open.pop(place, None), self.recovered.pop(place, None)):
            if booking is not None:
                self.write(Settle(booking, self.settlement(model, cost)))

    def release(self, place: int) -> None:
        if (booking := self.open.pop(place, None)) is not None:
            self.write(Release(booking))

    def crash(self) -> None:
        self.database.write_blocking(lambda connection: recover(connection, "w", self.now, SEALS))
        self.recovered, self.open = self.open, {}

    def check(self) -> list[Finding]:
        return self.database.read_blocking(lambda connection: check_ledger(connection, SECRET))

    def forget(self) -> None:
        def work(connection: Connection) -> None:
            with changeable(connection, "ledger", "audit_log"):
                for table in (ledger, usage_days, budgets, reservations, ledger_heads, ledger_seals, audit_log, audit_heads):
                    connection.execute(delete(table))

        self.database.write_blocking(work)


PLACE, COST = st.integers(0, 2), st.integers(0, 200)
STEPS = st.one_of(
    st.tuples(st.just("begin"), PLACE, st.integers(1, len(BUDGETS)), st.sampled_from(KEYS), st.sampled_from(sorted(MODELS))),
    st.tuples(st.just("again"), PLACE, st.integers(1, len(BUDGETS)), st.sampled_from(KEYS), st.sampled_from(sorted(MODELS))),
    st.tuples(st.just("follow"), PLACE, st.sampled_from(ANSWERED), COST, st.sampled_from(sorted(MODELS))),
    st.tuples(st.just("settle"), PLACE, st.sampled_from(ANSWERED), COST),
    st.tuples(st.just("release"), PLACE),
    st.tuples(st.just("crash")),
    st.tuples(st.just("wait"), st.sampled_from((0.5, 1_800.0, 43_200.0))),
)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_whatever_is_booked_holds_together(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database = opened(f"sqlite:///{tmp_path / 'books.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url"))

    @settings(max_examples=120 if kind == "sqlite" else 25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, min_size=1, max_size=14))
    def run(steps: list[tuple[Any, ...]]) -> None:
        books = Books(database)
        for step in steps:
            match step:
                case ("begin", place, version, key, backend):
                    books.begin(place, version, key, backend)
                case ("again", place, version, key, backend):
                    books.begin(place, version, key, backend, again=True)
                case ("follow", place, model, cost, backend):
                    books.follow(place, model, cost, backend)
                case ("settle", place, model, cost):
                    books.settle(place, model, cost)
                case ("release", place):
                    books.release(place)
                case ("crash",):
                    books.crash()
                case ("wait", seconds):
                    books.now += seconds
        try:
            assert books.check() == []
        finally:
            books.forget()

    try:
        run()
    finally:
        database.close()


@pytest.fixture
def books(database_url: str) -> Any:
    database = opened(database_url)
    yield Books(database)
    database.close()


def found_with(books: Books, *statements: Any) -> set[tuple[str, str, str]]:
    """What is found once these have run; nothing of it stays."""

    class Undone(Exception): ...

    said: list[Finding] = []

    def work(connection: Connection) -> None:
        for statement in statements:
            connection.execute(statement)
        said.extend(check_ledger(connection, SECRET))
        raise Undone

    with pytest.raises(Undone):
        books.database.write_blocking(work)
    return {(each.row, each.column, each.expected) for each in said}


def moved(place: Counter, amount: int) -> Any:
    mine = (budgets.c.tenant == place.tenant, budgets.c.scope == place.scope, budgets.c.period == place.period)
    return update(budgets).where(*mine).values(spent=budgets.c.spent + amount)


def counters(books: Books) -> dict[Counter, int]:
    query = select(budgets)
    return books.database.read_blocking(lambda connection: {Counter(row.tenant, row.scope, row.period): row.spent for row in connection.execute(query)})


def test_every_counter_of_a_level_is_held_against_the_rows_that_moved_it(books: Books) -> None:
    for place, (key, backend, model) in enumerate((("key_a", "mini", "gpt-2026-01-01"), ("key_a", "large", "gpt-large"), ("key_b", "mini", "gpt"))):
        books.begin(place, 2, key, backend)
        books.settle(place, model, 100)
    found = counters(books)
    assert {(place.scope, place.period[:3]): spent for place, spent in found.items()} == {
        ("", "day"): 300,
        ("", "mon"): 300,
        ("key:key_a", "day"): 200,
        ("key:key_a", "mon"): 200,
        ("key:key_b", "day"): 100,
        ("key:key_b", "mon"): 100,
        ("model:gpt", "day"): 200,
        ("model:mini", "mon"): 200,
        ("team:team_1", "day"): 300,
    }
    assert books.check() == []
    for place, spent in found.items():
        for amount in (-1, 1):
            rows = {row for row, column, _ in found_with(books, moved(place, amount)) if column == "spent"}
            named = f"acme {place.scope} {place.period}" if place.scope else f"acme {place.period}"
            loose = place.scope.startswith("team:") and amount < 0  # the policy names it by what it is called, and that no row says
            assert (named in rows) is not loose, (place, amount)
        gone = delete(budgets).where(budgets.c.scope == place.scope, budgets.c.period == place.period)
        assert ((named, "spent", str(spent)) in found_with(books, gone)) is not place.scope.startswith("team:")


def test_a_model_that_the_policy_does_not_name_may_be_any(books: Books) -> None:
    books.begin(0, 2, "key_a", "plain")
    books.settle(0, "scripted-2026", 100)
    found = {place.scope: place for place in counters(books) if place.period.startswith("day:")}
    for scope, amount, wrong in (("model:scripted", -100, False), ("model:scripted", 1, True), ("key:key_a", -1, True)):
        assert any(scope in row for row, _, _ in found_with(books, moved(found[scope], amount))) is wrong, (scope, amount)


def test_a_level_that_came_later_lies_between_what_its_rows_surely_moved_and_what_they_may_have(books: Books) -> None:
    books.begin(0, 1, "key_a", "large")  # before the keys have budgets
    books.begin(1, 2, "key_a", "large")
    books.settle(0, "gpt-large", 7)
    books.settle(1, "gpt-large", 100)
    books.begin(2, 1, "key_b", "large")
    books.settle(2, "gpt-large", 5)
    books.begin(2, 2, "key_b", "large")  # its counter begins with what the ledger says
    books.settle(2, "gpt-large", 10)
    found = {place.scope: (place, spent) for place, spent in counters(books).items() if place.period.startswith("day:")}
    assert (found["key:key_a"][1], found["key:key_b"][1]) == (100, 15)
    assert books.check() == []
    place = found["key:key_a"][0]
    for amount, wrong in ((0, False), (7, False), (8, True), (-1, True)):
        expected = (f"acme key:key_a {place.period}", "spent", "100 to 107")
        assert (expected in found_with(books, moved(place, amount))) is wrong, amount


def test_what_is_set_aside_in_a_level_is_that_of_the_reservations_that_name_it(books: Books) -> None:
    books.begin(0, 2, "key_a", "mini")
    assert books.check() == []
    day = next(place.period for place in counters(books) if place.period.startswith("day:"))
    one_less = update(budgets).where(budgets.c.scope == "model:gpt").values(reserved=99)
    assert found_with(books, one_less) == {(f"acme model:gpt {day}", "reserved", "100")}
    unnamed = found_with(books, update(reservations).values(counters="[]"))
    assert {row.split()[1] for row, column, _ in unnamed if column == "reserved"} == {"key:key_a", "model:gpt", "model:mini", "team:team_1"}
    broken = found_with(books, update(reservations).values(counters="{"))
    assert any(column == "counters" for _, column, _ in broken)


def test_rows_of_a_policy_version_that_is_gone_or_no_policy_are_sure_of_nothing(books: Books) -> None:
    books.database.write_blocking(lambda connection: policy_store.add_version(connection, "tenants: [", source="file", author=""))
    for version, key in ((4, "key_a"), (9, "key_b")):
        books.begin(0, 2, key, "mini")
        books.open[0].policy_version = version
        books.settle(0, "gpt", 50)
    assert books.check() == []
    place = next(place for place in counters(books) if place.scope == "key:key_a" and place.period.startswith("day:"))
    assert not any("key:key_a" in row for row, _, _ in found_with(books, moved(place, -50)))
    assert any("key:key_a" in row for row, _, _ in found_with(books, moved(place, 1)))


def test_a_request_booked_before_midnight_counts_in_its_day_however_late_it_ends(books: Books) -> None:
    books.now = MIDNIGHT - 600
    books.begin(0, 2, "key_a", "mini")
    books.now = MIDNIGHT + 600
    books.settle(0, "gpt", 100)
    assert books.check() == []
    day = Counter("acme", "", periods_of(int((MIDNIGHT - 600) // DAY_S))[0])
    next_day = {"tenant": "acme", "scope": "", "period": periods_of(int(MIDNIGHT // DAY_S))[0], "cap": 0, "spent": 100, "reserved": 0}
    wrong = found_with(books, moved(day, -100), insert(budgets).values(next_day))
    assert {(f"acme {day.period}", "spent", "100"), (f"acme {next_day['period']}", "spent", "0")} <= wrong


def test_a_level_that_came_between_an_estimate_and_its_correction_may_hold_the_estimate(books: Books) -> None:
    books.begin(0, 1, "key_a", "large")
    books.crash()  # booked at what was set aside, in the tenant's counters
    books.begin(1, 2, "key_a", "large")  # the key's counter begins with that
    books.settle(0, "gpt-large", 3)  # late: corrects
    books.settle(1, "gpt-large", 10)
    found = {place.scope: spent for place, spent in counters(books).items() if place.period.startswith("day:")}
    assert (found[""], found["key:key_a"]) == (13, 110)
    assert books.check() == []
    assert found_with(books, moved(next(place for place in counters(books) if place.scope == "key:key_a"), 1))


def test_a_team_that_a_budget_names_by_id_counts_to_the_picodollar(books: Books) -> None:
    books.begin(0, 3, "key_a", "large")
    books.settle(0, "gpt-large", 40)
    place = next(place for place in counters(books) if place.scope == "team:team_1")
    assert place.period.startswith("month:")
    for amount in (-1, 1):
        assert found_with(books, moved(place, amount)) == {(f"acme team:team_1 {place.period}", "spent", "40")}
