"""Every recorded exchange with Anthropic's messages, through the decoder and through the official SDK: both must say the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types.beta import BetaMessage, BetaMessageTokensCount

from adapters.anthropic.messages_stream import CALL_FIELDS, CITATIONS, FINISH, MESSAGE_END, MessageDecoder
from adapters.collect import Collector
from adapters.errors import BackendUnavailable
from adapters.faults import body_failure, to_error
from adapters.sse import SseParser
from adapters.types import Event, Part, ProviderPart, TextPart, ToolCallPart, Usage
from tests.adapters.remote.recordings import ABSENT, interactions, present

pytestmark = pytest.mark.skipif(not present(), reason=ABSENT)

EXCHANGES = [each for each in interactions() if each["provider"] == "anthropic" and each["path"].startswith("/v1/messages")]
ANSWERS = [each for each in EXCHANGES if each["path"] == "/v1/messages" and each["status"] == 200]


def decoded(recorded: dict[str, Any], piece: int = 7) -> tuple[list[Event], MessageDecoder]:
    """What the decoder makes of the recorded bytes; a stream comes in pieces of so many bytes."""
    decoder = MessageDecoder("req", native=True)
    body = recorded["body"].encode()
    if "event-stream" not in recorded["ct"]:
        events = decoder.whole(body)
    else:
        parser = SseParser()
        said = [event for start in range(0, len(body), piece) for event in parser.feed(body[start : start + piece])]
        events = [made for event in [*said, *parser.finish()] for made in decoder.feed(event)]
    return events + decoder.finish(), decoder


async def parsed(recorded: dict[str, Any]) -> BetaMessage:
    """What the SDK makes of the same bytes."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(recorded["status"], headers={"content-type": recorded["ct"]}, content=recorded["body"].encode())

    transport = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with anthropic.AsyncAnthropic(api_key="k", base_url="http://127.0.0.1:1", max_retries=0, http_client=transport) as sdk:
        if "event-stream" in recorded["ct"]:
            async with sdk.beta.messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]) as stream:
                return await stream.get_final_message()
        return await sdk.beta.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])


def plain(block: Any) -> dict[str, Any]:
    """A block as the wire has it: nothing that the SDK added, nothing absent."""
    value: dict[str, Any] = block.to_dict()
    value.pop("parsed_output", None)
    return without_nulls(value)  # type: ignore[no-any-return]


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def in_order(kinds: Iterable[str]) -> list[str]:
    """Texts that follow each other are one."""
    order: list[str] = []
    for kind in kinds:
        if kind and not (kind == "text" and order and order[-1] == "text"):
            order.append(kind)
    return order


def kind_of_part(part: Part) -> str:
    match part:
        case TextPart():
            return "text" if part.text else ""
        case ToolCallPart():
            return part.id
        case ProviderPart():
            return "" if part.item["type"] in (CITATIONS, CALL_FIELDS, MESSAGE_END) else str(part.item["type"])
    raise AssertionError(part)


def kind_of_block(block: Any) -> str:
    if block.type == "text":
        return "text" if block.text else ""
    return str(block.id if block.type == "tool_use" else block.type)


@pytest.mark.parametrize("recorded", ANSWERS, ids=lambda each: each["id"])
async def test_the_decoder_says_what_the_sdk_says(recorded: dict[str, Any]) -> None:
    events, decoder = decoded(recorded)
    message = await parsed(recorded)
    collector = Collector()
    for event in events:
        collector.add(event)
    answer = collector.result()
    (choice,) = answer.choices
    blocks = message.content

    assert choice.text == "".join(block.text for block in blocks if block.type == "text")
    assert choice.reasoning == "".join(block.thinking for block in blocks if block.type == "thinking")
    calls = [(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"]
    assert [(call.id, call.name, json.loads(call.arguments)) for call in choice.tool_calls] == calls

    # Whatever else the message holds is kept whole and in its order.
    items = [part.item for part in choice.parts if isinstance(part, ProviderPart)]
    others = [plain(block) for block in blocks if block.type not in ("text", "tool_use")]
    assert [without_nulls(item) for item in items if item["type"] not in (CITATIONS, CALL_FIELDS, MESSAGE_END)] == others
    cited = [plain(citation) for block in blocks if block.type == "text" for citation in block.citations or ()]
    assert [citation for item in items if item["type"] == CITATIONS for citation in without_nulls(item["citations"])] == cited
    assert in_order(kind_of_part(part) for part in choice.parts) == in_order(kind_of_block(block) for block in blocks)

    assert choice.finish is not None
    assert message.stop_reason is not None
    assert choice.finish.provider_reason == message.stop_reason
    assert choice.finish.reason == FINISH[message.stop_reason]
    assert choice.finish.stop_sequence == message.stop_sequence
    assert answer.model == message.model
    usage = message.usage
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    thought = usage.output_tokens_details.thinking_tokens if usage.output_tokens_details else 0
    assert answer.usage == Usage(usage.input_tokens + read + written, usage.output_tokens, read, written, thought)
    assert decoder.usage_final
    assert decoder.service_tier == usage.service_tier
    ends = [item for item in items if item["type"] == MESSAGE_END]
    container = None if message.container is None else json.loads(message.container.to_json())
    assert next((item.get("container") for item in ends), None) == container
    if usage.server_tool_use is not None:
        assert ends[0]["usage"]["server_tool_use"] == without_nulls(usage.server_tool_use.to_dict())


def test_the_recorded_refusal_of_a_model_is_an_unavailable_backend() -> None:
    (refused,) = (each for each in EXCHANGES if each["status"] != 200)
    error = to_error(body_failure(refused["body"].encode(), status=refused["status"]))
    assert isinstance(error, BackendUnavailable)
    body = json.loads(refused["body"])
    assert (error.message, error.provider_code, error.provider_request_id) == (body["error"]["message"], "not_found_error", body["request_id"])


def test_recorded_counts_lie_below_our_bound() -> None:
    from router.wire.anthropic_messages import decode_count
    from tests.router.wire.test_anthropic_round_trip import SEAL, backend

    for recorded in EXCHANGES:
        if recorded["path"].endswith("count_tokens"):
            counted = BetaMessageTokensCount.model_validate_json(recorded["body"]).input_tokens
            request = decode_count(json.dumps(recorded["req"]).encode(), SEAL).request
            bound = backend(recorded["req"]["model"], provider_tools=["anthropic/*"]).count(request)
            assert counted <= bound.upper


def test_recorded_inputs_lie_below_our_bound() -> None:
    from router.wire.anthropic_messages import decode_messages
    from tests.router.wire.test_anthropic_round_trip import ALLOWED, SEAL, backend

    for recorded in ANSWERS:
        events, _ = decoded(recorded)
        collector = Collector()
        for event in events:
            collector.add(event)
        used = collector.result().usage
        assert used is not None
        request = decode_messages(json.dumps(recorded["req"]).encode(), SEAL).request
        bound = backend(recorded["req"]["model"], provider_tools=["anthropic/*"], pass_through=ALLOWED).count(request)
        assert used.input_tokens <= bound.upper, recorded["id"]
        assert used.output_tokens <= recorded["req"]["max_tokens"]
