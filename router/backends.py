"""Which kinds of backend exist: the shipped ones, and those that plugins register."""

from __future__ import annotations

import importlib

from config.settings import Settings, import_plugins

SHIPPED = ("adapters.openai", "adapters.anthropic", "adapters.gemini", "adapters.llama", "adapters.extractive", "adapters.scripted")


def load_kinds(settings: Settings) -> None:
    """Import the modules that register backend kinds. Raises `SettingsError` for a plugin that is not there."""
    for module in SHIPPED:
        importlib.import_module(module)
    import_plugins(settings.plugins)
