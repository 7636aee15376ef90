"""dspy: `dspy.LM("openai/…", api_base=…)`, with predictions in its own format and as JSON, streamed, and an agent (ReAct)."""

from __future__ import annotations

from typing import Any

import dspy
import kit
from dspy.utils.exceptions import LMAuthError, LMInvalidRequestError


def model(dialect: str, key: str = kit.KEY, **more: Any) -> dspy.LM:
    kind = "responses" if dialect == "responses" else "chat"
    return dspy.LM(f"openai/{kit.MODEL}", api_base=kit.V1, api_key=key, model_type=kind, cache=False, num_retries=0, **more)


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        (said,) = model(dialect)("Say hello.")
        kit.same(said["text"] if isinstance(said, dict) else said, kit.GREETING)  # over responses dspy wraps its texts
        with dspy.context(lm=model(dialect)):
            kit.same(dspy.ChainOfThought("question -> answer")(question="What is the capital of France?").answer, "Paris")

    @kit.check(f"{dialect}: streamed")
    async def streamed() -> str:
        with dspy.context(lm=model(dialect)):
            program = dspy.streamify(dspy.ChainOfThought("question -> answer"), stream_listeners=[dspy.streaming.StreamListener("answer")])
            pieces = [piece async for piece in program(question="What is the capital of France?")]
        kit.same(pieces[-1].answer, "Paris")
        texts = [piece.chunk for piece in pieces[:-1]]
        kit.same("".join(texts).strip(), "Paris")
        return f"{len(texts)} pieces"

    @kit.check(f"{dialect}: tools")
    def tools() -> str:
        class Ask(dspy.Signature):
            """Answer with the tools."""

            question: str = dspy.InputField()
            tools: list[dspy.Tool] = dspy.InputField()
            outputs: dspy.ToolCalls = dspy.OutputField()

        weather = dspy.Tool(kit.get_weather)
        with dspy.context(lm=model(dialect), adapter=dspy.ChatAdapter(use_native_function_calling=True)):
            calls = dspy.Predict(Ask)(question=kit.QUESTION, tools=[weather]).outputs.tool_calls
        kit.same([weather(**call.args) for call in calls], list(kit.WEATHER.values()))
        return "native function calling; dspy runs no loop of its own over it"

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        with dspy.context(lm=model(dialect), adapter=dspy.JSONAdapter()):
            found = dspy.Predict("text -> name: str, age: int")(text=kit.PERSON)
        kit.same((found.name, found.age), ("Ada", 36))

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> str:
        return kit.refused(LMAuthError, lambda: model(dialect, kit.WRONG_KEY)("Say hello."), "API key")

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> str:
        return kit.refused(LMInvalidRequestError, lambda: model(dialect)("Say hello.", top_p=9), "top_p")

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        lm = model(dialect)
        lm("Say hello.")
        found = lm.history[-1]["usage"]
        names = ("input_tokens", "output_tokens") if "input_tokens" in found else ("prompt_tokens", "completion_tokens")
        return kit.same_usage(found[names[0]], found[names[1]])


for name in ("chat", "responses"):
    checks(name)
kit.run()
