"""pydantic-ai: an `Agent` over OpenAI's chat completions and responses, and over Anthropic's messages."""

from __future__ import annotations

from typing import Any

import kit
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.exceptions import ModelAuthenticationError, ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def model(dialect: str, key: str = kit.KEY) -> Any:
    match dialect:
        case "chat":
            return OpenAIChatModel(kit.MODEL, provider=OpenAIProvider(base_url=kit.V1, api_key=key))
        case "responses":
            return OpenAIResponsesModel(kit.MODEL, provider=OpenAIProvider(base_url=kit.V1, api_key=key))
        case _:
            return AnthropicModel(kit.CLAUDE, provider=AnthropicProvider(base_url=kit.URL, api_key=key))


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(Agent(model(dialect)).run_sync("Say hello.").output, kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    async def streamed() -> str:
        async with Agent(model(dialect)).run_stream("Say hello.") as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        kit.same("".join(pieces), kit.GREETING)
        assert len(pieces) > 1
        return f"{len(pieces)} pieces"

    @kit.check(f"{dialect}: tools")
    def tools() -> None:
        agent = Agent(model(dialect), tools=[kit.get_weather])
        result = agent.run_sync(kit.QUESTION)
        kit.answered_with_the_weather(result.output)
        kit.same(result.usage.requests, 2)
        again = agent.run_sync("Thanks. Say hello.", message_history=result.all_messages())
        kit.same(again.output, kit.GREETING)

    @kit.check(f"{dialect}: tools, streamed")
    async def streamed_tools() -> None:
        async with Agent(model(dialect), tools=[kit.get_weather]).run_stream(kit.QUESTION) as result:
            kit.answered_with_the_weather(await result.get_output())

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        for output in (ToolOutput(Person), NativeOutput(Person), PromptedOutput(Person)):
            kit.same(Agent(model(dialect), output_type=output).run_sync(kit.PERSON).output, Person(name="Ada", age=36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(ModelAuthenticationError, lambda: Agent(model(dialect, kit.WRONG_KEY)).run_sync("Say hello."), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        try:
            Agent(model(dialect)).run_sync("Say hello.", model_settings={"top_p": 9})
        except ModelHTTPError as error:
            kit.same(error.status_code, 400)
            kit.within("top_p", str(error))
            return type(error).__name__
        raise AssertionError("it was not refused")

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        found = Agent(model(dialect)).run_sync("Say hello.").usage
        return kit.same_usage(found.input_tokens, found.output_tokens, found.cache_read_tokens)


for name in ("chat", "responses", "messages"):
    checks(name)
kit.run()
