from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta, Struct

from config import yamlfile
from config.yamlfile import Problem, Schema, YamlError, decode_yaml, read_yaml


class Shape(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: str
    size: int = 1


class Circle(Shape, frozen=True, forbid_unknown_fields=True, kw_only=True):
    radius: float


class Weighted(Struct, frozen=True):
    weighted: dict[str, float]


class When(Struct, frozen=True):
    task: tuple[str, ...] | str | None = None
    grounded: bool | None = None


class Rule(Struct, frozen=True, kw_only=True):
    name: str
    use: tuple[str, ...] | Weighted
    when: When = When()
    mode: Literal["redact", "block"] = "redact"


class Even(Struct, frozen=True):
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise ValueError("must be even")


class Holder(Struct, frozen=True):
    a: Even


class File(Struct, frozen=True, kw_only=True):
    version: Literal[1] = 1
    count: Annotated[int, Meta(ge=1, le=100_000)] = 1
    share: float = 0.5
    on: bool = False
    title: str = ""
    names: tuple[str, ...] = ()
    table: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    rules: tuple[Rule, ...] = ()
    free: dict[str, Any] = {}
    pair: tuple[int, str] | None = None


SCHEMA = Schema(by_kind={Shape: {"plain": Shape, "circle": Circle}}, later={File: frozenset({"cascade"})})


def problems(text: str) -> list[Problem]:
    with pytest.raises(YamlError) as caught:
        decode_yaml(text, File, source="policy.yaml", schema=SCHEMA)
    return list(caught.value.problems)


def only(text: str) -> Problem:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def decoded(text: str) -> File:
    return decode_yaml(text, File, source="policy.yaml", schema=SCHEMA)


def test_a_whole_file_becomes_typed_values() -> None:
    file = decoded(
        """
version: 1
count: 12_000
share: 1e3
title: hello
names: [a, b]
table: {on: off, yes: no, 1: one}
shapes:
  dot: {kind: plain}
  disc: {kind: circle, radius: 2}
rules:
  - {name: one, use: [a], when: {task: code, grounded: yes}}
  - {name: two, use: {weighted: {a: 1, b: 2.5}}, mode: block, when: {task: [code, math]}}
free: {a: [1, 2.5, true, null, "3", on]}
pair: [1, x]
"""
    )
    assert (file.count, file.share, file.title, file.names) == (12_000, 1000.0, "hello", ("a", "b"))
    assert file.table == {"on": "off", "yes": "no", "1": "one"}
    assert file.shapes == {"dot": Shape(kind="plain"), "disc": Circle(kind="circle", radius=2.0)}
    assert file.rules[0] == Rule(name="one", use=("a",), when=When(task="code", grounded=True))
    assert file.rules[1].use == Weighted(weighted={"a": 1.0, "b": 2.5})
    assert file.rules[1].when.task == ("code", "math")
    assert file.free == {"a": [1, 2.5, True, None, "3", "on"]}
    assert file.pair == (1, "x")


def test_an_unknown_key_is_named_with_line_column_path_and_suggestion() -> None:
    text = "version: 1\nrules:\n  - name: x\n    usee: [a]\n    use: [a]\n"
    assert only(text) == Problem(4, 5, "rules[0].usee", "unknown key 'usee'", "use")
    with pytest.raises(YamlError, match=r"^policy\.yaml:4:5: rules\[0\]\.usee: unknown key 'usee'; did you mean 'use'\?$"):
        decoded(text)


def test_an_unknown_key_near_nothing_lists_what_is_known() -> None:
    assert "known: name, use, when, mode" in only("rules: [{name: x, use: [a], zzzzzz: 1}]").message


def test_a_key_of_a_later_release_is_refused_as_not_supported_yet() -> None:
    assert only("cascade: {on: [a]}") == Problem(1, 1, "cascade", "'cascade' is not supported yet")


def test_all_problems_are_collected_in_the_order_of_the_file() -> None:
    text = "version: 2\ncount: many\nshare: [1]\nrules:\n  - {use: [a], mode: redcat}\n  - {name: 5, use: 3}\nnmaes: []\n"
    found = problems(text)
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "version"),
        (2, "count"),
        (3, "share"),
        (5, "rules[0]"),
        (5, "rules[0].mode"),
        (6, "rules[1].name"),
        (6, "rules[1].use"),
        (7, "nmaes"),
    ]
    assert found[3].message == "the key 'name' is missing"
    assert found[4].suggestion == "redact"
    assert found[6].message == "expected a list or a mapping, found the number 3"
    assert found[7].suggestion == "names"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: 5", "expected a string, found the number 5; put it in quotes: '5'"),
        ("title: 1e3", "expected a string, found the number 1e3; put it in quotes: '1e3'"),
        ("title: 12_000", "expected a string, found the number 12_000; put it in quotes: '12_000'"),
        ("title: true", "expected a string, found true; put it in quotes: 'true'"),
        ("title:", "expected a string, found nothing"),
        ("title: ~", "expected a string, found nothing"),
        ("title: {a: 1}", "expected a string, found a mapping"),
        ("names: a", "expected a list, found 'a'; write [a]"),
        ("count: 1.5", "expected a whole number, found the number 1.5"),
        ("count: '5'", "expected a whole number, found the string '5'; write it without quotes"),
        ("count: 010", "expected a whole number, found the number 010; write it without the leading zero"),
        ("count: true", "expected a whole number, found true"),
        ("count: 1:30", "expected a whole number, found '1:30'"),
        ("count: 0x10", "expected a whole number, found '0x10'"),
        ("count: 0", "must be at least 1, found 0"),
        ("count: 1e999", "expected a whole number, found the number 1e999"),
        ("share: .inf", "expected a number, found '.inf'"),
        ("share: 1e999", "expected a number, found the number 1e999"),
        ("on: 1", "expected true or false, found the number 1"),
        ("on: 'true'", "expected true or false, found the string 'true'"),
        ("pair: [1]", "expected 2 items, found 1"),
        ("table: [a]", "expected a mapping, found a list"),
        ("? [a]\n: 1", "a key must be a string, found a list"),
        ("shapes: {a: {kind: circel, radius: 1}}", "unknown kind 'circel'"),
        ("shapes: {a: {size: 1}}", "the key 'kind' is missing; one of circle, plain"),
        ("shapes: {a: {kind: plain, radius: 1}}", "unknown key 'radius'; known: kind, size"),
        ("table: {a: b, a: c}", "the key 'a' is already there, in line 1"),
        ("title: !!str 5", "tags are not supported: tag:yaml.org,2002:str"),
        ("title: !secret x", "tags are not supported: !secret"),
        ("title: !!python/object/apply:os.system [ls]", "tags are not supported: tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: &x {b: 1}\ntable: {<<: *x}", "merge keys (<<) are not supported; write the keys out"),
        ("", "the file is empty"),
        ("# nothing", "the file is empty"),
        ("[1]", "expected a mapping, found a list"),
    ],
)
def test_each_mistake_is_told_in_plain_words(text: str, message: str) -> None:
    assert message in [problem.message for problem in problems(text)]


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO", "y", "n", "2024-01-01", "1.2.3", "a: b".replace(": ", "-"), "'5'", '"true"'])
def test_words_that_yaml_1_1_turns_into_other_things_stay_strings(word: str) -> None:
    assert decoded(f"title: {word}").title == word.strip("'\"")


