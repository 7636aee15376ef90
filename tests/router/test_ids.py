"""Ids that are fetched for many at once and handed out once."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from router.ids import fresh_id


def test_an_id_has_128_bits_in_hexadecimal() -> None:
    assert re.fullmatch("[0-9a-f]{32}", fresh_id())


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(4) as threads:
        found = [each for some in threads.map(lambda _: [fresh_id() for _ in range(2_000)], range(4)) for each in some]
    assert len(set(found)) == 8_000


def test_a_forked_process_has_ids_of_its_own() -> None:
    fresh_id()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, "".join(fresh_id() for _ in range(300)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    of_child = {said[at : at + 32] for at in range(0, len(said), 32)}
    assert len(of_child) == 300
    assert not of_child & {fresh_id() for _ in range(300)}
