"""The local Llama: real weights from a Hugging Face folder or hub id, many requests interleaved by one thread. Runs in the compute process.

`LlamaEngine` is the door. Importing this package imports neither torch nor transformers; loading a model does.
"""

from adapters.llama_engine.engine import LlamaEngine

__all__ = ["LlamaEngine"]
