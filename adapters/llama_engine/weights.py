"""Where a model's files are, how big they are, and whether they fit: known before anything is loaded."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path

from adapters.errors import BackendUnavailable

_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_MAX_HEADER = 100 * 1024 * 1024


def looks_like_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or Path(model).is_dir()


def check_folder(folder: Path) -> None:
    """Raises `BackendUnavailable`, naming what is missing, unless the folder can hold a model."""
    if not folder.is_dir():
        raise BackendUnavailable(f"no model folder at {folder}")
    if not (folder / "config.json").is_file():
        raise BackendUnavailable(f"{folder} holds no config.json: it is not a model folder in Hugging Face's layout")
    if not any(folder.glob("*.safetensors")):
        raise BackendUnavailable(f"{folder} holds no .safetensors weights (pickled weights are not loaded)")


def find_folder(model: str) -> Path:
    """The folder with the model's files; a hub id is downloaded unless the cache has it. Raises `BackendUnavailable`."""
    if looks_like_path(model):
        folder = Path(model).expanduser()
        check_folder(folder)
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(model, allow_patterns=_FILES, ignore_patterns=["original/*"]))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise BackendUnavailable(f"{model!r} is no folder here, and the model hub did not give it: {error}") from error
    check_folder(folder)
    return folder


def parameter_count(folder: Path) -> int:
    """The number of weights, from the headers of the safetensors files. Raises `BackendUnavailable` for a file that is none."""
    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [path.name for path in folder.glob("*.safetensors")]
        return sum(_parameters_in(folder / name) for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, struct.error) as error:
        raise BackendUnavailable(f"the weights in {folder} cannot be read: {error}") from error


def _parameters_in(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def available_memory() -> int:
    """Bytes of main memory this process may still take: the machine's, or its control group's where that is less."""
    free = _meminfo()
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    return free if limit is None or used is None else min(free, limit - used)


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # no control group, or "max"
        return None
