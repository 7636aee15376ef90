"""What a gateway worker and the command line do not load: local models' libraries, and SDKs where nothing is sent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "faiss", "transformers", "sentence_transformers", "numpy")
SDKS = ("openai", "anthropic", "google.genai", "litestar")

POLICY = """\
version: 1
backends:
  mini: {kind: openai, model: gpt-5-mini, base_url: "http://127.0.0.1:9/v1", price: {input: 1, output: 2}}
  claude: {kind: anthropic, model: claude-sonnet-4-5, base_url: "http://127.0.0.1:9", price: {input: 1, output: 2}}
  gemini: {kind: gemini, model: gemini-2.5-pro, base_url: "http://127.0.0.1:9", price: {input: 1, output: 2}}
  home: {kind: llama, model: meta-llama/Llama-3.2-1B-Instruct}
  said: {kind: scripted}
default: mini
moderation: {output: [pii, secrets], on_match: redact}
"""


def loaded(program: str, names: tuple[str, ...], *arguments: str) -> str:
    """Which of the modules a program has loaded when it ends, as it prints them last."""
    tail = f"\nimport sys\nprint([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + tail, *arguments], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_worker_with_every_kind_of_backend_loads_no_library_of_local_models(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(POLICY)
    program = """
import sys
from router import worker
from router.launch import Launch
from policies.load import load_policy
launch = Launch(config=sys.argv[1], overrides={"HEADGATE_HOME": sys.argv[2]})
worker.load_kinds(launch.settings())
policy = load_policy(launch.text(), launch.config, price_of=worker.known_price)
worker.warm_up(launch)
assert {"openai", "anthropic"} <= set(sys.modules), "the backends were not made"
"""
    assert loaded(program, HEAVY, str(tmp_path / "headgate.yaml"), str(tmp_path / "home")) == "[]"


def test_the_command_line_loads_no_sdk_and_no_web_framework_to_show_its_help() -> None:
    program = """
import sys
from router.cli import main
sys.argv = ["headgate", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    assert loaded(program, (*SDKS, *HEAVY)) == "[]"
