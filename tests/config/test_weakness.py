"""Secrets that a person chose: what can be guessed is refused, what is random never is."""

from __future__ import annotations

import base64
import re
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.secretfile import admin_key
from config.settings import SettingsError
from config.weakness import MIN_BITS, bits, famous, weakness
from router.identity.keys import new_secret_key
from tests.docs.reading import PAGES

GUESSED = [
    "hg-changeme-1234567890",
    "Headgate-Admin-2026!",
    "sk-litellm-master-key",
    "correct-horse-battery-staple",
    "P@ssw0rd-P@ssw0rd-1",
    "acme-production-key-2025",
    "qwertyuiopasdfghjklzxcvbnm",
    "1qaz2wsx3edc4rfv5tgb",
    "zxcvbnm-asdfghjkl-qwertyuiop",
    "aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffff",
    "9876543210zyxwvutsrqponm",
    "summer2025-winter2026",
    "AKIAIOSFODNN7EXAMPLE",
    "your-256-bit-secret",
    "00000000-0000-0000-0000-000000000000",
    "d41d8cd98f00b204e9800998ecf8427e",
    "admin-admin-admin-1234-2026",
    "Tr0ub4dor&3Tr0ub4dor&3",
    "deadbeefdeadbeefdeadbeef",
    "my-Secret_Gateway.Token-1999",
]


@pytest.mark.parametrize("value", GUESSED)
def test_what_people_and_pages_put_there_is_refused(value: str) -> None:
    assert weakness(value) is not None


@pytest.mark.parametrize("known", sorted(each for each in famous() if len(each) >= 16))
def test_a_famous_secret_is_refused_with_any_prefix_and_in_any_case(known: str) -> None:
    for value in (known, f"hg-{known}", f"sk-{known}", known.upper()):
        assert weakness(value) is not None, value


def test_every_key_that_stands_in_our_own_pages_is_refused() -> None:
    shown = {found for page in PAGES for found in re.findall(r"\b(?:hg|sk)-[\w-]{13,}", page.read_text(encoding="utf-8"))}
    assert not [value for value in shown if weakness(value) is None]


def test_a_name_of_a_tenant_is_worth_no_more_than_a_word() -> None:
    value = "zorblattindustries-zorb-key"
    assert weakness(value) is None
    assert weakness(value, ["zorblattindustries"]) is not None


@given(st.binary(min_size=12, max_size=48))
def test_twenty_four_random_characters_of_hex_or_base32_or_base64_are_never_refused(seed: bytes) -> None:
    import hashlib

    digest = hashlib.sha256(seed).digest()
    for value in (digest.hex()[:24], base64.b32encode(digest).decode().lower()[:20], base64.urlsafe_b64encode(digest).decode()[:20]):
        assert weakness(value) is None, value


def test_our_own_keys_and_secrets_are_never_refused() -> None:
    for _ in range(200):
        assert weakness(new_secret_key()) is None
        assert weakness(secrets.token_hex(32)) is None


def test_bits_only_grow_where_something_is_added_that_no_list_knows() -> None:
    assert bits("password") < bits("passwordk") < bits("passwordk7") < MIN_BITS
    assert bits("x7kq" * 10) < MIN_BITS


@pytest.mark.parametrize("value", ["grüße-zwölf-boxkämpfer-71", "k9x 22 vv8 zq1 m4p h7", "k9x22vv8zq1m4ph7" * 600])
def test_an_admin_key_that_no_header_can_carry_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="HEADGATE_ADMIN_KEY is refused"):
        admin_key({"HEADGATE_ADMIN_KEY": value})


def test_the_admin_key_is_not_the_secret_that_keys_are_hashed_with() -> None:
    value = new_secret_key()
    with pytest.raises(SettingsError, match="HEADGATE_SECRET too") as caught:
        admin_key({"HEADGATE_ADMIN_KEY": value, "HEADGATE_SECRET": value})
    assert value not in str(caught.value)
