"""OpenAI's published schema as the judge of our own answers, where this machine has it (`../shared/data/openai_openapi.json.gz`).

Strict: every key the schema requires must be there, every value must have its type. The document spells null as `nullable: true`, a word of
OpenAPI 3.0 that JSON Schema does not know; it is read as "or null". Keys beyond the schema pass only where the schema allows them.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator, ValidationError

PUBLISHED = Path(__file__).resolve().parents[1] / "../shared/data/openai_openapi.json.gz"
ABSENT = "OpenAI's published schema is not on this machine (../shared/data/openai_openapi.json.gz)"
LONGEST = 12
"""Complaints in one report: an answer of the wrong shape has one for every alternative."""


def present() -> bool:
    return PUBLISHED.is_file()


def complaints(name: str, value: Any) -> list[str]:
    """What is wrong with `value` as the schema component `name`, each with the place; empty where nothing is."""
    return [f"{error.json_path}: {error.message[:300]}" for top in _validator(name).iter_errors(value) for error in _meant(top)][:LONGEST]


def _meant(error: ValidationError) -> list[ValidationError]:
    """What is wrong with the alternative that the value says to be (by its `type`), instead of "it is none of them"."""
    alternatives: dict[int, list[ValidationError]] = {}
    for each in error.context or ():
        alternatives.setdefault(each.relative_schema_path[0], []).append(each)
    meant = [errors for errors in alternatives.values() if not any(each.validator in ("enum", "const", "type") and _of_its_kind(each) for each in errors)]
    return [inner for each in meant[0] for inner in _meant(each)] if len(meant) == 1 else [error]


def _of_its_kind(error: ValidationError) -> bool:
    """Whether the complaint is that the value is another alternative altogether."""
    path = list(error.relative_path)
    return path in ([], ["type"], ["object"])


def require_valid(name: str, value: Any) -> None:
    """Fails the test that calls it where `value` is not what the component says."""
    found = complaints(name, value)
    assert not found, "\n".join([f"not a {name}:", *found, json.dumps(value)[:2_000]])


@cache
def _components() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads(gzip.decompress(PUBLISHED.read_bytes()))["components"]["schemas"]
    return {name: _or_null(schema) for name, schema in schemas.items()}


@cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    components = _components()
    if name not in components:
        raise KeyError(f"the document has no schema {name!r}")
    return Draft202012Validator({"components": {"schemas": components}, "$ref": f"#/components/schemas/{name}"})


def _or_null(schema: Any) -> Any:
    """The schema with `nullable: true` said in JSON Schema's words, at every depth."""
    if isinstance(schema, list):
        return [_or_null(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    said = {key: _or_null(value) for key, value in schema.items()}
    # A property may itself be called `nullable`; then its value is a schema.
    if said.get("nullable") is not True:
        return said
    del said["nullable"]
    return {"anyOf": [said, {"type": "null"}]}
