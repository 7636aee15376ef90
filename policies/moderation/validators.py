"""Checks that a candidate's shape alone cannot make. Pure functions of the candidate's text."""

from __future__ import annotations

import ipaddress
import re

_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18 FK18 FO18 FR27 GB22 "
    "GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 "
    "MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 "
    "UA29 VA22 VG24 XK20 YE30 "
)
IBAN_COUNTRIES = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}
"""Country → length of its IBANs (SWIFT IBAN registry, ISO 13616)."""


def card(text: str) -> bool:
    """A payment card number (ISO/IEC 7812): a network's first digit, one kind of separator, a valid Luhn check digit; 13 to 19 digits, Maestro also 12."""
    digits = re.sub("[ -]", "", text)
    if " " in text and "-" in text:
        return False
    if len(digits) == 12:
        return (digits[0] == "6" or digits[:2] in ("50", "56", "57", "58")) and luhn(digits)
    return 13 <= len(digits) <= 19 and (digits[0] in "23456" or digits.startswith("1800")) and luhn(digits)


def luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1 annex B; a number of zeros only is none."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and total > 0


def iban(text: str) -> bool:
    """ISO 13616: the country's length and the remainder 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    if IBAN_COUNTRIES.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def ssn(text: str) -> bool:
    """A US social security number that may have been issued (SSA, POMS RM 10201): area not 000, 666 or 9xx, group not 00, serial not 0000; one separator."""
    area, group, serial = text[:3], text[4:6], text[7:]
    return text[3] == text[6] and area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def ip_v4(text: str) -> bool:
    """A dotted quad. Addresses that name nobody's machine (0.0.0.0, loopback, netmasks 255.x) are not personal."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_unspecified or address.is_loopback or address.packed[0] == 255)


def ip_v6(text: str) -> bool:
    """An IPv6 address with at least two groups, one of them of three or more digits: `a::b` in C++ and `[1::2]` in Python are none."""
    groups = [group for group in text.split(":") if group]
    if len(groups) < 2 or max(map(len, groups)) < 3 or not any(char.isdigit() for char in text):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def varied(text: str) -> bool:
    """Not a placeholder such as `ghp_xxxxxxxx`: the part after the prefix has at least 5 different characters, case aside."""
    body = re.split("[-_.]", text, maxsplit=1)[-1] if re.match(r"[A-Za-z]{1,6}[-_.]", text) else text[4:]
    return len(set(body.lower()) - set("-_.")) >= 5


def random_key(text: str) -> bool:
    """`varied`, and not a slug of dictionary words such as `sk-learn-pipelines-for-beginners`: a digit, an upper-case letter, or an unbroken run of 20."""
    body = text.split("-", 1)[1]
    return varied(text) and (re.search(r"[0-9A-Z]", body) is not None or re.search(r"[a-z]{20}", body) is not None)


def openai_key(text: str) -> bool:
    """A `random_key` that is not Anthropic's."""
    return not text.startswith("sk-ant-") and random_key(text)


def slack_token(text: str) -> bool:
    """`varied`, with the digits of a workspace or a hexadecimal secret."""
    return varied(text) and sum(char.isdigit() for char in text) >= 4
