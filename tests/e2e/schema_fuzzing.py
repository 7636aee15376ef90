"""Schemathesis against a running service: what it sends follows the OpenAPI document, or breaks it on purpose, and every answer must be as documented.

It runs as a process of its own, one for each caller. Half of the ids that it puts into paths and bodies are of objects that exist.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from adapters.embedding import Embedder
from retrieval.ingest import Ingestor
from retrieval.search import Searcher
from retrieval.values import SearchRequest, SearchResult
from router.launch import open_blobs
from tests.fakes.embedder import HashEmbedder
from tests.fakes.provider import Exchange, FakeProvider, Reply
from tests.serving import Service, serving

HOOKS = Path(__file__).with_name("schema_hooks.py")
CALLERS = ("operator", "owner", "nobody")
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "allow_header_conformance",
)

POLICY = """version: 1
settings: {{auth_failures_per_minute: 0, allow_private_backends: true}}
backends:
  echo: {{kind: scripted}}
  far: {{kind: scripted, clearance: public, price: {{input: 1.0, output: 2.0}}}}
embedders:
  small: {{kind: openai, model: text-embedding-3-small, base_url: "{url}/v1", price: {{input: 0.02, output: 0}}}}
rules:
  - {{name: long, when: {{min_input_tokens: 500}}, use: [far, echo]}}
default: echo
fallback: [far]
moderation: {{output: [pii, secrets], on_match: redact}}
tenants:
  acme: {{budget_usd: {{month: 1000}}, prompts: {{store: true}}}}
"""


class InProcess:
    """Search in a thread of this process."""

    def __init__(self) -> None:
        self.searcher: Searcher | None = None

    async def search(self, request: SearchRequest) -> SearchResult:
        assert self.searcher is not None
        return await asyncio.to_thread(self.searcher.search, request)

    async def aclose(self) -> None: ...


def index_files(service: Service, embedder: Embedder) -> None:
    """What the ingest process does, until there is nothing to do."""
    ingestor = Ingestor(service.database, open_blobs(service.gateway.settings), embedder)
    while ingestor.run_once():
        pass


def embedding(exchange: Exchange) -> Reply:
    data = [{"index": place, "embedding": [0.5, 0.25]} for place, _ in enumerate(exchange.json["input"])]
    body = {"data": data, "model": "text-embedding-3-small", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    return Reply([json.dumps(body).encode()], headers={"content-type": "application/json"})


@dataclass
class Target:
    """A service with objects of every kind. `ids` are those of its objects, by what their parameters are called; `within` says what is in which.

    `callers` are the ids of the keys that it is called with: one that was revoked or replaced on the way would be refused everything after it.
    """

    service: Service
    ids: Mapping[str, Sequence[str]]
    within: Mapping[str, str]
    policy: Mapping[str, Any]
    callers: Sequence[str]

    def headers(self, caller: str) -> dict[str, str]:
        return {} if caller == "nobody" else self.service.bearer(self.key(caller))

    def key(self, caller: str) -> str:
        return self.service.admin_key if caller == "operator" else self.service.key


@asynccontextmanager
async def target(home: Path, *, copies: int, database_url: str | None = None) -> AsyncIterator[Target]:
    """A service with so many objects of every kind: those that are deleted on the way must not be the last."""
    compute: Any = InProcess()
    embedder = HashEmbedder()
    async with AsyncExitStack() as stack:
        policy = POLICY.format(url=(await stack.enter_async_context(FakeProvider(embedding))).url)
        service = await stack.enter_async_context(serving(policy, home, compute=compute, database_url=database_url))
        compute.searcher = Searcher(service.database, embedder)
        ids: defaultdict[str, list[str]] = defaultdict(list)
        within: dict[str, str] = {}
        async with aiohttp.ClientSession(service.url, headers=service.bearer()) as session:

            async def post(path: str, body: Any) -> Any:
                how = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
                async with session.post(path, **how) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.json()

            async with session.get("/admin/keys", headers=service.bearer(service.admin_key)) as answer:
                callers = [key["id"] for key in (await answer.json())["data"]]
            for number in range(copies):
                team = (await post("/admin/teams", {"name": f"team {number}"}))["id"]
                user = (await post("/admin/users", {"role": "member", "team": team, "subject": f"subject {number}"}))["id"]
                key = (await post("/admin/keys", {"role": "member", "tenant": "acme", "user": user}))["id"]
                form = aiohttp.FormData({"purpose": "assistants"})
                form.add_field("file", b"The battery is covered for three years.", filename="warranty.txt")
                file = (await post("/v1/files", form))["id"]
                store = (await post("/v1/vector_stores", {"name": f"store {number}"}))["id"]
                await post(f"/v1/vector_stores/{store}/files", {"file_id": file})
                said = [{"type": "message", "role": "user", "content": "Hello"}]
                conversation = (await post("/v1/conversations", {"items": said}))["id"]
                response = (await post("/v1/responses", {"model": "auto", "input": "Hello", "conversation": conversation}))["id"]
                async with session.get("/admin/ledger", params={"limit": 1}) as answer:
                    ids["request_id"] += [row["request_id"] for row in (await answer.json())["data"]]
                async with session.get(f"/v1/conversations/{conversation}/items") as answer:
                    ids["item_id"] += [item["id"] for item in (await answer.json())["data"]]
                within |= {store: file, conversation: ids["item_id"][-1]}
                for kind, id in (("team", team), ("user", user), ("key", key), ("file", file), ("store", store), ("conversation", conversation)):
                    ids[f"{kind}_id"].append(id)
                ids["response_id"].append(response)
        await asyncio.to_thread(index_files, service, embedder)
        ids["tenant"] = ["acme", "globex"]
        ids["name"] = ["auto", "echo", "far", "small", "scripted"]
        ids["month"] = ["2026-11", "2024-02"]
        ids["version"] = ["1", "2"]
        yield Target(service, ids, within, yaml.safe_load(policy), callers)


BODIES = {
    "tenant": "tenant",
    "team": "team_id",
    "user": "user_id",
    "file_id": "file_id",
    "file_ids[*]": "file_id",
    "model": "name",
    "conversation": "conversation_id",
    "previous_response_id": "response_id",
    "request_id": "request_id",
}
"""Which fields of bodies name which objects."""
QUERIES = {"tenant": "tenant", "team": "team_id", "user": "user_id", "request_id": "request_id"}
WORDS: Mapping[str, Sequence[str | int]] = {
    "query.format": ["json", "csv", "md", "pdf"],
    "query.group_by": ["day", "tenant,model", "key,day"],
    "query.since": ["2026-11-01", "2026-11-30T10:00:00Z"],
    "query.until": ["2026-12-01"],
    "query.order": ["asc", "desc"],
    "query.limit": [1, 20, 100],
    "query.purpose": ["assistants"],
    "query.provider": ["local", "openai"],
    "header.If-Match": ["*"],
    "body.role": ["member", "auditor", "owner", "operator"],
}
"""What parameters and fields can say that no generator guesses."""


def configuration(ids: Mapping[str, Sequence[str]], probability: float = 0.5) -> str:
    """Schemathesis' configuration: half of the values are words that mean something, or ids of objects that exist."""
    lines = [f"hooks = {json.dumps(str(HOOKS))}", "[checks.missing_required_header]", "expected-statuses = [400, 401, 403, 428]"]
    words = {key.replace(".", "_"): values for key, values in WORDS.items()}
    for name, values in (*ids.items(), *words.items()):
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(list(values))}"]
    lines.append("[parameters]")
    bound = [*((f"path.{name}", name) for name in ids), *((f"query.{name}", kind) for name, kind in QUERIES.items())]
    bound += [(f"body.{name}", kind) for name, kind in BODIES.items()]
    bound += zip(WORDS, words, strict=True)
    lines += [f"{json.dumps(key)} = {{dictionary = {json.dumps(name)}, probability = {probability}}}" for key, name in bound]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


