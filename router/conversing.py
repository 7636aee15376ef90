"""Which conversation a request belongs to, as an opaque id: for rules that draw once for all of it."""

from __future__ import annotations

import hmac

import msgspec

from policies.access import Principal
from router.wire.call import Call


class ConversationIds:
    """Ids under the service's secret: equal for the requests of one conversation, and nothing of what is said in it can be read or guessed from them."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"headgate conversation v1", "sha256")

    def of(self, principal: Principal, call: Call) -> str:
        """The id of the stored conversation's, where the request names one; else of what every request of a conversation begins with.

        That is everything up to its first user message, from the same key and user. Empty where there is no user message.
        """
        holder = (principal.tenant, principal.user or principal.key_id)
        if call.conversation is not None:
            return self._id(("stored", *holder, call.conversation))
        said: list[tuple[str, str]] = []
        for message in call.request.messages:
            said.append((message.role, message.text))
            if message.role == "user":
                return self._id(("said", *holder, said))
        return ""

    def _id(self, parts: object) -> str:
        return hmac.digest(self._key, msgspec.json.encode(parts), "sha256")[:12].hex()
