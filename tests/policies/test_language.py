"""The detector on questions that it was not written from: how often it is right, wrong, and silent."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.language import language_of

QUESTIONS = {
    "en": ["What is the capital of Australia?", "Summarize the attached contract in three bullet points.", "my laptop won't turn on anymore, any ideas?"],
    "de": ["Wie hoch ist der Mount Everest?", "Fasse den Vertrag in drei Stichpunkten zusammen.", "mein Laptop geht nicht mehr an, was soll ich tun?"],
    "fr": ["Quelle est la hauteur de la tour Eiffel ?", "Résume ce contrat en trois points.", "Traduis cette phrase pour mon collègue."],
    "es": ["¿Cuál es la capital de Argentina?", "Resume el contrato en tres puntos.", "mi portátil no enciende, ¿qué puedo hacer?"],
    "it": ["Qual è la capitale della Svizzera?", "Riassumi il contratto in tre punti.", "il mio portatile non si accende, che cosa posso fare?"],
    "pt": ["Qual é a capital do Brasil?", "Resuma o contrato em três pontos.", "meu computador não liga, o que devo fazer?"],
    "nl": ["Wat is de hoofdstad van Australië?", "Vat het contract samen in drie punten.", "mijn laptop gaat niet meer aan, wat moet ik doen?"],
    "pl": ["Jaka jest stolica Australii?", "Streść umowę w trzech punktach.", "mój laptop się nie włącza, co mam zrobić?"],
    "cs": ["Jaké je hlavní město Austrálie?", "Shrň smlouvu do tří bodů.", "můj notebook se nezapne, co mám dělat?"],
    "ro": ["Care este capitala Australiei?", "Rezumă contractul în trei puncte.", "laptopul meu nu pornește, ce pot să fac?"],
    "hu": ["Mi Ausztrália fővárosa?", "Foglald össze a szerződést három pontban.", "nem kapcsol be a laptopom, mit tegyek?"],
    "sv": ["Vad är huvudstaden i Australien?", "Sammanfatta avtalet i tre punkter.", "min dator startar inte, vad ska jag göra?"],
    "da": ["Hvad er hovedstaden i Australien?", "Opsummer kontrakten i tre punkter, og hvorfor den er vigtig.", "min computer vil ikke starte, hvad gør jeg?"],
    "no": ["Hva er hovedstaden i Australia?", "Hvorfor vil ikke datamaskinen min starte, og hva gjør jeg nå?", "Hei, hva koster det å bytte av en skjerm?"],
    "fi": ["Mikä on Australian pääkaupunki?", "Tiivistä sopimus kolmeen kohtaan, kiitos.", "kannettavani ei käynnisty, mitä minun pitää tehdä?"],
    "tr": ["Avustralya'nın başkenti neresi?", "Bu sözleşmeyi üç maddede özetle.", "bilgisayarım açılmıyor, ne yapmalıyım?"],
    "id": ["Apa ibu kota Australia?", "Ringkas kontrak ini dalam tiga poin.", "laptop saya tidak mau menyala, apa yang harus saya lakukan?"],
    "vi": ["Thủ đô của Úc là gì?", "Tóm tắt hợp đồng này thành ba ý.", "máy tính của tôi không bật được, tôi phải làm gì?"],
    "ru": ["Какая столица Австралии?", "Кратко изложи договор в трёх пунктах."],
    "uk": ["Яка столиця Австралії?", "Стисло виклади договір у трьох пунктах, будь ласка, і поясни їх."],
    "el": ["Ποια είναι η πρωτεύουσα της Αυστραλίας;"],
    "ar": ["ما هي عاصمة أستراليا؟"],
    "fa": ["پایتخت استرالیا کجاست؟ لطفاً بگو چرا"],
    "he": ["מהי בירת אוסטרליה?"],
    "hi": ["ऑस्ट्रेलिया की राजधानी क्या है?"],
    "th": ["เมืองหลวงของออสเตรเลียคืออะไร"],
    "zh": ["澳大利亚的首都是哪里?", "用 Python 写一个排序函数"],
    "ja": ["オーストラリアの首都はどこですか?"],
    "ko": ["호주의 수도는 어디인가요?"],
}


def test_it_names_the_language_of_most_questions_and_a_wrong_one_of_almost_none() -> None:
    asked = [(language, text) for language, texts in QUESTIONS.items() for text in texts]
    found = [(language, language_of(text), text) for language, text in asked]
    wrong = [each for each in found if each[1] not in ("", each[0])]
    silent = [each for each in found if each[1] == ""]
    assert len(wrong) <= 0.03 * len(asked), wrong
    assert len(silent) <= 0.12 * len(asked), silent


@pytest.mark.parametrize("text", ["", "12 + 7", "OK", "???", "x = y ** 2", "🙂", "Kubernetes"])
def test_what_says_nothing_of_its_language_has_none(text: str) -> None:
    assert language_of(text) == ""


def test_a_foreign_name_or_word_does_not_change_a_texts_language() -> None:
    assert language_of("Please explain what the German word Schadenfreude means and how you would use it.") == "en"
    assert language_of("Что такое Kubernetes и Docker?") == "ru"


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    assert language_of(text) == "" or len(language_of(text)) == 2


def test_a_long_text_takes_less_than_a_millisecond() -> None:
    text = "Wie kann ich die Übersicht über meine Verträge behalten, ohne jeden Tag alle Unterlagen zu lesen? " * 40
    took = []
    for _ in range(20):
        began = time.perf_counter()
        language_of(text)
        took.append(time.perf_counter() - began)
    assert min(took) < 1e-3
