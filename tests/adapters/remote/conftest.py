from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.remote.recordings import ABSENT, present, replaying


@pytest.fixture(scope="session")
def replay_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not present():
        pytest.skip(ABSENT)
    with replaying(tmp_path_factory.mktemp("replay")) as url:
        yield url
