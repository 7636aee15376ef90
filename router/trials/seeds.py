"""What is drawn once for all requests of a conversation, or of a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.access import Principal
    from router.audit.recording import Recorder
    from router.wire.call import Call


def holder_of(principal: Principal) -> str:
    """The user, or the key that acts for none."""
    return principal.user or principal.key_id


def conversation_of(recorder: Recorder, principal: Principal, call: Call) -> str:
    """The same for every turn of a conversation: its id where it is kept here, else a keyed hash of how it began and of who holds it.

    It says nothing of the text. Two conversations of one holder that begin with the same words count as one. Empty without a question.
    """
    if call.conversation is not None:
        return call.conversation
    messages = call.request.messages
    first = next((place for place, message in enumerate(messages) if message.role == "user"), None)
    if first is None:
        return ""
    return f"{holder_of(principal)}/{recorder.input_hash(messages[: first + 1])[:16]}"
