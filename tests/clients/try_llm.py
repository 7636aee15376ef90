"""The `llm` command: models of `extra-openai-models.yaml`, its stored key, and `llm openai endpoint`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kit

LLM = str(Path(sys.executable).parent / "llm")
HOME = Path(os.environ["HOME"]) / "llm"
os.environ["LLM_USER_PATH"] = str(HOME)
HOME.mkdir()
(HOME / "extra-openai-models.yaml").write_text(
    "".join(
        f"- model_id: {name}\n  model_name: {kit.MODEL}\n  api_base: {kit.V1}\n  api_key_name: headgate\n"
        f"  supports_tools: true\n  supports_schema: true\n  vision: true\n{more}"
        for name, more in (("chat", ""), ("responses", "  responses: true\n"))
    )
)
WEATHER_TOOL = f'''
def get_weather(city: str) -> str:
    """The weather in a city."""
    return {kit.WEATHER!r}[city]
'''


def llm(*arguments: str, fails: bool = False) -> str:
    done = subprocess.run([LLM, *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    if (done.returncode != 0) is not fails:
        raise AssertionError(f"exit {done.returncode}: {done.stdout} {done.stderr[-500:]}")
    return done.stderr if fails else done.stdout.strip()


def checks(dialect: str) -> None:
    @kit.check(f"{dialect}: plain")
    def plain() -> None:
        kit.same(llm("-m", dialect, "--no-stream", "Say hello."), kit.GREETING)

    @kit.check(f"{dialect}: streamed")
    def streamed() -> None:
        kit.same(llm("-m", dialect, "Say hello."), kit.GREETING)

    @kit.check(f"{dialect}: tools")
    def tools() -> None:
        for stream in ((), ("--no-stream",)):
            kit.answered_with_the_weather(llm("-m", dialect, "--functions", WEATHER_TOOL, *stream, kit.QUESTION))

    @kit.check(f"{dialect}: structured")
    def structured() -> None:
        kit.same(json.loads(llm("-m", dialect, "--schema", "name, age int", kit.PERSON)), {"name": "Ada", "age": 36})

    @kit.check(f"{dialect}: conversation continued")
    def continued() -> None:
        llm("-m", dialect, "--functions", WEATHER_TOOL, kit.QUESTION)
        kit.same(llm("-c", "Say hello."), kit.GREETING)

    @kit.check(f"{dialect}: wrong key")
    def wrong_key() -> None:
        kit.within("API key", llm("-m", dialect, "--key", kit.WRONG_KEY, "Say hello.", fails=True))

    @kit.check(f"{dialect}: bad request")
    def bad_request() -> None:
        kit.within("max_output_tokens" if dialect == "responses" else "max_tokens", llm("-m", dialect, "-o", "max_tokens", "0", "Say hello.", fails=True))

    @kit.check(f"{dialect}: usage")
    def usage() -> str:
        for stream in ((), ("--no-stream",)):
            llm("-m", dialect, *stream, "Say hello.")
            (found,) = json.loads(llm("logs", "-n", "1", "--json"))
            said = kit.same_usage(found["input_tokens"], found["output_tokens"])
        return said


llm("keys", "set", "headgate", "--value", kit.KEY)
for name in ("chat", "responses"):
    checks(name)


@kit.check("chat: models listed")
def models() -> None:
    kit.within(kit.MODEL, llm("openai", "endpoint", kit.V1, "--key", kit.KEY, "--models"))


kit.run()
