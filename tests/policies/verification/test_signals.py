"""Each signal of the verifier, on answers that it must let pass and answers that it must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.structured import AnswerFormat, answer_format
from adapters.types import FinishReason, GenerateRequest, Message, ResponseFormat, TextPart, Tool, ToolCallPart
from policies.language import language_of
from policies.verification.agreement import agreement, final_answer
from policies.verification.answer import Answer, Asked, Finding
from policies.verification.asked import asked_of
from policies.verification.markers import hedges, refuses
from policies.verification.spec import PARTIAL, SIGNALS, Cascade, Signal
from policies.verification.verify import agreed, verify


def finding(signal: Signal, answer: Answer, asked: Asked | None = None, **thresholds: float) -> Finding:
    (found,) = verify(Cascade(on=("cheap",), verify=(signal,), **thresholds), asked or Asked(), answer).findings  # type: ignore[arg-type]
    return found


# --- log probabilities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("logprobs", "ok", "code"), [((-0.1, -0.5), True, ""), ((-0.1, -2.0), False, "logprob"), ((-0.8,), True, ""), ((), None, "")])
def test_the_mean_log_probability_has_a_floor_where_it_is_known(logprobs: tuple[float, ...], ok: bool | None, code: str) -> None:
    found = finding("logprob", Answer(text="x", logprobs=logprobs), min_mean_logprob=-0.8)
    assert (found.ok, found.code) == (ok, code)


def test_a_single_token_can_fail_an_answer_whose_mean_is_fine() -> None:
    answer = Answer(text="x", logprobs=(*(-0.01,) * 50, -9.0))
    assert finding("logprob", answer).ok
    assert finding("logprob", answer, min_token_logprob=-8.0).code == "logprob:token"


# --- length --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "finish", "code"),
    [("fine", "stop", ""), ("  ", "stop", "length:short"), ("x" * 11, "stop", "length:long"), ("fine", "length", "length:cut")],
)
def test_an_answer_is_neither_empty_nor_too_long_nor_cut_off(text: str, finish: FinishReason, code: str) -> None:
    assert finding("length", Answer(text=text, finish=finish), max_characters=10).code == code


# --- hedging and refusal -------------------------------------------------------------------------------------------------------------

HEDGES = (
    "I'm not sure, but it might be Oslo.",
    "I’m **not entirely sure** about this.",
    "I don't know.",
    "As far as I know it is 4.",
    "It is hard to say without more context.",
    "There is not enough information to decide.",
    "I could be wrong here.",
    "Please double-check this.",
    "Ich bin mir nicht sicher, aber es ist wohl Oslo.",
    "Soweit ich weiß, ist es Oslo.",
    "Je ne suis pas sûr de la réponse.",
    "No estoy segura de eso.",
    "Non sono sicuro della risposta.",
    "Não tenho certeza.",
    "Ik weet het niet zeker.",
)
SURE = (
    "It may rain tomorrow, and you might want an umbrella.",
    "Sure! The capital of Norway is Oslo.",
    "A function may raise; if it does, you know why.",
    "```python\n# I'm not sure why this works\nx = 1\n```\nThis sets x.",
    "Die Hauptstadt ist Oslo; das ist sicher.",
    "La réponse est sûre : Oslo.",
    "Certain values are unknown to the compiler.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with this request.",
    "I cannot provide medical advice.",
    "Unfortunately, I am not able to answer this question.",
    "As an AI language model, I have no opinions.",
    "I'm unable to open the file.",
    "Sorry. I can't write that.",
    "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "Je suis désolé, mais je ne peux pas répondre.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Mi dispiace, non posso aiutarti.",
    "Desculpe, não posso ajudar.",
    "Het spijt me, ik kan je niet helpen.",
)
ANSWERS = (
    'You can say: "I\'d rather not." That is polite.',
    "The treaty says that states cannot provide arms.",
    "He apologised. They are able to answer now.",
    "To refuse politely, write a short note.\n\n" + "Some more words about it. " * 12 + "I'm sorry, but I can't come.",
    "Oslo.",
)


@pytest.mark.parametrize("text", HEDGES)
def test_an_answer_that_says_that_it_is_not_sure_hedges(text: str) -> None:
    assert finding("hedging", Answer(text=text)).code == "hedging"


@pytest.mark.parametrize("text", SURE)
def test_ordinary_words_of_doubt_are_no_hedge(text: str) -> None:
    assert hedges(text) == 0
    assert finding("hedging", Answer(text=text)).ok


def test_some_hedges_may_be_allowed() -> None:
    assert finding("hedging", Answer(text=" ".join(HEDGES[:2])), max_hedges=2).ok
    assert finding("hedging", Answer(text=" ".join(HEDGES[:2])), max_hedges=1).value == 2


@pytest.mark.parametrize("text", REFUSALS)
def test_an_answer_that_begins_as_refusals_do_is_one(text: str) -> None:
    assert finding("refusal", Answer(text=text)).code == "refusal"


@pytest.mark.parametrize("text", ANSWERS)
def test_the_same_words_elsewhere_are_no_refusal(text: str) -> None:
    assert not refuses(text)


def test_a_refusal_that_the_provider_declares_needs_no_words() -> None:
    assert finding("refusal", Answer(text="", refused=True)).code == "refusal"
    assert finding("refusal", Answer(text="x", finish="content_filter")).code == "refusal"


# --- citations -----------------------------------------------------------------------------------------------------------------------

TEXT = "Vacation is twenty-eight days a year. Unused days expire in March of the next year. Ask the people team."


@pytest.mark.parametrize(
    ("cited", "passages", "ok", "value"),
    [
        (((0, 36), (38, 60)), 3, True, 2 / 3),
        (((0, 36),), 3, False, 1 / 3),
        ((), 3, False, 0.0),
        ((), 0, None, None),
    ],
)
def test_of_a_grounded_answers_claims_enough_must_be_borne_out(cited: tuple[tuple[int, int], ...], passages: int, ok: bool | None, value: float | None) -> None:
    found = finding("citations", Answer(text=TEXT, cited=cited), Asked(passages=passages), min_citations=0.5)
    assert (found.ok, found.value) == (ok, value)


def test_sentences_that_claim_nothing_need_no_citation() -> None:
    assert finding("citations", Answer(text="Yes.", cited=()), Asked(passages=2)).ok is None
    assert finding("citations", Answer(text="Sure! Vacation is twenty-eight days a year.", cited=((6, 20),)), Asked(passages=2)).value == 1.0


# --- format --------------------------------------------------------------------------------------------------------------------------

PLACE = answer_format(ResponseFormat(kind="json_schema", schema={"type": "object", "required": ["city"]}))
GERMAN = "Die Hauptstadt von Norwegen ist Oslo, und sie liegt am Ende eines Fjords, der auch im Winter nicht zufriert."
ENGLISH = "The capital of Norway is Oslo, and it lies at the end of a fjord that does not freeze in the winter."


@pytest.mark.parametrize(("text", "code"), [('{"city": "Oslo"}', ""), ('{"town": "Oslo"}', "format:json"), ("Oslo", "format:json")])
def test_json_must_fit_the_schema(text: str, code: str) -> None:
    assert isinstance(PLACE, AnswerFormat)
    assert finding("format", Answer(text=text), Asked(form=PLACE)).code == code


@pytest.mark.parametrize(("text", "ok", "code"), [(GERMAN, True, ""), (ENGLISH, False, "format:language"), ("Oslo.", None, "")])
def test_an_answer_is_in_the_language_that_was_asked_for_as_far_as_it_can_be_told(text: str, ok: bool | None, code: str) -> None:
    found = finding("format", Answer(text=text), Asked(language="de"))
    assert (found.ok, found.code) == (ok, code)


@pytest.mark.parametrize(("text", "code"), [("```python\nx = 1\n```", ""), ("Just add them.", "format:code"), ("```python\nx = 1", "format:code")])
def test_code_that_was_asked_for_stands_in_a_block_that_is_closed(text: str, code: str) -> None:
    assert finding("format", Answer(text=text), Asked(code=True)).code == code


def test_an_open_block_fails_even_where_no_code_was_asked_for() -> None:
    assert finding("format", Answer(text="Like this:\n```\nx = 1")).code == "format:code"
    assert finding("format", Answer(text="Like this.")).ok is None


WEATHER = Tool("weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("weather", '{"city": "Oslo"}', ""),
        ("weather", '{"city": 1}', "format:tool_call"),
        ("weather", '{"city": ', "format:tool_call"),
        ("wether", '{"city": "Oslo"}', "format:tool_call"),
        ("free", "", ""),
        ("free", "[1]", "format:tool_call"),
    ],
)
def test_a_call_names_a_tool_and_fits_its_parameters_and_is_verified_for_nothing_else(name: str, arguments: str, code: str) -> None:
    answer = Answer(text="I don't know.", finish="tool_calls", calls=(ToolCallPart("call_1", name, arguments),))
    verdict = verify(Cascade(on=("cheap",), verify=SIGNALS), Asked(tools=(WEATHER, Tool("free"))), answer)
    assert [each.signal for each in verdict.findings] == ["format"]
    assert verdict.failed == ((code,) if code else ())


@pytest.mark.parametrize(
    ("question", "language", "code"),
    [
        ("Please answer in German: what is the capital of Norway?", "de", False),
        ("Summarise the text below in French.", "fr", False),
        ("Translate this into Spanish: good morning", "es", False),
        ("Antworte bitte auf Englisch.", "en", False),
        ("Réponds en allemand.", "de", False),
        ("What do people in French cities eat?", None, False),
        ("Is German harder than Dutch?", None, False),
        ("Write a Python function that sorts a list.", None, True),
        ("Why does this python code crash?", None, False),
    ],
)
def test_what_is_asked_of_the_form_is_read_from_the_question(question: str, language: str | None, code: bool) -> None:
    asked = asked_of(GenerateRequest(messages=(Message("user", (TextPart(question),)),)), None)
    assert (asked.language, asked.code) == (language, code)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        (ENGLISH, "en"),
        ("La capitale de la Norvège est Oslo, et elle se trouve au fond d'un fjord qui ne gèle pas dans l'hiver.", "fr"),
        ("La capital de Noruega es Oslo, y está al final de un fiordo que no se congela en el invierno.", "es"),
        ("ノルウェーの首都はオスロです。冬でも凍らないフィヨルドの奥にあります。", "ja"),
        ("挪威的首都是奥斯陆，位于峡湾的尽头。", "zh"),
        ("Столица Норвегии — Осло, она стоит в конце фьорда.", "ru"),
        ("Oslo", None),
        ("42", None),
        ("", None),
    ],
)
def test_a_texts_language_is_told_from_its_script_and_its_small_words(text: str, language: str | None) -> None:
    assert language_of(text) == (language or "")


# --- agreement -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "least", "most"),
    [
        ("3 + 4 = 7, so the answer is 7.", "#### 7", 1, 1),
        ("The answer is 7.", "The answer is 8.", 0, 0),
        ("The total is $1,200.50", r"It comes to \boxed{1200.5}", 1, 1),
        ("The final answer is (B).", "Answer: B", 1, 1),
        ("Das Ergebnis ist 12.", "So we get: the answer is **12**", 1, 1),
        ("Oslo", "oslo.", 1, 1),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1, 1),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 3}', 0.5, 0.5),
        ("Oslo is the capital of Norway and its largest city.", "The capital of Norway is Oslo, the largest city there.", 0.7, 1),
        ("Oslo is the capital of Norway and its largest city.", "Photosynthesis turns light into sugar in the leaves of plants.", 0, 0.1),
    ],
)
def test_two_answers_agree_by_what_they_come_to_else_by_their_words(first: str, second: str, least: float, most: float) -> None:
    assert least <= agreement(first, second) <= most
    assert agreement(first, second) == agreement(second, first)


def test_a_final_answer_is_only_read_where_one_is_stated() -> None:
    assert final_answer("Oslo lies at the end of a long fjord.") is None
    assert final_answer("It takes 3 hours.\n#### 3") == "3"
    assert final_answer("The answer is -4.") == "-4"
    assert final_answer("The answer is 2.50.") == "2.5"


def test_a_second_answer_that_refuses_or_calls_a_tool_does_not_agree() -> None:
    spec, first = Cascade(on=("cheap",), verify=("agreement",)), Answer(text="The answer is 3.")
    assert agreed(spec, first, Answer(text="The answer is 3.")).ok
    assert agreed(spec, first, Answer(text="", refused=True)).code == "agreement"
    assert agreed(spec, first, Answer(text="", calls=(ToolCallPart("c", "weather", "{}"),))).code == "agreement"


@given(st.text(), st.text())
def test_agreement_is_symmetric_between_0_and_1_and_full_with_itself(first: str, second: str) -> None:
    assert 0 <= agreement(first, second) <= 1
    assert agreement(first, second) == agreement(second, first)
    assert agreement(first, first) == 1


# --- all together --------------------------------------------------------------------------------------------------------------------


def test_a_verdict_names_every_failure_in_the_order_of_the_policy() -> None:
    answer = Answer(text="I'm sorry, but I can't help. I don't know.", finish="length", logprobs=(-3.0,))
    verdict = verify(Cascade(on=("cheap",), verify=("length", "refusal", "citations", "hedging", "logprob")), Asked(), answer)
    assert verdict.failed == ("length:cut", "refusal", "hedging", "logprob")
    assert not verdict.verified
    assert verdict.values == {"length": 42.0, "refusal": 1.0, "hedging": 1.0, "logprob": -3.0}


def test_an_answer_of_which_nothing_is_known_is_neither_failed_nor_verified() -> None:
    verdict = verify(Cascade(on=("cheap",), verify=("logprob", "citations")), Asked(), Answer(text="Oslo."))
    assert (verdict.failed, verdict.verified) == ((), False)


def test_of_a_beginning_only_what_a_beginning_shows_is_looked_at() -> None:
    beginning = Answer(text="The capital of Norway", finish=None, logprobs=(-0.1,))
    verdict = verify(Cascade(on=("cheap",), verify=SIGNALS), Asked(passages=3, code=True, form=PLACE), beginning)
    assert {each.signal for each in verdict.findings} == PARTIAL
    assert verdict.failed == ()


answers = st.builds(
    Answer,
    text=st.text() | st.sampled_from((*HEDGES, *REFUSALS, *SURE, TEXT)),
    finish=st.sampled_from(("stop", "length", "content_filter", "tool_calls", None)),
    refused=st.booleans(),
    logprobs=st.lists(st.floats(-50, 0)).map(tuple),
    cited=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 100))).map(tuple),
)


@given(answers, st.sets(st.sampled_from(SIGNALS), min_size=1), st.integers(0, 5))
def test_any_answer_has_a_verdict_and_the_same_one_every_time(answer: Answer, signals: set[Signal], passages: int) -> None:
    spec = Cascade(on=("cheap",), verify=tuple(sorted(signals)))
    asked = Asked(passages=passages, language="de")
    verdict = verify(spec, asked, answer)
    assert verdict == verify(spec, asked, answer)
    assert {each.signal for each in verdict.findings} <= signals
    assert all(code.partition(":")[0] in signals for code in verdict.failed)
    assert all((each.code != "") == (each.ok is False) for each in verdict.findings)


def test_of_a_very_long_answer_both_ends_are_read() -> None:
    filler = "The harbour was built in 1887. " * 5_000
    assert hedges(f"I'm not sure. {filler}") == hedges(f"{filler} I'm not sure.") == 1
    assert hedges(filler) == 0
    assert language_of(filler) == "en"
