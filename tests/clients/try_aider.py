"""aider: an edit and a commit in a fresh git repository, and what it says of a wrong key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kit

AIDER = str(Path(sys.executable).parent / "aider")
REPOSITORY = Path.cwd() / "repository"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def aider(*arguments: str, key: str = kit.KEY) -> str:
    """Run it as its documentation says for a server that speaks OpenAI's API, and without questions."""
    variables = {**os.environ, "OPENAI_API_BASE": kit.V1, "OPENAI_API_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    quiet = ["--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-pretty"]
    done = subprocess.run(
        [AIDER, "--model", f"openai/{kit.MODEL}", *quiet, *arguments], cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=150,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout + done.stderr


def fresh() -> None:
    subprocess.run(["rm", "-rf", str(REPOSITORY)], check=True)
    REPOSITORY.mkdir()
    git("init", "--quiet")
    git("config", "user.name", "Tester")
    git("config", "user.email", "tester@example.com")
    (REPOSITORY / "hello.py").write_text('def hello():\n    return "hello"\n')
    git("add", ".")
    git("commit", "--quiet", "-m", "start")


def edit(*more: str) -> str:
    fresh()
    said = aider("--edit-format", "whole", "--message", "Change hello.py so that it says hello from headgate.", *more, "hello.py")
    text = (REPOSITORY / "hello.py").read_text()
    if "hello from headgate" not in text:
        raise AssertionError(f"no edit: {said[-1500:]}")
    log = git("log", "--format=%s").splitlines()
    kit.same(log, ["feat: say hello from headgate", "start"])
    kit.same(git("status", "--porcelain", "--untracked-files=no"), "")
    return said


@kit.check("chat: edit and commit, streamed")
def streamed() -> None:
    edit()


@kit.check("chat: edit and commit, plain")
def plain() -> None:
    edit("--no-stream")


@kit.check("chat: wrong key")
def wrong_key() -> str:
    fresh()
    said = aider("--message", "Say hello.", key=kit.WRONG_KEY)
    kit.within("litellm.AuthenticationError", said)
    return "litellm.AuthenticationError"


@kit.check("chat: usage")
def usage() -> str:
    """It prints the tokens of the answer to the message; the commit message's request comes after it."""
    said = edit("--no-stream")
    counted = next((line for line in said.splitlines() if "sent" in line and "received" in line), said)
    answer = kit.ledger(2)[0]
    kit.within(f"{answer['input_tokens']} sent", counted)
    kit.within(f"{answer['output_tokens']} received", counted)
    return counted


kit.run()
