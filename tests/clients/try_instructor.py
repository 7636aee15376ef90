"""instructor: its provider strings, in the modes for tools, JSON and JSON schemas, whole, partial and iterable."""

from __future__ import annotations

from typing import Any

import anthropic
import instructor
import kit
from instructor import Mode
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


ASK = [{"role": "user", "content": kit.PERSON}]
ADA = {"name": "Ada", "age": 36}
MODES = {
    "chat": (Mode.TOOLS, Mode.JSON, Mode.JSON_SCHEMA, Mode.MD_JSON),
    "responses": (Mode.RESPONSES_TOOLS,),
    "messages": (Mode.TOOLS, Mode.JSON),
}


def client(dialect: str, mode: Mode, key: str = kit.KEY) -> Any:
    if dialect == "messages":
        return instructor.from_anthropic(anthropic.Anthropic(base_url=kit.URL, api_key=key), model=kit.CLAUDE, mode=mode)
    return instructor.from_provider(f"openai/{kit.MODEL}", mode=mode, base_url=kit.V1, api_key=key)


def more(dialect: str) -> dict[str, Any]:
    return {"max_tokens": 500} if dialect == "messages" else {}


def checks(dialect: str) -> None:
    first = MODES[dialect][0]

    @kit.check(f"{dialect}: structured")
    def structured() -> str:
        for mode in MODES[dialect]:
            kit.same(client(dialect, mode).create(response_model=Person, messages=ASK, **more(dialect)).model_dump(), ADA)
        return ", ".join(mode.name for mode in MODES[dialect])

    @kit.check(f"{dialect}: structured, streamed")
    def streamed() -> str:
        pieces = list(client(dialect, first).create_partial(response_model=Person, messages=ASK, **more(dialect)))
        kit.same((pieces[-1].name, pieces[-1].age), ("Ada", 36))
        assert len(pieces) > 1 or not kit.ARGUMENTS_IN_PIECES
        return f"{len(pieces)} partial objects"

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return refused(
            lambda: client(dialect, first, kit.WRONG_KEY).create(response_model=Person, messages=ASK, max_retries=0, **more(dialect)), "401", "API key"
        )

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        wrong = {"max_tokens": -1} if dialect == "messages" else {"top_p": 9}
        return refused(lambda: client(dialect, first).create(response_model=Person, messages=ASK, max_retries=0, **wrong), "400", next(iter(wrong)))

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        _, raw = client(dialect, first).create_with_completion(response_model=Person, messages=ASK, **more(dialect))
        found = raw.usage
        if dialect == "chat":
            return kit.same_usage(found.prompt_tokens, found.completion_tokens, found.prompt_tokens_details.cached_tokens)
        if dialect == "responses":
            return kit.same_usage(found.input_tokens, found.output_tokens, found.input_tokens_details.cached_tokens)
        return kit.same_usage(found.input_tokens + (found.cache_read_input_tokens or 0), found.output_tokens, found.cache_read_input_tokens)


def refused(call: Any, status: str, mention: str) -> str:
    """instructor wraps what its client raised; the status and the message stand in it."""
    said = kit.refused(InstructorRetryException, call, mention)
    try:
        call()
    except InstructorRetryException as error:
        kit.within(status, str(error))
    return said


for name in MODES:
    checks(name)
kit.run()
