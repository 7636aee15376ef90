"""LlamaIndex: `OpenAI`, `OpenAILike` and `OpenAIResponses`, `Anthropic`, and its `FunctionAgent`."""

from __future__ import annotations

from typing import Any

import anthropic
import kit
import openai
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.llms.anthropic import Anthropic
from llama_index.llms.openai import OpenAI, OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

HELLO = [ChatMessage(role="user", content="Say hello.")]
REFUSED = {"chat": openai, "chat (openai-like)": openai, "responses": openai, "messages": anthropic}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def model(dialect: str, key: str = kit.KEY, **more: Any) -> Any:
    match dialect:
        case "chat":
            return OpenAI(model=kit.MODEL, api_base=kit.V1, api_key=key, max_retries=0, **more)
        case "chat (openai-like)":
            return OpenAILike(model=kit.MODEL, api_base=kit.V1, api_key=key, is_chat_model=True, is_function_calling_model=True, max_retries=0, **more)
        case "responses":
            return OpenAIResponses(model=kit.MODEL, api_base=kit.V1, api_key=key, max_retries=0, **more)
        case _:
            return Anthropic(model=kit.CLAUDE, base_url=kit.URL, api_key=key, max_retries=0, **more)


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(model(dialect).chat(HELLO).message.content, kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    def streamed() -> str:
        pieces = [piece.delta or "" for piece in model(dialect).stream_chat(HELLO)]
        kit.same("".join(pieces), kit.GREETING)
        assert len([piece for piece in pieces if piece]) > 1
        return f"{len(pieces)} pieces"

    @kit.check(f"{dialect}: tools")
    async def tools() -> str:
        running = FunctionAgent(tools=[kit.get_weather], llm=model(dialect)).run(kit.QUESTION)
        pieces = [event.delta async for event in running.stream_events() if isinstance(event, AgentStream)]
        result = await running
        kit.answered_with_the_weather(str(result))
        kit.same(len(result.tool_calls), 2)
        return f"streamed, {len(pieces)} pieces"

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        program = FunctionCallingProgram.from_defaults(output_cls=Person, llm=model(dialect), prompt_template_str=kit.PERSON)
        kit.same(program(), Person(name="Ada", age=36))
        kit.same(model(dialect).as_structured_llm(Person).chat([ChatMessage(role="user", content=kit.PERSON)]).raw, Person(name="Ada", age=36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(REFUSED[dialect].AuthenticationError, lambda: model(dialect, kit.WRONG_KEY).chat(HELLO), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        return kit.refused(REFUSED[dialect].BadRequestError, lambda: model(dialect, additional_kwargs={"top_p": 9}).chat(HELLO), "top_p")

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        raw = model(dialect).chat(HELLO).raw
        found = raw["usage"] if isinstance(raw, dict) else raw.usage
        if dialect.startswith("chat"):
            return kit.same_usage(found.prompt_tokens, found.completion_tokens, found.prompt_tokens_details.cached_tokens)
        if dialect == "responses":
            return kit.same_usage(found.input_tokens, found.output_tokens, found.input_tokens_details.cached_tokens)
        return kit.same_usage(found.input_tokens + found.cache_read_input_tokens, found.output_tokens, found.cache_read_input_tokens)


for name in REFUSED:
    checks(name)
kit.run()
