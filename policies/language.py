"""Which language a question is in: by its script, and in Latin letters by frequent words and letters. Pure, no model, under 200 µs whatever the text.

It knows the languages of `policies.schema.Language` (ISO 639-1) and says nothing ("") rather than guess: for a word or two that several languages
share, for numbers, for code, and for languages it does not know. It reads the first `LOOKED_AT` characters.
"""

from __future__ import annotations

import re
from collections import defaultdict

LOOKED_AT = 300
ENOUGH = 1.0
"""The least evidence that is an answer; a word that only one language has is worth so much."""

CLEARLY = 1.15
"""How much more evidence the best language needs than the second."""

_FREQUENT = {
    "en": "the of and to is are was it that this with for you what how why who when where which can could would should please write explain my your i we"
    " they have has be not from on an hello hi thanks does do if there give make their about between into tell need want help me",
    "de": "der die das und ist nicht ein eine einen einem einer mit für auf wie was warum wer wann wo bitte ich du sie wir den dem des zu von im auch"
    " sind kann können wird haben hallo danke schreibe erkläre mir mein meine dein ihr aus bei nach über zwischen welche welcher gibt kannst oder",
    "fr": "le la les et est une des du que qui dans pour pas avec sur ce cette quel quelle comment pourquoi quand où je tu nous vous il elle sont au aux"
    " bonjour merci peux pouvez écris explique moi mon ma ton votre être fait plus entre donne quelles quels s'il plaît ou",
    "es": "el los las una que y en es por para con del se su cómo qué por quién cuándo dónde cuál cuáles yo tú nosotros están son hola gracias escribe"
    " explica mi me puedes más entre pero como está al lo hay hacer sobre favor",
    "it": "il lo gli che di è una per con non sono del della dei delle nel come perché chi quando dove quale quali io tu noi ciao grazie scrivi spiega mio"
    " mia puoi più tra ma cosa questo questa anche si alla al hai ho favore",
    "pt": "o os as um uma que e de do da dos das em no na para com não é por como quem quando onde qual quais eu você nós são está olá obrigado escreva"
    " explique meu minha pode mais entre mas isso ao pelo sobre fazer ou",
    "nl": "de het een en van is niet met voor op wat hoe waarom wie wanneer waar welke ik jij je wij zijn kan kunnen hallo bedankt schrijf uitleg mijn"
    " dat dit deze ook aan maar bij naar uit geef worden heeft tussen of alsjeblieft",
    "pl": "i w z na nie jest że do się co jak dlaczego kto kiedy gdzie który która które ja ty my są czy dla po od cześć dziękuję proszę napisz wyjaśnij"
    " mój moja możesz to jakie przez między ale",
    "cs": "a je se na že do co jak proč kdo kdy kde který která které já ty my jsou není pro po od ahoj děkuji prosím napiš vysvětli můj moje můžeš to jaké"
    " jaký mezi ale nebo v s",
    "ro": "și este nu un o de la în cu pentru pe ce cum cine când unde care eu tu noi sunt din mai salut mulțumesc scrie explică meu mea poți între dar sau",
    "hu": "a az és nem egy hogy mi hogyan miért ki mikor hol melyik én te mi vannak van szia köszönöm kérlek írj magyarázd el meg is ez azt között de vagy",
    "sv": "och är att det en ett som på av för med inte vad hur varför vem när var vilken vilka jag du vi de kan hej tack snälla skriv förklara min mitt från"
    " till om mellan men eller den har",
    "da": "og er at det en et som på af for med ikke hvad hvordan hvorfor hvem hvornår hvor hvilken hvilke jeg du vi de kan hej tak skriv forklar min mit"
    " fra til om mellem men eller den har",
    "no": "og er å det en et som på av for med ikke hva hvordan hvorfor hvem når hvor hvilken hvilke jeg du vi de kan hei takk skriv forklar min mitt fra"
    " til om mellom men eller den har",
    "fi": "ja on ei se että mitä miten miksi kuka milloin missä mikä minä sinä me ovat voi hei kiitos kirjoita selitä minun voitko tämä mutta kun tai ole"
    " välillä mutta",
    "tr": "ve bir bu ne nasıl neden kim zaman nerede hangi ben sen biz için ile değil var mı mi mu merhaba teşekkürler lütfen yaz açıkla benim daha çok"
    " arasındaki olan gibi",
    "id": "yang dan di ini itu untuk dengan tidak apa bagaimana mengapa siapa kapan mana saya anda kami adalah bisa halo terima kasih tolong tulis jelaskan"
    " dari ke pada antara tetapi atau",
    "vi": "là và của có không một cho với những các này đó được tôi bạn chúng gì như thế nào tại sao ai khi đâu xin chào cảm ơn hãy viết giải thích",
}
_LETTERS_OF = {
    "de": "ß",
    "es": "ñ¿¡",
    "pt": "ãõ",
    "pl": "łąężźćńś",
    "cs": "řůěďťň",
    "ro": "șțăşţ",
    "hu": "őű",
    "tr": "ğı",
    "vi": "ơưđạảấầẩậắằẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "sv": "ä",
    "fi": "ä",
    "da": "æø",
    "no": "æø",
    "fr": "çèêœ",
}
"""Letters that speak for a language, each a little."""

