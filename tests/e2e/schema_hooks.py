"""Loaded by Schemathesis into its own process: brings half of the bodies close to what works, and counts every answer.

A body of generated fields seldom comes past the first check. So half of them become one of the document's own examples, most of them with
one field as it was generated, and ids of objects that exist. Which half, and which field, follows from the body: a seed stays a seed.
"""

from __future__ import annotations

import atexit
import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

KNOWN = Path("known.json")
"""Written by `schema_fuzzing`: `ids` of objects by the names of fields, what is `within` what, `bodies` by operation, `keys`, and those of the `callers`.

Those bodies take the place of the document's examples, and no field of theirs is changed: they are policies, where any strange one is a mistake.
"""
ANSWERS = Path("answers.json")
"""How often every operation answered with every status."""

known: dict[str, Any] = json.loads(KNOWN.read_text())
answers: Counter[str] = Counter()


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    operation = context.operation
    examples = known["bodies"].get(operation.label) or [
        each["value"]
        for content in operation.definition.raw.get("requestBody", {}).get("content", {}).values()
        for each in content.get("examples", {}).values()
    ]
    choice = zlib.crc32(repr(body).encode("utf-8", "replace"))
    if not examples or (body and choice % 2):  # the empty one, which every search begins with, is an example each time
        return body
    choice //= 2
    example = examples[choice % len(examples)]
    if not isinstance(body, dict) or not isinstance(example, dict):
        return example
    near = dict(example)
    for name, ids in known["ids"].items():
        if name in near:
            near[name] = ids[choice % len(ids)]
    if body and choice // 5 % 4 and operation.label not in known["bodies"]:
        name = sorted(body, key=repr)[choice // 7 % len(body)]
        near[name] = body[name]
    return near


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """A file that is in the store, an item that is in the conversation."""
    for whole, part in (("store_id", "file_id"), ("conversation_id", "item_id")):
        if path_parameters and {whole, part} <= path_parameters.keys() and path_parameters[whole] in known["within"]:
            path_parameters[part] = known["within"][path_parameters[whole]]
    return path_parameters


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """What is asked for a key that the service is called with is done to another: answers tell those ids too, and they are tried as well."""
    if case.path_parameters and case.path_parameters.get("key_id") in known["callers"]:
        keys = known["keys"]
        case.path_parameters["key_id"] = keys[zlib.crc32(repr(case.path_parameters).encode()) % len(keys)]


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    answers[f"{case.method.upper()} {case.operation.path} {response.status_code}"] += 1


@atexit.register
def write() -> None:
    ANSWERS.write_text(json.dumps(answers))
