"""litellm as a client: `openai/…` and `anthropic/…` with an `api_base`, its responses function, and its messages function."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its documented way not to fetch a price list at import

import kit
import litellm
from litellm import completion, responses
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


ASK = [{"role": "user", "content": "Say hello."}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def call(dialect: str, messages: Any = ASK, key: str = kit.KEY, **more: Any) -> Any:
    if dialect == "messages":
        return completion(model=f"anthropic/{kit.CLAUDE}", api_base=kit.URL, api_key=key, messages=messages, **more)
    return completion(model=f"openai/{kit.MODEL}", api_base=kit.V1, api_key=key, messages=messages, **more)


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(call(dialect).choices[0].message.content, kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    def streamed() -> str:
        pieces = [chunk.choices[0].delta.content or "" for chunk in call(dialect, stream=True)]
        kit.same("".join(pieces), kit.GREETING)
        return f"{len(pieces)} chunks"

    @kit.check(f"{dialect}: tools")
    def tools() -> None:
        messages: list[Any] = [{"role": "user", "content": kit.QUESTION}]
        message = call(dialect, messages, tools=[TOOL]).choices[0].message
        kit.same([json.loads(tool.function.arguments)["city"] for tool in message.tool_calls], list(kit.WEATHER))
        messages.append(message)
        messages += [
            {"role": "tool", "tool_call_id": tool.id, "content": kit.get_weather(**json.loads(tool.function.arguments))} for tool in message.tool_calls
        ]
        kit.answered_with_the_weather(call(dialect, messages, tools=[TOOL]).choices[0].message.content)

    @kit.check(f"{dialect}: tools, streamed")
    def streamed_tools() -> None:
        question = [{"role": "user", "content": kit.QUESTION}]
        chunks = list(call(dialect, question, tools=[TOOL], stream=True))
        message = litellm.stream_chunk_builder(chunks, messages=question).choices[0].message
        kit.same([json.loads(tool.function.arguments)["city"] for tool in message.tool_calls], list(kit.WEATHER))

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        answer = call(dialect, [{"role": "user", "content": kit.PERSON}], response_format=Person)
        kit.same(Person.model_validate_json(answer.choices[0].message.content), Person(name="Ada", age=36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(litellm.AuthenticationError, lambda: call(dialect, key=kit.WRONG_KEY), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        return kit.refused(litellm.BadRequestError, lambda: call(dialect, top_p=9), "top_p")

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        found = call(dialect).usage
        said = kit.same_usage(found.prompt_tokens, found.completion_tokens, found.prompt_tokens_details.cached_tokens)
        last = list(call(dialect, stream=True, stream_options={"include_usage": True}))[-1]
        kit.same_usage(last.usage.prompt_tokens, last.usage.completion_tokens)
        return said


for name in ("chat", "messages"):
    checks(name)


@kit.check("responses: plain")
def responses_plain() -> None:
    answer = responses(model=f"openai/{kit.MODEL}", api_base=kit.V1, api_key=kit.KEY, input="Say hello.")
    kit.same(answer.output[0].content[0].text, kit.GREETING)


@kit.check("responses: streamed")
def responses_streamed() -> str:
    events = list(responses(model=f"openai/{kit.MODEL}", api_base=kit.V1, api_key=kit.KEY, input="Say hello.", stream=True))
    kit.same("".join(event.delta for event in events if event.type == "response.output_text.delta"), kit.GREETING)
    kit.same(events[-1].type, "response.completed")
    return f"{len(events)} events"


@kit.check("responses: wrong key")
def responses_wrong_key() -> str:
    return kit.refused(
        litellm.AuthenticationError, lambda: responses(model=f"openai/{kit.MODEL}", api_base=kit.V1, api_key=kit.WRONG_KEY, input="Say hello."), "API key"
    )


@kit.check("responses: usage")
def responses_usage() -> str:
    found = responses(model=f"openai/{kit.MODEL}", api_base=kit.V1, api_key=kit.KEY, input="Say hello.").usage
    return kit.same_usage(found.input_tokens, found.output_tokens)


kit.run()
