"""Answers that must be JSON, by a schema or at all: is a request's schema one, and does an answer fit it. Pure, and offline.

Drafts 6 to 2020-12, 2020-12 where `$schema` does not say; formats are checked. Nothing is ever fetched: a reference that leaves the schema is
refused. Patterns run with a bound on backtracking, and a check that would take too long counts as a failed one.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from adapters.schema_cost import TooMuchWork, UnsupportedReference, check_cost, check_references
from adapters.types import ResponseFormat

if TYPE_CHECKING:
    from jsonschema_rs import Validator

MAX_SCHEMA_BYTES = 200_000
"""A schema beyond this is refused: none of the providers takes one nearly as large."""

MAX_BACKTRACKS = 100_000
MAX_TRIED = 64
"""Places of a text at which a JSON value is looked for."""

_DRAFT_4 = "json-schema.org/draft-04/schema"
_FENCE = re.compile(r"```[\w+-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_OPENS = re.compile(r"[{\[]")
_decode = msgspec.json.Decoder().decode
_find = json.JSONDecoder().raw_decode


class InvalidSchema(ValueError):
    """The schema of a request's response format is none. The message says why, for people."""


class Problem(Struct, frozen=True):
    """Why an answer does not fit. `where` is a place in the schema and holds none of the answer; `message` may quote the answer."""

    where: str
    message: str


class Fit(Struct, frozen=True):
    """The part of a text, from `start` to `end`, that is the answer: the whole text, unless it stood in a code fence or between words."""

    start: int
    end: int


class AnswerFormat:
    """What an answer must be."""

    def __init__(self, schema: dict[str, Any] | None, validator: Validator | None) -> None:
        self._schema = schema
        self._validator = validator

    def check(self, text: str) -> Fit | Problem:
        """Where in the text the answer stands, or why there is none. A text that is JSON is taken as it is, never searched."""
        problem = self._problem(text)
        if problem is None:
            return Fit(0, len(text))
        if not problem.where and (found := _embedded(text)) is not None:
            inner = self._problem(text[found.start : found.end])
            return found if inner is None else inner
        return problem

    def _problem(self, text: str) -> Problem | None:
        try:
            answer = _decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError) as error:
            return Problem("", f"it is not JSON: {error}")
        except RecursionError:
            return Problem("", "it is not JSON: it is nested too deeply")
        if self._validator is None or self._schema is None:
            return None if isinstance(answer, dict) else Problem("type", "it is not a JSON object")
        try:
            check_cost(self._schema, answer)
        except (TooMuchWork, RecursionError):
            return Problem("$ref", "checking it against the schema would take too long")
        wrong = next(iter(self._validator.iter_errors(answer)), None)
        if wrong is None:
            return None
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in wrong.instance_path)
        return Problem("/".join(str(step) for step in wrong.schema_path) or "(root)", f"at ${place}: {wrong.message}")


def answer_format(wanted: ResponseFormat) -> AnswerFormat | None:
    """What the format demands of an answer; None where it is free text. Raises `InvalidSchema`."""
    match wanted.kind:
        case "text":
            return None
        case "json_object":
            return _ANY_OBJECT
        case "json_schema":
            return _compiled(msgspec.json.encode(wanted.schema or {}))


_ANY_OBJECT = AnswerFormat(None, None)


@lru_cache(maxsize=256)
def _compiled(encoded: bytes) -> AnswerFormat:
    from jsonschema_rs import FancyRegexOptions, ReferencingError, ValidationError, validator_for

    if len(encoded) > MAX_SCHEMA_BYTES:
        raise InvalidSchema(f"the schema has {len(encoded)} bytes; at most {MAX_SCHEMA_BYTES} are accepted")
    schema = msgspec.json.decode(encoded, type=dict[str, Any])
    try:
        check_references(schema)
        if str(schema.get("$schema", "")).rstrip("#").endswith(_DRAFT_4):  # its `id` would move the base of references
            raise InvalidSchema("draft 4 of JSON Schema is not supported: leave $schema out, or name a later draft")
        schema = {name: value for name, value in schema.items() if name != "$id"}
        validator = validator_for(schema, validate_formats=True, offline=True, pattern_options=FancyRegexOptions(backtrack_limit=MAX_BACKTRACKS))
    except UnsupportedReference as error:
        raise InvalidSchema(str(error)) from error
    except ValidationError as error:
        place = "/".join(str(step) for step in error.instance_path)
        raise InvalidSchema(f"the schema is not valid{f' at {place}' if place else ''}: {error.message[:300]}") from error
    except (ReferencingError, ValueError, RecursionError) as error:
        raise InvalidSchema(f"the schema is not valid: {str(error)[:300]}") from error
    return AnswerFormat(schema, validator)


def _embedded(text: str) -> Fit | None:
    """The one JSON object or array in a text that is not JSON as a whole: in the only code fence, or the only one between words."""
    fences = list(_FENCE.finditer(text))
    if len(fences) == 1:
        inner = fences[0][1]
        begin = fences[0].start(1) + len(inner) - len(inner.lstrip())
        return Fit(begin, begin + len(inner.strip()))
    found: list[Fit] = []
    place = 0
    for _ in range(MAX_TRIED):
        opening = _OPENS.search(text, place)
        if opening is None:
            break
        try:
            _, end = _find(text, opening.start())
        except (ValueError, RecursionError):
            place = opening.end()
            continue
        found.append(Fit(opening.start(), end))
        place = end
    return found[0] if len(found) == 1 else None
