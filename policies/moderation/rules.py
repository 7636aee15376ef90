"""The shipped rules, as data.

Shapes follow the issuers' own documentation; where an issuer publishes none, the shapes of gitleaks (MIT, https://github.com/gitleaks/gitleaks). A rule fails
towards removal: no left boundary where a prefix is distinctive, and a bound that is well above any real credential.

At the bound. Of a key-like run longer than its pattern allows, the longest allowed part is removed and the rest, which is no part of any such key, stays;
keys of a fixed length (AWS, Hugging Face) and checked numbers (card, IBAN, SSN, phone) do not lie inside a longer run of digits or letters, so such a run is
none. Tokens and private keys (`jwt`, `private-key`) have no end: they are removed however long they are. An e-mail address keeps RFC 5321's limits: 64
characters before the @ (the last 64 of a longer run are removed), labels of 63, here at most 8 of them before the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from msgspec import Struct

from policies.moderation import phone, validators

Action: TypeAlias = Literal["redact", "block", "flag"]


class Rule(Struct, frozen=True):
    """What to find. Several rules may share a name (`ip`).

    A candidate is a text that the whole `pattern` matches, that no character of the class `not_before` precedes and none of `not_after` follows, and that
    `validate` accepts. A head, if declared, extends it to the left: over the run of `head` characters directly before it, from the run's first `head_first`
    character on, but over the last `head_max` characters at most; without a head of at least one character there is no candidate.
    """

    name: str
    category: str
    placeholder: str
    pattern: str
    not_before: str = ""
    not_after: str = ""
    validate: Callable[[str], bool] | None = None
    head: str = ""
    head_first: str = ""
    head_max: int = 0
    load: Callable[[], object] | None = None
    """What has to be imported before the first validation."""

    @property
    def open(self) -> bool:
        """What it has matched is certain at once."""
        return self.validate is None and not self.not_after


DENY_LIST = "deny-list"

_WORD = r"\w"
_ALNUM = "[A-Za-z0-9]"
_B64 = "[A-Za-z0-9_-]"
_GAP = r"(?:[ \t\r\n]|\\[nrt]){1,8}"  # white space, also as JSON spells it
_PEM_TYPE = "[A-Z0-9 ]{0,24}PRIVATE KEY(?: BLOCK)?-----"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_COUNTRY = "|".join(f"[{code[0]}{code[0].lower()}][{code[1]}{code[1].lower()}]" for code in validators.IBAN_COUNTRIES)
_EXT = "(?: ?(?:x|ext[.]?) ?[0-9]{1,5})?"
_PHONE = "|".join(
    (
        f"[+](?:[ .()-]{{0,2}}[0-9]){{7,15}}{_EXT}",
        f"00(?:[ .()-]?[0-9]){{8,15}}{_EXT}",
        f"(?:1[ .-]?)?(?:[(][0-9]{{3}}[)] ?|[0-9]{{3}}[ .-])[0-9]{{3}}[ .-][0-9]{{4}}{_EXT}",
        f"0[0-9]{{1,4}}(?:[ .-][0-9]{{2,8}}){{1,4}}{_EXT}",
        f"[(]0[0-9]{{1,4}}[)] ?[0-9]{{2,8}}(?:[ .-][0-9]{{2,8}}){{0,3}}{_EXT}",
    )
)

RULES: tuple[Rule, ...] = (
    # RFC 5321: a local part has at most 64 characters, a label 63. Of a longer run before the @ only the last 64 can belong to an address.
    Rule("email", "pii", "[EMAIL]", r"@(?:[^\W_][\w-]{0,62}[.]){1,8}[^\W\d_]{2,24}", head=r"[\w.%+'-]", head_first=r"[\w%+]", head_max=64),
    Rule("phone", "pii", "[PHONE]", _PHONE, not_before="[0-9]", not_after="[0-9]", validate=phone.phone, load=phone.load),
    Rule("card", "pii", "[CARD]", "[0-9]{4}(?:[ -]?[0-9]){8,15}", not_before="[0-9]", not_after="[0-9]", validate=validators.card),
    Rule("iban", "pii", "[IBAN]", f"(?:{_COUNTRY})[0-9]{{2}}(?: ?{_ALNUM}){{11,29}}", not_before=_WORD, not_after=_WORD, validate=validators.iban),
    Rule("ssn", "pii", "[SSN]", "[0-9]{3}[ -][0-9]{2}[ -][0-9]{4}", not_before="[0-9]", not_after="[0-9]", validate=validators.ssn),
    Rule("ip", "pii", "[IP]", f"{_OCTET}(?:[.]{_OCTET}){{3}}", not_before=_WORD, not_after="[0-9]", validate=validators.ip_v4),
    Rule("ip", "pii", "[IP]", "[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}", not_before=_WORD, not_after="[0-9A-Za-z]", validate=validators.ip_v6),
    Rule("openai-key", "secrets", "[API_KEY]", f"sk-{_B64}{{20,250}}", not_before=_ALNUM, validate=validators.openai_key),
    Rule("anthropic-key", "secrets", "[API_KEY]", f"sk-ant-{_B64}{{20,250}}", validate=validators.varied),
    Rule("aws-key", "secrets", "[API_KEY]", "(?:AKIA|ASIA)[A-Z0-9]{16}", not_before=_ALNUM, not_after=_ALNUM, validate=validators.varied),
    Rule("github-token", "secrets", "[API_KEY]", f"gh[pousr]_{_ALNUM}{{36,251}}", validate=validators.varied),
    Rule("github-token", "secrets", "[API_KEY]", "github_pat_[A-Za-z0-9_]{36,244}", validate=validators.varied),
    Rule("gitlab-token", "secrets", "[API_KEY]", f"glpat-{_B64}{{20,250}}(?:[.]{_ALNUM}{{2,12}}){{0,2}}", validate=validators.varied),
    Rule("slack-token", "secrets", "[API_KEY]", "xox[abeoprs]-[A-Za-z0-9-]{24,250}", validate=validators.slack_token),
    Rule("google-key", "secrets", "[API_KEY]", f"AIza{_B64}{{35}}", validate=validators.varied),
    Rule("stripe-key", "secrets", "[API_KEY]", f"[sr]k_(?:live|test)_{_ALNUM}{{16,250}}", validate=validators.varied),
    Rule("sendgrid-key", "secrets", "[API_KEY]", f"SG[.]{_B64}{{16,32}}[.]{_B64}{{30,64}}", not_before=_ALNUM, validate=validators.varied),
    Rule("npm-token", "secrets", "[API_KEY]", f"npm_{_ALNUM}{{36,64}}", validate=validators.varied),
    Rule("pypi-token", "secrets", "[API_KEY]", f"pypi-{_B64}{{50,1000}}", validate=validators.varied),
    Rule("huggingface-token", "secrets", "[API_KEY]", f"hf_{_ALNUM}{{34}}", not_before=_ALNUM, not_after=_ALNUM, validate=validators.varied),
    Rule("headgate-key", "secrets", "[API_KEY]", f"hg-{_B64}{{20,250}}", not_before=_ALNUM, validate=validators.random_key),
    # RFC 7519. A header longer than 512 characters counts as a token without waiting for its first dot.
    Rule("jwt", "secrets", "[TOKEN]", f"eyJ{_B64}{{10,512}}(?:[.]{_B64}{{10}}{_B64}*(?:[.]{_B64}+)*|{_B64}+)", not_before=_ALNUM),
    # RFC 7468 and its elder cousins: the header alone matches, and then header fields and base64 lines through the END line, however many they are.
    Rule(
        "private-key",
        "secrets",
        "[PRIVATE_KEY]",
        f"-----BEGIN {_PEM_TYPE}(?:(?:{_GAP}[A-Za-z-]{{2,20}}: [!-~ ]{{1,80}}){{0,6}}"
        f"{_GAP}[A-Za-z0-9+/=]{{16}}[A-Za-z0-9+/=]*(?:{_GAP}[A-Za-z0-9+/=]{{16}}[A-Za-z0-9+/=]*)*(?:{_GAP}[A-Za-z0-9+/=]{{1,15}})?)?"
        f"(?:{_GAP}-----END {_PEM_TYPE})?",
    ),
)
