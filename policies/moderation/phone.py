"""Telephone numbers: Google's libphonenumber metadata decides, on candidates whose shape is already a telephone number's.

`phonenumbers` is heavy (its metadata is code), so it is imported when a rule set with the phone rule is compiled, never with this module.
"""

from __future__ import annotations

import functools
import re
from types import ModuleType

_TRUNK_REGIONS = ("GB", "FR", "DE", "IT", "BE", "NL", "SE", "CH", "AU", "JP", "IN", "ZA")
"""Where a national number is written with a leading 0; the regions with the most speakers of languages the product is used in."""

_EXTENSION = re.compile(r" ?(?:x|ext\.?) ?[0-9]{1,5}$", re.IGNORECASE)


@functools.cache
def load() -> ModuleType:
    """The library, imported once."""
    import phonenumbers

    return phonenumbers


def phone(text: str) -> bool:
    """Whether a candidate is a telephone number.

    International: after `+` a possible number of an existing country code, after `00`, which may be other things, a valid one. North American, also after `1`
    and `001`: `(ddd) ddd-dddd` and the like in hyphens or parentheses when its area and exchange may exist (first digit 2-9), and by the metadata when only
    spaces or dots group it. Other national: a leading 0, perhaps in parentheses, 9 to 11 digits in groups of one separator, valid in one of the regions
    above. Not remembered: the process keeps nobody's number.
    """
    number = _EXTENSION.sub("", text)
    digits = re.sub("[^0-9]", "", number)
    if number.startswith("+"):
        return _is("+" + digits, None, possible=True)
    if number.startswith("00") and not (digits.startswith("001") and len(digits) == 13):
        return _is("+" + digits[2:], None, possible=False)
    if digits.startswith("0") and not number.startswith("00"):
        separators = set(re.sub("[(][0-9]*[)] ?|[0-9]", "", number))
        grouped = len(separators) == 1 or ("(" in number and not separators)
        return grouped and 9 <= len(digits) <= 11 and any(_is(digits, region, possible=False) for region in _TRUNK_REGIONS)
    national = digits[-10:]
    if national[0] in "01" or national[3] in "01":
        return False
    return "-" in number or "(" in number or _is("+1" + national, None, possible=False)


def _is(number: str, region: str | None, *, possible: bool) -> bool:
    library = load()
    try:
        parsed = library.parse(number, region)
    except library.NumberParseException:
        return False
    return bool(library.is_possible_number(parsed) if possible else library.is_valid_number(parsed))
