"""A tiny Llama, built once for all tests of this folder, and an engine on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.llama import LlamaSpec
from adapters.types import AttemptRecord, GenerateRequest, Message, TextPart
from tests.tiny_llama import build


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture
def spec(folder: Path) -> LlamaSpec:
    return LlamaSpec(kind="llama", model=str(folder), device="cpu", dtype="float32", threads=1)


@pytest.fixture(scope="session")
def loaded(folder: Path) -> Any:
    from adapters.llama_engine.loading import load

    return load(LlamaSpec(kind="llama", model=str(folder), device="cpu", dtype="float32", threads=1))


@pytest.fixture
def make_engine(spec: LlamaSpec) -> Iterator[Any]:
    """`make_engine(**changes to the spec)`; closed at the end."""
    import msgspec

    from adapters.llama_engine import LlamaEngine

    engines: list[LlamaEngine] = []

    def make(prefill_chunk: int = 512, **changes: Any) -> LlamaEngine:
        engines.append(LlamaEngine(msgspec.structs.replace(spec, **changes), prefill_chunk=prefill_chunk))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(make_engine: Any) -> Any:
    return make_engine()


@pytest.fixture
def ask() -> Any:
    def make(text: str = "Hello", **fields: Any) -> GenerateRequest:
        fields.setdefault("temperature", 0.0)
        fields.setdefault("max_output_tokens", 24)
        return GenerateRequest(messages=(Message(role="user", parts=(TextPart(text),)),), **fields)

    return make


@pytest.fixture
def attempt() -> AttemptRecord:
    return AttemptRecord(backend="local")
