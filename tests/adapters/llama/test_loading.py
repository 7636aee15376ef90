from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapters.errors import BackendUnavailable
from adapters.llama import LlamaSpec
from adapters.llama_engine import loading, weights
from adapters.llama_engine.loading import load


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def spec_of(folder: Path, **fields: Any) -> LlamaSpec:
    return LlamaSpec(kind="llama", model=str(folder), device="cpu", **fields)


def test_a_model_knows_its_own_settings(loaded: Any) -> None:
    assert loaded.window == 2048
    assert len(loaded.end_ids) == 3
    assert (loaded.temperature, loaded.top_p) == (0.6, 0.9)
    assert loaded.tokenizer.convert_ids_to_tokens(loaded.python_tag) == "<|python_tag|>"
    assert loading.kv_bytes_per_token(loaded.model.config, 4) == 2 * 2 * 2 * 16 * 4


def test_the_arithmetic_is_as_asked(folder: Path) -> None:
    assert load(spec_of(folder, dtype="bfloat16")).dtype == "bfloat16"


def test_weights_are_counted_without_loading_them(folder: Path, loaded: Any) -> None:
    assert weights.parameter_count(folder) == sum(parameter.numel() for parameter in loaded.model.parameters())


def one_layer_more(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no .safetensors weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]), "could not be loaded"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (one_layer_more, "lack 9 tensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "could not be loaded"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(copy: Path, damage: Any, message: str) -> None:
    damage(copy)
    with pytest.raises(BackendUnavailable, match=message):
        load(spec_of(copy))


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "available_memory", lambda: 1000)
    with pytest.raises(BackendUnavailable, match="too little memory"):
        load(spec_of(folder))


def test_memory_left_for_the_context_bounds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = weights.parameter_count(folder) * 4 * 2
    monkeypatch.setattr(loading, "available_memory", lambda: free)
    model = load(spec_of(folder, dtype="float32"))
    assert model.window == model.kv_tokens == int(free * 0.8) // 512 < 2048


def test_a_gpu_that_is_not_there_is_refused(folder: Path) -> None:
    import torch

    wanted = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(BackendUnavailable, match=wanted):
        load(msgspec.structs.replace(spec_of(folder), device=wanted))


def test_a_hub_id_that_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackendUnavailable, match=r"meta-llama/Llama-3\.2-1B-Instruct"):
        load(LlamaSpec(kind="llama", model="meta-llama/Llama-3.2-1B-Instruct"))


@pytest.mark.parametrize("table", [{"device": "gpu"}, {"dtype": "int8"}, {"max_concurrency": 0}, {"threads": 0}, {"start": "now"}, {"tempreature": 1}])
def test_a_wrong_table_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": "llama", "model": "x", **table}, LlamaSpec)
