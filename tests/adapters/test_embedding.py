from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.embedding import EmbedderUnavailable, SentenceEmbedder, cpu_has_amx_bf16

np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder()


def test_vectors_have_unit_length_and_near_meanings_are_near(embedder: SentenceEmbedder) -> None:
    matrix = embedder.embed(["How do I get my money back?", "Refunds are paid within two weeks.", "The ship sails at noon."], "document")
    assert matrix.shape == (3, embedder.dimensions)
    assert matrix.dtype == np.float32
    assert np.allclose(np.linalg.norm(matrix, axis=1), 1.0, atol=1e-2)
    assert matrix[0] @ matrix[1] > matrix[0] @ matrix[2] + 0.2


def test_no_text_gives_an_empty_matrix(embedder: SentenceEmbedder) -> None:
    assert embedder.embed([], "query").shape == (0, embedder.dimensions)
    assert embedder.count_tokens([]) == []


def test_the_space_names_model_weights_and_arithmetic(embedder: SentenceEmbedder) -> None:
    model, rest = embedder.space.split("@")
    assert model == "all-MiniLM-L6-v2"
    assert rest.split("/")[1] == ("bfloat16" if cpu_has_amx_bf16() else "float32")


def test_tokens_are_counted_beyond_what_the_model_reads(embedder: SentenceEmbedder) -> None:
    assert embedder.count_tokens(["hello there " * 400, "hello"]) == [800, 1]


def test_a_folder_that_is_no_model_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises((EmbedderUnavailable, ValueError)) as caught:
        SentenceEmbedder(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_hub_model_is_not_looked_for_on_the_network_when_offline() -> None:
    with pytest.raises(EmbedderUnavailable, match="nobody/no-such-model"):
        SentenceEmbedder("nobody/no-such-model", offline=True)
    assert "HF_HUB_OFFLINE" not in os.environ


def test_amx_is_read_from_the_processors_flags(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("model name: x\nflags\t\t: fpu amx_bf16 amx_tile\n", "ascii")
    assert cpu_has_amx_bf16(info)
    info.write_text("flags\t\t: fpu avx512_bf16\n", "ascii")
    assert not cpu_has_amx_bf16(info)
    assert not cpu_has_amx_bf16(tmp_path / "absent")


def test_importing_the_module_loads_no_heavy_library() -> None:
    code = "import sys, adapters.embedding; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout.strip() == "[]"
