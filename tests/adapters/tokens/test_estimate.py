"""The estimate without a vocabulary, against OpenAI's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.tokens.estimate import estimate_text
from adapters.tokens.vocabulary import count_text

PROSE = {
    "English": "The council decided on Wednesday to widen its support for renewable energy considerably, so that the climate targets can still be met.",
    "German": "Der Rat hat am Mittwoch beschlossen, die Förderung der erneuerbaren Energien deutlich auszuweiten, um die Klimaziele zu erreichen.",
    "French": "Le conseil a décidé mercredi d'augmenter fortement les aides aux énergies renouvelables afin d'atteindre ses objectifs climatiques.",
    "Polish": "W środę rada postanowiła znacznie zwiększyć wsparcie dla odnawialnych źródeł energii, aby osiągnąć cele klimatyczne.",
    "Russian": "Правительство в среду решило значительно расширить поддержку возобновляемых источников энергии, чтобы достичь климатических целей.",
    "Arabic": "قررت الحكومة يوم الأربعاء توسيع دعم الطاقة المتجددة بشكل كبير من أجل تحقيق أهداف المناخ.",
    "Hindi": "सरकार ने बुधवार को जलवायु लक्ष्यों को प्राप्त करने के लिए नवीकरणीय ऊर्जा के समर्थन का विस्तार करने का निर्णय लिया।",
    "Japanese": "政府は水曜日、気候目標を達成するために再生可能エネルギーへの支援を大幅に拡大することを決定した。",
    "Chinese": "政府周三决定大幅扩大对可再生能源的支持，以实现气候目标，并将在明年提交新的法案。",
    "Korean": "정부는 수요일에 기후 목표를 달성하기 위해 재생 에너지에 대한 지원을 대폭 확대하기로 결정했다.",
    "JSON": '{"type":"object","properties":{"city":{"type":"string","description":"The city to look up"},"days":{"type":"integer"}},"required":["city"]}',
    "Python": 'def total(rows: list[Row]) -> int:\n    """The sum of all amounts."""\n    return sum(row.amount for row in rows if row.paid)\n',
    "Emoji": "🎉🚀🔥 wow 👍🏽👍🏽",
}


@pytest.mark.parametrize("language", PROSE)
def test_prose_code_and_data_are_estimated_within_a_quarter(language: str) -> None:
    text = PROSE[language]
    exact = count_text(text, "o200k_base")
    assert abs(estimate_text(text) - exact) <= 0.25 * exact


@given(text=st.text(max_size=200))
def test_an_estimate_lies_between_one_token_and_one_for_each_byte(text: str) -> None:
    assert bool(text) <= estimate_text(text) <= len(text.encode("utf-8", "replace"))


@pytest.mark.parametrize("text", ["a" * 4_000, "A" * 4_000, "\ud800" * 400, "=" * 4_000, "字" * 4_000, "0" * 4_000, "\n" * 4_000])
def test_no_run_of_one_character_is_estimated_at_next_to_nothing(text: str) -> None:
    assert estimate_text(text) >= len(text) // 16


@given(parts=st.lists(st.sampled_from([" house", " The", "42", "\n", "_", "é", "語"]), min_size=1, max_size=30))
def test_a_longer_text_is_never_estimated_at_less(parts: list[str]) -> None:
    """At the end of a text no pair of characters is broken up, so nothing that was counted goes away."""
    sizes = [estimate_text("".join(parts[: end + 1])) for end in range(len(parts))]
    assert sizes == sorted(sizes)
