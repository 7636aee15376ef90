"""The page of the clients says what the catalogue of the clients says, and the runner tells right from wrong."""

from __future__ import annotations

import pytest

from tests.clients.catalog import CLIENTS, Client
from tests.clients.report import Check, Trial, page
from tests.clients.upstream import Asked, instance, think
from tests.docs.reading import ROOT, table
from tests.docs.reading import page as documented

TRIED = ROOT / "tests" / "clients"


def test_every_client_has_a_row_with_the_versions_of_its_packages_and_a_script() -> None:
    rows = {row[0]: row for row in table(documented("clients.md"))}
    assert list(rows) == [client.name for client in CLIENTS]
    for client in CLIENTS:
        assert [shown.rpartition(" ")[0] for shown in rows[client.name][1].split(", ")] == list(client.shown)
        assert rows[client.name][2] == client.configured.replace("`", "")
        assert (TRIED / client.script).is_file()


def test_every_script_is_in_the_catalogue() -> None:
    assert {path.name for path in TRIED.glob("try_*")} == {client.script for client in CLIENTS}


def test_what_the_page_says_does_not_hold_is_excused_with_a_reason() -> None:
    text = documented("clients.md")
    for row in table(text):
        client = next(client for client in CLIENTS if client.name == row[0])
        failing = {name for group in row[4].split("; ") for name in group.partition(": ")[2].split(", ")} if row[4] != "-" else set()
        assert len(failing) == len(client.excused)
        for name, why in client.excused.items():
            assert f"- {client.name}, {name}: {why}" in text


@pytest.mark.parametrize(
    ("ok", "excused", "wrong"),
    [(True, {}, []), (False, {}, ["chat: plain"]), (False, {"chat: plain": "why"}, []), (True, {"chat: plain": "why"}, ["chat: plain"])],
)
def test_a_check_is_wrong_where_it_fails_unexcused_or_holds_excused(ok: bool, excused: dict[str, str], wrong: list[str]) -> None:
    trial = Trial(client(excused), {"one": "1.0"}, [Check("chat: plain", ok, "")], 1.0)
    assert [check.check for check in trial.wrong] == wrong


def test_an_excuse_for_a_check_that_was_not_tried_is_wrong() -> None:
    trial = Trial(client({"chat: gone": "why"}), {"one": "1.0"}, [Check("chat: plain", True, "")], 1.0)
    assert [check.check for check in trial.wrong] == ["chat: gone"]


def test_the_page_groups_checks_by_dialect_and_lists_the_reasons() -> None:
    checks = [Check("chat: plain", True, ""), Check("chat: plain, streamed", True, ""), Check("chat: tools", False, ""), Check("messages: plain", True, "")]
    text = page([Trial(client({"chat: tools": "it has none"}), {"one": "1.0"}, checks, 1.0)])
    assert table(text) == [["some", "one 1.0", "base_url", "*chat*: plain, plain (streamed); *messages*: plain", "*chat*: tools"]]
    assert "- some, chat: tools: it has none" in text


def test_the_faked_model_calls_a_tool_for_every_city_and_then_says_what_came_back() -> None:
    weather = {"get_weather": {"type": "object", "properties": {"place": {"type": "string"}}}}
    answer = think(Asked(user="What is the weather in Paris and in Oslo?", tools=weather))
    assert [(call.name, "".join(call.pieces)) for call in answer.calls] == [("get_weather", '{"place": "Paris"}'), ("get_weather", '{"place": "Oslo"}')]
    told = think(Asked(user="What is the weather in Paris and in Oslo?", tools=weather, results=["21 C", "4 C"]))
    assert (list(told.calls), "".join(told.texts)) == ([], "The weather: 21 C; 4 C")


def test_the_faked_model_fills_a_schema_with_references() -> None:
    schema = {
        "$defs": {"Person": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}},
        "type": "object",
        "properties": {"people": {"type": "array", "items": {"$ref": "#/$defs/Person"}}, "kind": {"enum": ["b", "a"]}},
    }
    assert instance(schema) == {"people": [{"name": "Ada", "age": 36}], "kind": "b"}


def client(excused: dict[str, str]) -> Client:
    return Client("some", "try_some.py", ("one",), ("one",), "`base_url`", excused=excused)
