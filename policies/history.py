"""Histories that are too long: which messages may go, and how many must. Pure.

A turn is a user's message (or several in a row) with everything up to the next one. Turns are dropped whole, the oldest first: a tool's result
never loses its call. System and developer messages stay where they are, and so does the last turn.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from adapters.types import AudioPart, FilePart, ImagePart, Message, ProviderPart, RefusalPart, TextPart, ToolCallPart

STANDING = ("system", "developer")


class Shortened(Struct, frozen=True):
    """`dropped` are the messages that were left out, in their order."""

    messages: tuple[Message, ...]
    dropped: tuple[Message, ...] = ()


def turns(messages: tuple[Message, ...]) -> list[list[int]]:
    """The places of the messages of each turn, oldest first; system and developer messages are in none."""
    found: list[list[int]] = []
    turn_of_call: dict[str, int] = {}
    before = ""
    for place, message in enumerate(messages):
        if message.role in STANDING:
            continue
        if not found or (message.role == "user" and before != "user"):
            found.append([])
        found[-1].append(place)
        before = message.role
        called = turn_of_call.get(message.tool_call_id or "")
        if message.role == "tool" and called is not None and called < len(found) - 1:  # a result that came late: what lies between stays with both
            found[called:] = [[place for turn in found[called:] for place in turn]]
            turn_of_call = {call: min(turn, called) for call, turn in turn_of_call.items()}
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                turn_of_call[part.id] = len(found) - 1
    return found


def droppable(messages: tuple[Message, ...], keep_last: int) -> list[list[int]]:
    """The turns that may be dropped: neither the last one, nor one that holds any of the last `keep_last` messages."""
    found = turns(messages)
    spoken = [place for turn in found for place in turn]
    kept = set(sorted(spoken)[-keep_last:]) if keep_last else set()
    free = []
    for turn in found[:-1]:
        if kept.intersection(turn):
            break
        free.append(turn)
    return free


def without(messages: tuple[Message, ...], dropped: list[list[int]]) -> Shortened:
    gone = {place for turn in dropped for place in turn}
    return Shortened(
        tuple(message for place, message in enumerate(messages) if place not in gone), tuple(message for place, message in enumerate(messages) if place in gone)
    )


def shorten(messages: tuple[Message, ...], keep_last: int, limit: int, target: int, count: Callable[[tuple[Message, ...]], int]) -> Shortened | None:
    """The messages as they are where they fit the limit; else with as few turns dropped as bring them to the target, or to the limit where
    nothing brings them to the target. None where nothing makes them fit. `count` must not grow when messages are left out.
    """
    if count(messages) <= limit:
        return Shortened(messages)
    free = droppable(messages, keep_last)
    least = without(messages, free)
    size = count(least.messages)
    if not free or size > limit:
        return None
    if size > target:
        return least
    low, high = 1, len(free)
    while low < high:
        middle = (low + high) // 2
        if count(without(messages, free[:middle]).messages) <= target:
            high = middle
        else:
            low = middle + 1
    return without(messages, free[:low])


def transcript(messages: tuple[Message, ...]) -> str:
    """Messages as plain text, to be summarised."""
    lines = []
    for message in messages:
        said = []
        for part in message.parts:
            match part:
                case TextPart() | RefusalPart():
                    said.append(part.text)
                case ToolCallPart():
                    said.append(f"[calls {part.name} with {part.arguments}]")
                case ImagePart():
                    said.append("[an image]")
                case FilePart():
                    said.append(f"[the file {part.filename or 'without a name'}]")
                case AudioPart():
                    said.append("[speech]")
                case ProviderPart():
                    pass
        lines.append(f"{message.role}: {' '.join(said)}")
    return "\n\n".join(lines)
