"""`headgate serve` with all its processes, used through the official OpenAI SDK: documents, citations, and one request on five backends."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.conftest import SHARED
from tests.e2e.documents import make_docx, make_pdf, page_texts
from tests.ports import free_port
from tests.serving import Serve, headgate_json, served
from tests.tiny_llama import build

NOT_THERE = "The documents do not answer this question."

POLICY = """
version: 1
backends:
  writer: {{kind: scripted, text: "Each employee has twenty-eight days of paid vacation [1]. The moon is made of cheese [9]."}}
  llama: {{kind: llama, model: {llama}, max_output_tokens: 24}}
  openai:
    kind: openai
    model: gpt-4o
    base_url: http://127.0.0.1:{port}/openai/v1
    price: {{input: 2.5, output: 10}}
    headers: {{x-replay-id: "test_dbos/test_dbos_agent_iter.yaml#0"}}
  anthropic:
    kind: anthropic
    model: claude-sonnet-4-0
    base_url: http://127.0.0.1:{port}/anthropic
    price: {{input: 3, output: 15}}
    headers: {{x-replay-id: "test_anthropic/test_request_stream_fallback_for_high_max_tokens.yaml#0"}}
  gemini:
    kind: gemini
    model: gemini-2.5-flash
    base_url: http://127.0.0.1:{port}/gemini
    price: {{input: 0.3, output: 2.5}}
    headers: {{x-replay-id: "test_google/test_google_stream_usage_is_live_mid_stream.yaml#0"}}
default: [extractive, llama]
fallback: []
"""


@dataclass
class World:
    serve: Serve
    sdk: openai.OpenAI
    store: str
    pdf: Path
    files: dict[str, str]

    def ask(self, question: str, model: str = "auto", **more: Any) -> tuple[str, dict[str, Any], list[Any]]:
        """Stream an answer: its text, the `headgate` object before usage, and all chunks."""
        stream = self.sdk.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question}],
            tools=[{"type": "file_search", "vector_store_ids": [self.store]}],  # type: ignore[list-item]
            stream=True,
            stream_options={"include_usage": True},
            **more,
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        about = next(chunk.model_extra["headgate"] for chunk in reversed(chunks) if chunk.choices)  # type: ignore[index]
        return text, about, chunks


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The recorded providers on loopback; port 9, where nothing listens, without the recordings."""
    recordings = SHARED / "data" / "recorded" / "interactions.jsonl.gz"
    if not recordings.exists():
        yield 9
        return
    unpacked = tmp_path_factory.mktemp("replay") / "interactions.jsonl"
    unpacked.write_bytes(gzip.decompress(recordings.read_bytes()))
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SHARED / "replay" / "replay.py"), str(unpacked), str(port)])
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, replay: int) -> Iterator[World]:
    """The service, with a PDF and a DOCX uploaded the way a user would."""
    home = tmp_path_factory.mktemp("home")
    llama = build(tmp_path_factory.mktemp("llama") / "tiny")
    policy = home / "headgate.yaml"
    policy.write_text(POLICY.format(port=replay, llama=llama))
    keys = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-ant-test", "GEMINI_API_KEY": "test"}
    with served(home, "--config", str(policy), **keys) as serve, openai.OpenAI(base_url=f"{serve.url}/v1", api_key=serve.keys["chat"], max_retries=0) as sdk:
        store = sdk.vector_stores.create(name="handbook")
        files = {}
        for path in (make_pdf(home / "handbook.pdf"), make_docx(home / "security.docx")):
            with path.open("rb") as file:
                done = sdk.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=file, poll_interval_ms=100)
            assert done.status == "completed", done.last_error
            files[path.name] = done.id
        yield World(serve, sdk, store.id, home / "handbook.pdf", files)


def canonical(world: World, file_id: str) -> str:
    answer = httpx2.get(f"{world.serve.url}/v1/files/{file_id}/text", headers={"authorization": f"Bearer {world.serve.keys['chat']}"})
    assert answer.status_code == 200
    text: str = answer.text
    return text


