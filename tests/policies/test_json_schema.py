"""The JSON Schema that editors get: what the service accepts, it accepts, and what is wrong in form, it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from config.settings import Settings
from policies.schema import json_schema
from router.backends import load_kinds
from router.launch import DEFAULT_POLICY
from tests.docs.reading import blocks_of_all_pages
from tests.policies.broken_policies import BROKEN, START

FILES = Path(__file__).parent / "files"
EXAMPLES = dict(blocks_of_all_pages("yaml policy"))
EXAMPLES |= {path.name: path.read_text(encoding="utf-8") for path in (DEFAULT_POLICY, *sorted(FILES.glob("*.yaml")))}
WRONG_IN_FORM = (
    "no version",
    "a section that does not exist",
    "a key that a rule does not have",
    "a condition that does not exist",
    "a way to choose that does not exist",
    "a class of errors that does not exist",
    "a list where a table belongs",
    "a word where a list belongs",
    "a word where a number belongs",
    "a number where a name belongs",
    "a number in quotes",
    "a share above one",
    "a negative bound",
    "a rule without a name",
    "a rule without backends",
    "a task that does not exist",
    "a language that it does not know",
    "a day that is no day",
    "a time that is no time",
    "a case with a class of errors that does not exist",
)
"""What a schema can say. That a backend exists, or that a rule can ever decide, it cannot."""


class Yaml12(yaml.SafeLoader):
    """As editors read it, and the service: `on` is a word."""


Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if first not in "oOyYnN" or tag != "tag:yaml.org,2002:bool"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(text: str) -> Any:
    return yaml.load(text, Loader=Yaml12)


@pytest.fixture(scope="module")
def validator() -> Any:
    load_kinds(Settings())
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_editor_accepts_every_policy_of_the_documentation_and_of_the_tests(validator: Any, name: str) -> None:
    assert [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(read(EXAMPLES[name]))] == []


@pytest.mark.parametrize("name", WRONG_IN_FORM)
def test_an_editor_underlines_what_is_wrong_in_form(validator: Any, name: str) -> None:
    text = BROKEN[name][0].replace("»", "")
    whole = text if text.startswith(("version", "backends")) else START + text
    assert not validator.is_valid(yaml.safe_load(whole))