@pytest.mark.parametrize("text", ["title: 'x", "a: b: c", "- a\nb: c", "title: \x00", "title: \ud800", "a: *nowhere", "--- a\n--- b", "\tx: 1", "title: @x"])
def test_broken_yaml_is_a_problem_with_a_place(text: str) -> None:
    problem = only(text)
    assert "not valid YAML" in problem.message
    assert problem.line >= 1
    assert problem.column >= 1


def test_anchors_and_aliases_work() -> None:
    file = decoded("rules:\n  - {name: one, use: &both [a, b]}\n  - {name: two, use: *both}\n")
    assert file.rules[1].use == ("a", "b")


def test_an_alias_bomb_is_refused_quickly() -> None:
    lines = ["free:", "  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    started = time.process_time()
    assert "once aliases are expanded" in problems("\n".join(lines))[-1].message
    assert time.process_time() - started < 5


def test_an_alias_to_its_own_parent_is_refused() -> None:
    assert "nested deeper" in only("free: &a {b: *a}").message


def test_deep_nesting_is_refused_before_anything_recursive_runs() -> None:
    assert "nested deeper than 64 levels" in only("free: " + "[" * 50_000).message or "not valid YAML" in only("free: " + "[" * 50_000).message
    assert "nested deeper than 64 levels" in only("free: " + "{a: " * 100 + "1" + "}" * 100).message


def test_a_huge_file_is_refused() -> None:
    assert "at most 1,000,000 are read" in only("#" * 1_000_001).message


def test_problems_are_cut_off_after_a_hundred() -> None:
    assert len(problems("\n".join(f"key{n}: 1" for n in range(300)))) == 100


def test_sections_without_a_problem_can_be_used_although_another_has_one() -> None:
    document = read_yaml("names: [a]\ncount: x\n", File, schema=SCHEMA)
    assert document.value is None
    assert document.sections == {"names": ("a",)}
    assert document.places.problem(("names", 0), "seen") == Problem(1, 9, "names[0]", "seen")
    assert document.places.problem(("names", 7, "deep"), "nearest parent").column == 8
    assert document.places.keys(()) == ("names", "count")


def test_a_structs_own_check_is_a_problem_at_its_place() -> None:
    with pytest.raises(YamlError, match="x:1:4: a: must be even"):
        decode_yaml("a: {n: 3}", Holder, source="x")


@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML was built without libyaml")
@pytest.mark.parametrize("text", ["a: b: c", "title: 5", "title: '5'", "count: !x 1", "free: {a: [1, 'on', on]}", "rules: [{nam: x}]", "table: {a: 1, a: 2}"])
def test_both_loaders_of_pyyaml_find_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def places() -> list[tuple[int, str]]:
        return [(problem.line, problem.path) for problem in read_yaml(text, File, schema=SCHEMA).problems]

    with_c = places()
    monkeypatch.setattr(yamlfile, "_Loader", yaml.SafeLoader)
    assert places() == with_c


@given(st.text(alphabet=st.sampled_from(" \n\t:-[]{}&*!?|>'\"#%@`,abnotrue01.e_~<\x00é\ud800"), max_size=80))
def test_no_text_raises_anything_but_the_error(text: str) -> None:
    document = read_yaml(text, File, schema=SCHEMA)
    assert (document.value is None) == bool(document.problems)


NUMERIC = re.compile(r"[-+]?[0-9._]*[0-9][0-9._]*(?:[eE][-+]?[0-9]+)?")


def versions_differ(text: str) -> bool:
    """Whether a plain scalar is a text to PyYAML, which knows YAML 1.1, and may be a number in YAML 1.2, as `0E0`, `1e5`, `-.5` and `09` are."""
    return NUMERIC.fullmatch(text) is not None and yaml.safe_load(text) == text


@given(
    st.dictionaries(st.text(min_size=1, max_size=5), st.text(max_size=8), max_size=4), st.integers(1, 100_000), st.floats(allow_nan=False, allow_infinity=False)
)
@example({"0E0": "1"}, 1, 0.5)
@example({"a": "0E0"}, 1, 0.5)
@example({"a": "09"}, 1, 0.5)
@example({"a": "1.5e3", "b": "12", "c": "1e+5", "d": "0x1f", "e": "٣"}, 1, 1e-300)
def test_what_pyyaml_writes_comes_back(table: dict[str, str], count: int, share: float) -> None:
    text = yaml.safe_dump({"table": table, "count": count, "share": share}, allow_unicode=False)
    if "!!" in text:
        return
    if any(map(versions_differ, table.values())):
        # PyYAML leaves out the quotes that YAML 1.2 needs. Nothing is guessed: it is refused with what to do, or it is a text to both.
        document = read_yaml(text, File, schema=SCHEMA)
        if document.problems:
            assert all("put it in quotes" in problem.message for problem in document.problems)
            return
    file = decoded(text)
    assert (file.table, file.count, file.share) == (table, count, share)


def test_digits_of_other_scripts_are_text() -> None:
    assert decoded("title: ٣\n").title == "٣"