@pytest.mark.parametrize(
    ("question", "words", "filename", "page"),
    [
        ("How many days of vacation does an employee get each year?", "twenty-eight days of paid vacation", "handbook.pdf", 2),
        ("What is the daily allowance for meals in Portugal?", "fifty-five euros in Portugal", "handbook.pdf", 3),
        ("In which cities are the offices?", "Lisbon, Hamburg and Toronto", "handbook.pdf", 1),
        ("How long must a password be?", "at least fourteen characters", "security.docx", None),
        ("When must I report a lost laptop?", "within two hours", "security.docx", None),
    ],
)
def test_a_question_is_answered_with_a_citation_that_is_verbatim_on_its_page(world: World, question: str, words: str, filename: str, page: int | None) -> None:
    text, about, chunks = world.ask(question)
    assert about["backend"] == "extractive"
    assert words in " ".join(text.split())
    citation = next(each for each in about["citations"] if words in " ".join(each["quote"].split()))
    assert (citation["filename"], citation["page"]) == (filename, page)
    assert canonical(world, citation["file_id"])[citation["start"] : citation["end"]] == citation["quote"]
    assert text[citation["answer_start"] : citation["answer_end"]] == citation["quote"]
    if page is not None:
        assert citation["quote"] in page_texts(world.pdf)[page - 1]
    notes = [note for chunk in chunks if chunk.choices for note in (chunk.choices[0].delta.model_extra or {}).get("annotations") or []]
    assert {note["type"] for note in notes} == {"url_citation"}
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0


@pytest.mark.parametrize("question", ["Who won the football world cup in 1998?", "What is the boiling point of tungsten?", "How do I cook a risotto?"])
def test_a_question_the_documents_do_not_answer_gets_a_plain_no(world: World, question: str) -> None:
    text, about, _ = world.ask(question)
    assert text == NOT_THERE
    assert about["citations"] == []


@pytest.mark.parametrize("backend", ["extractive", "llama", "openai", "anthropic", "gemini"])
def test_one_request_goes_to_each_of_five_backends_with_the_same_grammar_usage_and_cost(world: World, replay: int, backend: str) -> None:
    if replay == 9 and backend in ("openai", "anthropic", "gemini"):
        pytest.skip("the recorded provider traffic is not beside this checkout")
    text, about, chunks = world.ask("How many days of vacation do I have?", model=backend)
    assert text
    assert about["backend"] == backend
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens > 0
    assert (about["cost_usd"] > 0) == (backend in ("openai", "anthropic", "gemini"))
    kinds = [
        "role"
        if chunk.choices and chunk.choices[0].delta.role
        else "finish"
        if chunk.choices and chunk.choices[0].finish_reason
        else "delta"
        if chunk.choices
        else "usage"
        for chunk in chunks
    ]
    assert (kinds[0], kinds[-2], kinds[-1]) == ("role", "finish", "usage")
    assert set(kinds[1:-2]) == {"delta"}
    (row,) = httpx2.get(
        f"{world.serve.url}/admin/ledger", params={"request_id": about["decision_id"]}, headers={"authorization": f"Bearer {world.serve.keys['chat']}"}
    ).json()["data"]
    assert (row["backend"], row["input_tokens"], row["output_tokens"]) == (backend, usage.prompt_tokens, usage.completion_tokens)
    assert row["cost_usd"] == pytest.approx(about["cost_usd"])
    assert row["usage_source"] == ("counted" if backend in ("extractive", "llama") else "provider")


def test_a_models_marked_claim_gets_a_verbatim_citation_and_a_mark_without_a_passage_none(world: World) -> None:
    text, about, _ = world.ask("How many days of vacation does an employee get each year?", model="writer")
    (citation,) = about["citations"]
    assert "twenty-eight days of paid vacation" in citation["quote"]
    assert canonical(world, citation["file_id"])[citation["start"] : citation["end"]] == citation["quote"]
    assert citation["page"] == 2
    assert text[citation["answer_start"] : citation["answer_end"]].startswith("Each employee has twenty-eight days")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["extractive", "writer"])
def test_the_responses_dialect_cites_in_its_own_form(world: World, model: str, stream: bool) -> None:
    request: dict[str, Any] = {
        "model": model,
        "input": "How many days of vacation does an employee get each year?",
        "tools": [{"type": "file_search", "vector_store_ids": [world.store]}],
    }
    notes: list[Any] = []
    if stream:
        with world.sdk.responses.stream(**request) as events:
            notes = [event.annotation for event in events if event.type == "response.output_text.annotation.added"]
            response = events.get_final_response()
    else:
        response = world.sdk.responses.create(**request)
    stored = world.sdk.responses.retrieve(response.id)
    told: Any = stored.model_extra["headgate"]["citations"]  # type: ignore[index]
    assert "twenty-eight days of paid vacation" in told[0]["quote"]
    (part,) = [part for item in stored.output if item.type == "message" for part in item.content]
    assert part.type == "output_text"
    assert [(note.type, note.file_id, note.filename, note.index) for note in part.annotations if note.type == "file_citation"] == [
        ("file_citation", citation["file_id"], citation["filename"], citation["answer_end"]) for citation in told
    ]
    assert response.output_text == part.text
    assert "twenty-eight days of paid vacation" in " ".join(part.text[told[0]["answer_start"] : told[0]["answer_end"]].split())
    assert [dict(note)["index"] for note in notes] == ([citation["answer_end"] for citation in told] if stream else [])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["extractive", "writer"])