@dataclass
class Figures:
    """What one caller's run found. `answers` counts requests by method, path and status; `problems` is Schemathesis' own report, ready to be read."""

    caller: str
    cases: int
    operations: int
    answers: Mapping[str, int]
    seconds: float
    failures: tuple[str, ...]
    problems: str

    @property
    def tried(self) -> set[str]:
        """The operations that answered."""
        return {answer.rpartition(" ")[0] for answer in self.answers}

    @property
    def succeeded(self) -> set[str]:
        """The operations that did what they were asked at least once."""
        return {answer.rpartition(" ")[0] for answer in self.answers if answer.endswith(" 200")}

    @property
    def statuses(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for answer, count in self.answers.items():
            found[int(answer.rpartition(" ")[2])] += count
        return found

    def __str__(self) -> str:
        statuses = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return f"{self.caller}: {self.statuses.total()} requests to {self.operations} operations in {self.seconds:.0f} s: {statuses}"


async def fuzz(target: Target, caller: str, home: Path, *options: str) -> Figures:
    """One run of Schemathesis as a caller."""
    folder = home / caller
    folder.mkdir(parents=True)
    (folder / "schemathesis.toml").write_text(configuration(target.ids))
    taking = ("PUT /admin/policy", "POST /admin/policy/validate", "POST /admin/policy/test", "POST /admin/policy/diff", "POST /admin/policy/backtest")
    policies = {operation: [target.policy] for operation in taking}
    named = {field: target.ids[kind] for field, kind in BODIES.items() if kind in target.ids}
    known = {"ids": named, "within": target.within, "bodies": policies, "keys": target.ids["key_id"], "callers": target.callers}
    (folder / "known.json").write_text(json.dumps(known))
    report = folder / "report.json"
    headers = [each for name, value in target.headers(caller).items() for each in ("--header", f"{name}: {value}")]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "--config-file", str(folder / "schemathesis.toml"), "--no-color"),
        *("run", f"{target.service.url}/schema/openapi.json", *headers, "--checks", ",".join(CHECKS), "--continue-on-failure"),
        *("--report", "json", "--report-json-path", str(report), "--suppress-health-check", "all", "--generation-database", "none", "--warnings", "off"),
        *options,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    text = said.decode(errors="replace")
    assert report.exists(), text
    found: dict[str, Any] = json.loads(report.read_text())
    answers: dict[str, int] = json.loads((folder / "answers.json").read_text())
    failures = tuple(f"{failure['title']}: {', '.join(failure['operations'])}" for failure in (*found["failures"], *found["errors"]))
    assert (process.returncode == 0) == (not failures), text
    _, _, problems = text.partition("= FAILURES =")
    return Figures(caller, found["test_cases"]["generated"], found["operations"]["tested"], answers, found["running_time"], failures, problems or text[-2000:])


async def fuzz_as_everybody(target: Target, home: Path, *options: str) -> list[Figures]:
    """The three callers at once."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(fuzz(target, caller, home, *options)) for caller in CALLERS]
    return [task.result() for task in running]


async def statuses(target: Target) -> Counter[str]:
    """What the service answers each caller now: it must have stayed what it was."""
    found: Counter[str] = Counter()
    async with aiohttp.ClientSession(target.service.url) as session:
        for caller in CALLERS:
            async with session.get("/v1/models" if caller == "owner" else "/admin/backends", headers=target.headers(caller)) as answer:
                found[f"{caller} {answer.status}"] += 1
    return found
