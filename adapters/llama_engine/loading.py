"""Load a model: choose device and arithmetic, check that it fits, read tokenizer and weights, or say plainly what is missing."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.embedding import cpu_has_amx_bf16
from adapters.errors import BackendUnavailable
from adapters.llama import MISSING, LlamaSpec
from adapters.llama_engine.tokens import Vocabulary
from adapters.llama_engine.weights import available_memory, check_folder, find_folder, looks_like_path, parameter_count

if TYPE_CHECKING:
    import torch

LOAD_OVERHEAD = 1.1
KV_SHARE = 0.8
"""The share of the memory left after loading that keys and values may take."""


class LoadedModel:
    """A model ready to run. `window` is the longest prompt plus answer; `kv_tokens` how many tokens all requests together may keep."""

    def __init__(self, spec: LlamaSpec, folder: Path, tokenizer: Any, model: Any, device: torch.device, load_s: float) -> None:
        self.name = spec.model
        self.folder = folder
        self.tokenizer = tokenizer
        self.model = model
        self.device = device
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.load_s = load_s
        self.vocabulary = Vocabulary(tokenizer)
        defaults = model.generation_config
        self.temperature: float = 1.0 if defaults.temperature is None else float(defaults.temperature)
        self.top_p: float = 1.0 if defaults.top_p is None else float(defaults.top_p)
        self.end_ids = _end_ids(defaults, model.config, tokenizer)
        tag = tokenizer.convert_tokens_to_ids("<|python_tag|>")
        self.python_tag: int | None = tag if isinstance(tag, int) and tag != tokenizer.unk_token_id else None
        self.specials = tuple(sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len, reverse=True))
        own = int(model.config.max_position_embeddings)
        self.kv_tokens = int(_free_memory(device) * KV_SHARE) // kv_bytes_per_token(model.config, model.dtype.itemsize)
        self.window = max(16, min(own, spec.context_window or own, self.kv_tokens))


def precheck(spec: LlamaSpec) -> None:
    """What can be known without loading anything. Raises `BackendUnavailable`."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise BackendUnavailable(MISSING)
    if looks_like_path(spec.model):
        check_folder(Path(spec.model).expanduser())


def load(spec: LlamaSpec) -> LoadedModel:
    """Load the model of a spec. Blocking, seconds to minutes. Raises `BackendUnavailable` with the reason."""
    started = time.monotonic()
    try:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging
    except ImportError as error:
        raise BackendUnavailable(MISSING) from error
    logging.disable_progress_bar()
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.dtype, device)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    folder = find_folder(spec.model)
    _check_fits(folder, dtype.itemsize, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model = model.to(device).eval()
    except torch.OutOfMemoryError as error:
        raise BackendUnavailable(f"{spec.model} does not fit into the memory of {device}") from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, MemoryError, SafetensorError) as error:
        raise BackendUnavailable(f"{spec.model} could not be loaded: {error}") from error
    if report["missing_keys"]:
        raise BackendUnavailable(f"the weights in {folder} lack {len(report['missing_keys'])} tensors of the model, for one {min(report['missing_keys'])}")
    if tokenizer.chat_template is None:
        raise BackendUnavailable(f"{spec.model} has no chat template: it is a base model; use its Instruct version")
    if len(tokenizer) > model.config.vocab_size:
        raise BackendUnavailable(f"the tokenizer in {folder} has {len(tokenizer)} tokens, the model {model.config.vocab_size}: they do not belong together")
    return LoadedModel(spec, folder, tokenizer, model, device, time.monotonic() - started)


def choose_device(wanted: str) -> torch.device:
    """Raises `BackendUnavailable` where a GPU is asked for and this torch sees none."""
    import torch

    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"device {wanted}: torch {torch.__version__} sees no CUDA GPU on this machine")
    device = torch.device("cuda:0" if wanted in ("auto", "cuda") else wanted)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise BackendUnavailable(f"device {wanted}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
    return device


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies it (GPUs, CPUs with AMX), else float32."""
    import torch

    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" or cpu_has_amx_bf16() else torch.float32
    return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[wanted]


def kv_bytes_per_token(config: Any, itemsize: int) -> int:
    """Bytes of keys and values one token of context takes in all layers."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * itemsize)


def _check_fits(folder: Path, itemsize: int, device: torch.device) -> None:
    needed = int(parameter_count(folder) * itemsize * LOAD_OVERHEAD)
    free = _free_memory(device)
    if needed > free:
        raise BackendUnavailable(
            f"too little memory: the model in {folder} needs about {needed / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free; "
            "a smaller model, or dtype bfloat16, needs less"
        )


def _free_memory(device: torch.device) -> int:
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def _end_ids(defaults: Any, config: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: the generation config's, else the model's, else the tokenizer's."""
    for ids in (defaults.eos_token_id, config.eos_token_id, tokenizer.eos_token_id):
        if ids is not None:
            return frozenset(ids if isinstance(ids, list) else [ids])
    return frozenset()