def test_the_messages_dialect_cites_in_its_own_form(world: World, model: str, stream: bool) -> None:
    request: dict[str, Any] = {
        "model": model,
        "max_tokens": 500,
        "messages": [{"role": "user", "content": "How many days of vacation does an employee get each year?"}],
        "tools": [{"type": "file_search", "vector_store_ids": [world.store]}],
    }
    deltas: list[Any] = []
    with anthropic.Anthropic(base_url=world.serve.url, api_key=world.serve.keys["chat"], max_retries=0) as sdk:
        if stream:
            with sdk.messages.stream(**request) as events:
                deltas = [event.citation for event in events if event.type == "citation"]
                message: Any = events.get_final_message()
        else:
            message = sdk.messages.create(**request)
    (block,) = message.content
    assert "twenty-eight days of paid vacation" in " ".join(block.text.split())
    assert "twenty-eight days of paid vacation" in block.citations[0].cited_text
    for citation in block.citations:
        assert (citation.type, citation.document_title) == ("page_location", "handbook.pdf")
        assert citation.end_page_number == citation.start_page_number + 1
        assert citation.cited_text in page_texts(world.pdf)[citation.start_page_number - 1]
        assert citation.cited_text in canonical(world, citation.file_id)
    assert len(deltas) == (len(block.citations) if stream else 0)
    if not stream:
        assert [citation.cited_text for citation in block.citations] == [each["quote"] for each in message.headgate["citations"]]


def test_another_tenant_sees_neither_the_store_nor_the_files(world: World) -> None:
    headgate_json(world.serve.home, "tenants", "create", "globex")
    key = headgate_json(world.serve.home, "keys", "create", "--tenant", "globex", "--role", "member")["key"]
    with openai.OpenAI(base_url=f"{world.serve.url}/v1", api_key=key, max_retries=0) as stranger:
        file = next(iter(world.files.values()))
        for attempt in (
            lambda: stranger.files.retrieve(file),
            lambda: stranger.files.content(file),
            lambda: stranger.files.delete(file),
            lambda: stranger.vector_stores.retrieve(world.store),
            lambda: stranger.vector_stores.search(world.store, query="vacation"),
            lambda: stranger.vector_stores.files.list(world.store),
            lambda: stranger.chat.completions.create(
                model="auto",
                messages=[{"role": "user", "content": "How many days of vacation?"}],
                tools=[{"type": "file_search", "vector_store_ids": [world.store]}],  # type: ignore[list-item]
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()
        assert list(stranger.vector_stores.list()) == []
    assert httpx2.get(f"{world.serve.url}/v1/files/{file}/text", headers={"authorization": f"Bearer {key}"}).status_code == 404


def test_a_deleted_file_is_never_quoted_again(world: World, tmp_path: Path) -> None:
    path = tmp_path / "memo.md"
    path.write_text("# Memo\n\nThe annual company party takes place in the old lighthouse of Cuxhaven.\n")
    with path.open("rb") as file:
        done = world.sdk.vector_stores.files.upload_and_poll(vector_store_id=world.store, file=file, poll_interval_ms=100)
    text, about, _ = world.ask("Where does the annual company party take place?")
    assert "lighthouse" in text
    assert about["citations"][0]["file_id"] == done.id
    world.sdk.files.delete(done.id)
    text, about, _ = world.ask("Where does the annual company party take place?")
    assert "lighthouse" not in text
    assert all(citation["file_id"] != done.id for citation in about["citations"])


def test_health_names_every_backend_and_the_policy(world: World) -> None:
    body = json.loads(httpx2.get(f"{world.serve.url}/health/ready").text)
    assert set(body["backends"]) == {"extractive", "writer", "llama", "openai", "anthropic", "gemini"}
    assert all(state["ready"] for state in body["backends"].values())
