from __future__ import annotations

import msgspec

from adapters.types import GenerateRequest, Message, TextPart
from policies.access import Principal
from router.conversing import ConversationIds
from router.wire.call import Call, Hints

IDS = ConversationIds(b"a secret, long enough for a test")
ANNA = Principal(role="member", tenant="acme", user="user_a", key_id="key_1")


def call(*said: tuple[str, str], conversation: str | None = None) -> Call:
    messages = tuple(Message(role, (TextPart(text),)) for role, text in said)  # type: ignore[arg-type]
    return Call(GenerateRequest(messages=messages), "auto", False, False, Hints(), conversation=conversation)


def test_a_conversation_is_known_by_how_it_begins_however_long_it_has_become() -> None:
    begun = call(("system", "Be kind."), ("user", "Hello"))
    longer = call(("system", "Be kind."), ("user", "Hello"), ("assistant", "Hi"), ("user", "And now?"))
    assert IDS.of(ANNA, begun) == IDS.of(ANNA, longer)
    assert IDS.of(ANNA, begun) != IDS.of(ANNA, call(("system", "Be brief."), ("user", "Hello")))
    assert IDS.of(ANNA, begun) != IDS.of(msgspec.structs.replace(ANNA, user="user_b"), begun)
    assert IDS.of(ANNA, begun) != IDS.of(msgspec.structs.replace(ANNA, tenant="umbrella"), begun)
    assert IDS.of(ANNA, begun) != ConversationIds(b"another secret, as long as it").of(ANNA, begun)


def test_a_stored_conversation_is_known_by_its_id_and_what_nobody_asked_is_none() -> None:
    assert IDS.of(ANNA, call(("user", "one"), conversation="conv_1")) == IDS.of(ANNA, call(("user", "two"), conversation="conv_1"))
    assert IDS.of(ANNA, call(("user", "one"), conversation="conv_1")) != IDS.of(ANNA, call(("user", "one"), conversation="conv_2"))
    assert IDS.of(ANNA, call(("system", "Be kind."))) == ""
