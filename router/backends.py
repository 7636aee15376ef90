"""Which kinds of backend exist, the shipped ones and those that plugins register, and whether a policy's backends can be made."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping

from adapters.backend import BackendContext, create_backend
from adapters.embedders import create_embedder
from config.settings import Settings, import_plugins
from policies.check_capabilities import capability_problems
from policies.load import Policy, PolicyError

SHIPPED = ("adapters.openai", "adapters.anthropic", "adapters.gemini", "adapters.llama", "adapters.extractive", "adapters.scripted")


def load_kinds(settings: Settings) -> None:
    """Import the modules that register backend kinds. Raises `SettingsError` for a plugin that is not there."""
    for module in SHIPPED:
        importlib.import_module(module)
    import_plugins(settings.plugins)


async def try_backends(policy: Policy, environ: Mapping[str, str]) -> None:
    """Make every backend of a policy as a worker would, and close it again: what cannot be made here must not become the active policy.

    Makes no call. Raises `PolicyError` that names the backends, and the rules that none of theirs can serve.
    """
    context = BackendContext(environ=environ)
    problems = []
    capabilities = {}
    for name, configured in policy.backends.items():
        try:
            backend = create_backend(name, configured.spec, context)
            capabilities[name] = backend.capabilities
            await backend.aclose()
        except Exception as error:  # a plugin's constructor may raise anything
            message = f"this backend cannot be made: {type(error).__name__}: {error}"
            problems.append(policy.places.problem(("backends", name), message))
    for name, embedder in policy.embedders.items():
        try:
            await create_embedder(name, embedder.spec, environ).aclose()
        except ValueError as error:
            problems.append(policy.places.problem(("embedders", name), f"this embedder cannot be made: {error}"))
    problems += capability_problems(policy, capabilities)
    if problems:
        raise PolicyError(problems, policy.source)


def try_policy(policy: Policy, environ: Mapping[str, str]) -> None:
    """`try_backends` where no event loop runs."""
    asyncio.run(try_backends(policy, environ))
