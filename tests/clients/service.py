"""The service under test: a whole `headgate serve`, three providers behind it that are faked, and a tenant for every client."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients.upstream import upstream
from tests.serving import headgate_json, served

MODEL, CLAUDE = "gpt-4o-mini", "claude-sonnet-4-5"
"""What the clients ask for, in OpenAI's dialects and in Anthropic's. No backend has these names: the policy's rules say who answers."""

MATRIX = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash"}
"""The models that the dialect matrix names, by provider."""

POLICY = """
version: 1
backends:
  openai: {{kind: openai, model: gpt-5-mini, base_url: "{url}/openai/v1", price: {{input: 0.25, output: 2}}}}
  anthropic: {{kind: anthropic, model: claude-haiku-4-5, base_url: "{url}/anthropic", price: {{input: 1, output: 5}}}}
  gemini: {{kind: gemini, model: gemini-2.5-flash, base_url: "{url}/gemini", price: {{input: 0.3, output: 2.5}}}}
rules:
  - {{name: gpt, when: {{model: gpt-4o-mini}}, use: [{gpt}]}}
  - {{name: claude, when: {{model: claude-sonnet-4-5}}, use: [{claude}]}}
default: openai
fallback: []
"""


@dataclass(frozen=True)
class Routing:
    """Who answers what the clients ask for: one run of all clients. `matrix`: the run in which the dialect matrix is tried too."""

    gpt: str
    claude: str
    matrix: bool = False

    def __str__(self) -> str:
        return self.gpt if self.gpt == self.claude else f"{self.gpt} and {self.claude}"


ROUTINGS = (Routing("openai", "anthropic", matrix=True), Routing("anthropic", "openai"), Routing("gemini", "gemini"))


@dataclass
class Service:
    url: str
    home: Path

    def key(self, tenant: str) -> str:
        """A key of a new tenant, which may read its own ledger."""
        headgate_json(self.home, "tenants", "create", tenant)
        key: str = headgate_json(self.home, "keys", "create", "--tenant", tenant, "--role", "owner")["key"]
        return key


@contextmanager
def service(home: Path, routing: Routing) -> Iterator[Service]:
    """Serve for as long as the block runs, from an empty `home`. Its log stays there, as `stderr.log`."""
    with upstream() as provider:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        (home / "headgate.yaml").write_text(POLICY.format(url=provider.url, gpt=routing.gpt, claude=routing.claude))
        with served(home, "--config", str(home / "headgate.yaml"), ready_s=120) as running:
            yield Service(running.url, home)