LAST_LATIN = "\u024f"
A_LETTER = 0.25
MOST_BY_LETTERS = 1.0

_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_SCRIPTS = re.compile(
    "(?P<ja>[\u3040-\u30ff])|(?P<ko>[\uac00-\ud7af\u1100-\u11ff])|(?P<zh>[\u4e00-\u9fff])|(?P<cyrillic>[\u0400-\u04ff])|(?P<el>[\u0370-\u03ff\u1f00-\u1fff])"
    "|(?P<arabic>[\u0600-\u06ff])|(?P<he>[\u0590-\u05ff])|(?P<hi>[\u0900-\u097f])|(?P<th>[\u0e00-\u0e7f])|(?P<latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+)"
)
_UKRAINIAN = re.compile("[іїєґ]", re.IGNORECASE)
_RUSSIAN = re.compile("[ыэъё]", re.IGNORECASE)
_PERSIAN = re.compile("[پچژگک\u06cc]")


def _of_words() -> dict[str, tuple[tuple[str, float], ...]]:
    """For each frequent word the languages that have it, and what it says for each."""
    having: dict[str, set[str]] = defaultdict(set)
    for language, words in _FREQUENT.items():
        for word in words.split():
            having[word].add(language)
    worth = {word: (ENOUGH if len(word) > 1 else A_LETTER) / len(languages) for word, languages in having.items()}
    return {word: tuple((language, worth[word]) for language in sorted(languages)) for word, languages in having.items()}


_OF_WORDS = _of_words()
_OF_LETTERS = {letter: tuple(language for language, letters in sorted(_LETTERS_OF.items()) if letter in letters) for letter in "".join(_LETTERS_OF.values())}
_TELLING = re.compile(f"[{''.join(sorted(_OF_LETTERS))}]")


def language_of(text: str) -> str:
    """The language of a text, or "" where it cannot be told."""
    text = text[:LOOKED_AT].lower()
    if text.isascii() or max(text) <= LAST_LATIN:
        return _latin(text)
    counts: dict[str, int] = defaultdict(int)
    for found in _SCRIPTS.finditer(text):
        counts[found.lastgroup or ""] += 1  # of Latin letters a whole word counts as one: a name or two in it does not change a text's language
    if counts.get("ja"):  # with Chinese characters among it
        counts["ja"] += counts.pop("zh", 0)
    script = max(counts, key=lambda name: counts[name], default="latin")
    match script:
        case "latin":
            return _latin(text)
        case "cyrillic":
            return "uk" if len(_UKRAINIAN.findall(text)) > len(_RUSSIAN.findall(text)) else "ru"
        case "arabic":
            return "fa" if _PERSIAN.search(text) else "ar"
        case _:
            return script


def _latin(text: str) -> str:
    scores: dict[str, float] = defaultdict(float)
    for word in _WORD.findall(text):
        for language, weight in _OF_WORDS.get(word, ()):
            scores[language] += weight
    if not text.isascii():
        by_letters: dict[str, float] = defaultdict(float)
        for letter in _TELLING.findall(text):
            for language in _OF_LETTERS[letter]:
                by_letters[language] += A_LETTER
        for language, score in by_letters.items():
            scores[language] += min(score, MOST_BY_LETTERS)
    best, second = [*sorted(((score, language) for language, score in scores.items()), reverse=True), (0.0, ""), (0.0, "")][:2]
    return best[1] if best[0] >= ENOUGH / 2 and best[0] >= CLEARLY * second[0] else ""
