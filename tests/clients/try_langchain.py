"""LangChain: `ChatOpenAI`, over chat completions and over responses, `ChatAnthropic`, and an agent of `langchain.agents`."""

from __future__ import annotations

from typing import Any

import anthropic
import kit
import openai
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


get_weather = tool(kit.get_weather)
REFUSED = {"chat": openai, "responses": openai, "messages": anthropic}


def model(dialect: str, key: str = kit.KEY, **more: Any) -> Any:
    match dialect:
        case "chat":
            return ChatOpenAI(model=kit.MODEL, base_url=kit.V1, api_key=key, **more)
        case "responses":
            return ChatOpenAI(model=kit.MODEL, base_url=kit.V1, api_key=key, use_responses_api=True, **more)
        case _:
            return ChatAnthropic(model=kit.CLAUDE, base_url=kit.URL, api_key=key, max_tokens=500, **more)


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(model(dialect).invoke("Say hello.").text, kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    def streamed() -> str:
        chunks = list(model(dialect, stream_usage=True).stream("Say hello."))
        kit.same("".join(chunk.text for chunk in chunks), kit.GREETING)
        assert len([chunk for chunk in chunks if chunk.text]) > 1
        return f"{len(chunks)} chunks"

    @kit.check(f"{dialect}: tools")
    def tools() -> None:
        agent = create_agent(model(dialect), [get_weather])
        messages = agent.invoke({"messages": [HumanMessage(kit.QUESTION)]})["messages"]
        kit.same([call["name"] for call in messages[1].tool_calls], ["get_weather", "get_weather"])
        kit.answered_with_the_weather(messages[-1].text)

    @kit.check(f"{dialect}: tools, streamed")
    def streamed_tools() -> None:
        whole = None
        for chunk in model(dialect).bind_tools([get_weather]).stream(kit.QUESTION):
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        kit.same([(call["name"], call["args"]) for call in whole.tool_calls], [("get_weather", {"city": city}) for city in kit.WEATHER])

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        kit.same(model(dialect).with_structured_output(Person).invoke(kit.PERSON), Person(name="Ada", age=36))
        kit.same(model(dialect).with_structured_output(Person, method="function_calling").invoke(kit.PERSON), Person(name="Ada", age=36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(REFUSED[dialect].AuthenticationError, lambda: model(dialect, kit.WRONG_KEY).invoke("Say hello."), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        return kit.refused(REFUSED[dialect].BadRequestError, lambda: model(dialect, temperature=9).invoke("Say hello."), "temperature")

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        found = model(dialect).invoke("Say hello.").usage_metadata
        plain = kit.same_usage(found["input_tokens"], found["output_tokens"], found["input_token_details"]["cache_read"])
        chunks = [chunk for chunk in model(dialect, stream_usage=True).stream("Say hello.") if chunk.usage_metadata]
        kit.same_usage(sum(chunk.usage_metadata["input_tokens"] for chunk in chunks), sum(chunk.usage_metadata["output_tokens"] for chunk in chunks))
        return plain


for name in ("chat", "responses", "messages"):
    checks(name)
kit.run()
