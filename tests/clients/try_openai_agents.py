"""openai-agents: responses, its default, and its chat completions model."""

from __future__ import annotations

from typing import Any

import kit
import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

set_tracing_disabled(True)  # it would send its traces to OpenAI, as its documentation says


class Person(BaseModel):
    """A person."""

    name: str
    age: int


get_weather = function_tool(kit.get_weather)


def agent(dialect: str, key: str = kit.KEY, **more: Any) -> Agent[Any]:
    client = openai.AsyncOpenAI(base_url=kit.V1, api_key=key)
    kind = OpenAIResponsesModel if dialect == "responses" else OpenAIChatCompletionsModel
    return Agent(name="Helper", instructions="Be brief.", model=kind(model=kit.MODEL, openai_client=client), **more)


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(Runner.run_sync(agent(dialect), "Say hello.").final_output, kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    async def streamed() -> str:
        running = Runner.run_streamed(agent(dialect), "Say hello.")
        events = [event.data async for event in running.stream_events() if event.type == "raw_response_event"]
        pieces = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
        kit.same("".join(pieces), kit.GREETING)
        kit.same(running.final_output, kit.GREETING)
        assert len(pieces) > 1
        return f"{len(pieces)} pieces"

    @kit.check(f"{dialect}: tools")
    def tools() -> None:
        result = Runner.run_sync(agent(dialect, tools=[get_weather]), kit.QUESTION)
        kit.answered_with_the_weather(result.final_output)
        kit.same([item.type for item in result.new_items].count("tool_call_output_item"), 2)
        again = Runner.run_sync(agent(dialect), [*result.to_input_list(), {"role": "user", "content": "Say hello."}])
        kit.same(again.final_output, kit.GREETING)

    @kit.check(f"{dialect}: tools, streamed")
    async def streamed_tools() -> None:
        running = Runner.run_streamed(agent(dialect, tools=[get_weather]), kit.QUESTION)
        async for _ in running.stream_events():
            pass
        kit.answered_with_the_weather(running.final_output)

    @kit.check(f"{dialect}: handoff")
    def handoff() -> None:
        expert = agent(dialect, tools=[get_weather])
        kit.same(Runner.run_sync(agent(dialect, handoffs=[expert]), "Hand over to another person.", max_turns=2).last_agent, expert)

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        kit.same(Runner.run_sync(agent(dialect, output_type=Person), kit.PERSON).final_output, Person(name="Ada", age=36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(openai.AuthenticationError, lambda: Runner.run_sync(agent(dialect, kit.WRONG_KEY), "Say hello."), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        return kit.refused(openai.BadRequestError, lambda: Runner.run_sync(agent(dialect, model_settings=ModelSettings(top_p=9)), "Say hello."), "top_p")

    @kit.check(f"{dialect}: usage")
    async def usage() -> str:
        whole = (await Runner.run(agent(dialect), "Say hello.")).context_wrapper.usage
        said = kit.same_usage(whole.input_tokens, whole.output_tokens, whole.input_tokens_details.cached_tokens)
        running = Runner.run_streamed(agent(dialect, model_settings=ModelSettings(include_usage=True)), "Say hello.")
        async for _ in running.stream_events():
            pass
        streamed = running.context_wrapper.usage
        kit.same_usage(streamed.input_tokens, streamed.output_tokens)
        return said


for name in ("responses", "chat"):
    checks(name)


@kit.check("responses: conversation kept by the server")
async def kept() -> str:
    first = await Runner.run(agent("responses"), "Say hello.")
    second = await Runner.run(agent("responses"), "Say hello again.", previous_response_id=first.last_response_id)
    kit.same(second.final_output, kit.GREETING)
    return "previous_response_id"


kit.run()
