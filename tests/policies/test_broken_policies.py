from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.load import Policy, PolicyError
from tests.policies.broken_policies import BROKEN, START

MARK = "»"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_says_where_it_is_wrong_and_what_to_do(load: Callable[..., Policy], name: str) -> None:
    text, message = BROKEN[name]
    whole = text if text.lstrip(MARK).startswith(("version", "backends")) else START + text
    before, _, after = whole.partition(MARK)
    place = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
    with pytest.raises(PolicyError) as caught:
        load(before + after)
    found = [((problem.line, problem.column), str(problem)) for problem in caught.value.problems]
    assert len(found) == 1, found
    assert found[0][0] == place, found
    assert message in found[0][1], found


def test_there_are_sixty_kinds_of_broken_policies_and_more() -> None:
    assert len(BROKEN) >= 60
    assert all(text.count(MARK) == 1 for text, _ in BROKEN.values())
