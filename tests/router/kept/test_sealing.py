from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.types import ProviderPart
from router.kept.sealing import PREFIX, Sealer

SEALER = Sealer(b"a secret of the tests, long enough")
PART = ProviderPart("anthropic", {"type": "thinking", "thinking": "the plan", "signature": "s"})


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers(min_value=-(2**80), max_value=2**80) | st.booleans() | st.none()))
def test_what_was_sealed_opens_unchanged(provider: str, item: dict[str, object]) -> None:
    parts = (ProviderPart(provider, item), PART)
    assert SEALER.of("acme").open(SEALER.of("acme").close(*parts)) == parts


def test_a_token_opens_with_the_same_secret_only_and_for_the_same_tenant_only() -> None:
    token = SEALER.of("acme").close(PART)
    assert Sealer(b"a secret of the tests, long enough").of("acme").open(token) == (PART,)
    assert SEALER.of("globex").open(token) is None
    assert Sealer(b"another secret of the tests").of("acme").open(token) is None
    assert "plan" not in token


@given(st.text())
def test_other_text_opens_to_nothing(text: str) -> None:
    assert SEALER.of("acme").open(text) is None
    assert SEALER.of("acme").open(PREFIX + text) is None


@given(st.data())
def test_a_changed_token_opens_to_nothing(data: st.DataObject) -> None:
    token = SEALER.of("acme").close(PART)
    place = data.draw(st.integers(min_value=len(PREFIX), max_value=len(token) - 2))  # the last character holds unused bits
    other = data.draw(st.sampled_from("ABCabc019_-").filter(lambda character: character != token[place]))
    assert SEALER.of("acme").open(token[:place] + other + token[place + 1 :]) is None
