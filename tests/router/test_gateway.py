"""What one worker does when things around it go wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters.backend import BackendContext
from config.database import open_database
from config.settings import Settings
from policies.load import PolicyError
from router import policy_store
from router.backends import load_kinds
from router.launch import migrate_state
from router.policy_in_force import PolicyHolder

GOOD = "version: 1\nbackends: {a: {kind: scripted}}\ndefault: a\n"


async def test_a_version_that_cannot_be_loaded_is_left_alone_for_a_while_and_the_next_one_is_loaded_at_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    load_kinds(settings)
    database = open_database(settings.database)
    await asyncio.to_thread(migrate_state, database)
    holder = PolicyHolder(database, settings, BackendContext(environ={}), "headgate.yaml")
    for text, version in ((GOOD, 1), ("version: 1\n", 1), (GOOD + "# mended\n", 3)):
        await database.write(lambda c, text=text: policy_store.add_version(c, text, source="api", author="a"))  # type: ignore[misc]
        if version == 1 and text != GOOD:
            with pytest.raises(PolicyError):
                await holder.refresh()
        await holder.refresh()
        assert holder.current.version == version
    await holder.current.aclose()
    await database.aclose()
