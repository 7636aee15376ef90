"""The policy language in a running service: what explain says is what then happens, and what decides is measured, spent, tagged and recorded."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.audit.paths import replay
from router.identity.keys import create_key
from tests.serving import SECRET, Service, headgate, serving

PRICED = "price: {input: 1, output: 1}, max_output_tokens: 50"
TAGGED = """version: 1
backends:
  small: {kind: scripted, text: From the small one., price: {input: 1, output: 1}, max_output_tokens: 50, quality: 0.5}
  large: {kind: scripted, text: From the large one., price: {input: 5, output: 9}, max_output_tokens: 50, quality: 0.9}
  spare: {kind: scripted, text: From the spare one., capabilities: {tools: false}}
rules:
  - {name: gold, when: {tags: gold}, use: [large]}
  - {name: german, when: {language: de, not: {task: code}}, use: {weighted: {small: 1, large: 1}}, fallback: {timeout: []}}
  - {name: sums, when: {task: math}, use: {cheapest: [large, small], min_quality: 0.4}}
  - {name: long, when: {any: [{min_turns: 3}, {min_output_tokens: 40}]}, use: {ordered: [large, small], max_cost_usd: 0.001}}
  - {name: batch, when: {key: nightly, time: {days: [mon, tue, wed, thu, fri, sat, sun]}}, use: [spare]}
complexity: {weak: small, strong: large, threshold: 0.4, explore: 0.3}
default: small
fallback: {default: [spare], rate_limit: [large]}
"""


QUESTIONS = ("Wie hoch ist der Eiffelturm?", "Solve 3 + 4 for me", "Write a function that sorts", "Prove the theorem of the ring and its ideal", "hello")


async def chat(service: Service, *said: str, key: str | None = None, **hints: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "auto", "messages": [{"role": "user", "content": each} for each in said], "headgate": hints}
    async with (
        aiohttp.ClientSession(headers=service.bearer(key)) as session,
        session.post(f"{service.url}/v1/chat/completions", json=body) as response,
    ):
        return response.status, await response.json()


async def backend_of(service: Service, *said: str, key: str | None = None, **hints: Any) -> str:
    status, answer = await chat(service, *said, key=key, **hints)
    assert status == 200, answer
    return str(answer["headgate"]["backend"])


def body(dice: random.Random) -> dict[str, Any]:
    said = dice.choice(
        ("Wie hoch ist der Eiffelturm?", "Solve 3 + 4 for me", "Write a function that sorts", "Prove the theorem of the ring and its ideal", "hello")
    )
    request: dict[str, Any] = {"model": dice.choice(("auto", "auto", "large")), "messages": [{"role": "user", "content": said}] * dice.randint(1, 4)}
    if dice.random() < 0.3:
        request["max_tokens"] = dice.choice((5, 45))
    request["headgate"] = {"seed": dice.randrange(1000), **({"tags": [dice.choice(("gold", "silver"))]} if dice.random() < 0.3 else {})}
    return request


async def test_what_explain_says_is_what_then_happens_and_both_are_decided_again_from_what_was_recorded(tmp_path: Path) -> None:
    dice = random.Random(5)
    rules: Counter[str] = Counter()
    async with serving(TAGGED, tmp_path) as service, aiohttp.ClientSession(headers=service.bearer()) as session:
        ids = []
        for _ in range(80):
            asked = body(dice)
            async with session.post(f"{service.url}/v1/route/explain", json=asked) as response:
                decision = await response.json()
            async with session.post(f"{service.url}/v1/chat/completions", json=asked) as response:
                answer = (await response.json())["headgate"]
            assert answer["backend"] == decision["candidates"][0], (asked, decision)
            assert answer["reasons"] == decision["reasons"], asked
            rules[answer["rule"]] += 1
            ids.append(answer["decision_id"])
        await service.gateway.recorder.flush()
        for request_id in ids:
            done = await service.database.read(lambda connection, request_id=request_id: replay(connection, request_id, "policy.yaml"))  # type: ignore[misc]
            assert done is not None
            assert done.equal, (done.recorded, done.replayed)
    assert {"gold", "german", "sums", "long", "complexity", "pin"} <= set(rules), rules


async def test_a_key_is_known_by_its_name_and_its_name_is_recorded_only_where_the_policy_names_it(tmp_path: Path) -> None:
    async with serving(TAGGED, tmp_path) as service:

        def keys(connection: Any) -> list[str]:
            return [create_key(connection, SECRET, tenant="acme", role="member", name=name).key for name in ("nightly", "of Mr. Miller")]

        nightly, other = await service.database.write(keys)
        status, answer = await chat(service, "hello", key=nightly, explain=True)
        assert (status, answer["headgate"]["backend"], answer["headgate"]["rule"]) == (200, "spare", "batch")
        assert answer["headgate"]["decision"]["features"]["key_name"] == "nightly"
        _, answer = await chat(service, "hello", key=other, explain=True)
        assert answer["headgate"]["rule"] == "complexity"
        assert answer["headgate"]["decision"]["features"]["key_name"] == ""


@pytest.mark.parametrize("tags", [["two words"], ["x" * 33], [""], ["a"] * 17, "gold"])
async def test_a_tag_that_is_none_is_refused_where_it_stands(tmp_path: Path, tags: Any) -> None:
    async with serving(TAGGED, tmp_path) as service:
        status, answer = await chat(service, "hello", tags=tags)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "headgate.tags" in (answer["error"]["param"] or "") + answer["error"]["message"]


async def test_after_a_failure_the_list_of_its_class_is_tried_and_after_one_with_an_empty_list_nothing(tmp_path: Path) -> None:
    policy = f"""version: 1
backends:
  long: {{kind: scripted, fault: {{error: context_length_exceeded}}, {PRICED}}}
  rude: {{kind: scripted, fault: {{error: content_refused}}, {PRICED}}}
  busy: {{kind: scripted, fault: {{error: backend_rate_limited}}, retry: {{attempts: 1}}, {PRICED}}}
  next: {{kind: scripted, text: Next., {PRICED}}}
  wide: {{kind: scripted, text: Wide., {PRICED}}}
rules:
  - {{name: long, when: {{tags: long}}, use: [long, next]}}
  - {{name: rude, when: {{tags: rude}}, use: [rude, next]}}
  - {{name: busy, when: {{tags: busy}}, use: [busy, next]}}
  - {{name: own, when: {{tags: own}}, use: [busy, next], fallback: {{rate_limit: [wide]}}}}
default: next
fallback: {{default: [wide], context_length: [wide], content_filter: []}}
"""
    async with serving(policy, tmp_path) as service:
        assert await backend_of(service, "hello", tags=["long"]) == "wide"
        assert await backend_of(service, "hello", tags=["busy"]) == "next"
        assert await backend_of(service, "hello", tags=["own"]) == "wide"
        status, answer = await chat(service, "hello", tags=["rude"])
        assert (status, answer["error"]["code"]) == (400, "content_refused")


async def test_the_fastest_is_found_by_measuring_and_the_cheapest_by_what_its_answers_cost(tmp_path: Path) -> None:
    policy = f"""version: 1
backends:
  slow: {{kind: scripted, text: Slow., first_delay_s: 0.15, {PRICED}}}
  quick: {{kind: scripted, text: Quick., {PRICED}}}
  dear: {{kind: scripted, text: Dear., price: {{input: 9, output: 90}}, max_output_tokens: 50}}
rules:
  - {{name: quick, when: {{tags: quick}}, use: {{fastest: [slow, quick]}}}}
  - {{name: cheap, when: {{tags: cheap}}, use: {{cheapest: [dear, slow]}}}}
  - {{name: capped, when: {{tags: capped}}, use: {{ordered: [dear, slow], max_cost_usd: 0.001}}}}
default: quick
"""
    async with serving(policy, tmp_path) as service:
        first = [await backend_of(service, "hello", tags=["quick"], seed=seed) for seed in range(12)]
        assert set(first) == {"slow", "quick"}  # nobody knew
        assert {await backend_of(service, "hello", tags=["quick"], seed=seed) for seed in range(12)} == {"quick"}
        assert await backend_of(service, "hello", tags=["cheap"]) == "slow"
        _, answer = await chat(service, "hello", tags=["capped"], explain=True)
        assert answer["headgate"]["backend"] == "slow"
        assert "dear: it is expected to cost $" in "; ".join(f"{each['backend']}: {each['detail']}" for each in answer["headgate"]["decision"]["excluded"])


async def test_a_conversation_keeps_to_its_draw_as_it_grows_and_others_draw_anew(tmp_path: Path) -> None:
    policy = f"""version: 1
backends:
  one: {{kind: scripted, text: One., {PRICED}}}
  two: {{kind: scripted, text: Two., {PRICED}}}
rules: [{{name: split, use: {{weighted: {{one: 1, two: 1}}, sticky: conversation}}}}]
"""
    async with serving(policy, tmp_path) as service:
        begun = [f"This is conversation {number}." for number in range(12)]
        first = [await backend_of(service, said) for said in begun]
        assert set(first) == {"one", "two"}
        assert [await backend_of(service, said, "And then?", "And after that?") for said in begun] == first
        _, answer = await chat(service, begun[0], explain=True)
        features = answer["headgate"]["decision"]["features"]
        assert len(features["conversation"]) == 24
        assert "conversation 0" not in str(features)
        elsewhere = [await backend_of(service, said, key=service.other_key) for said in begun]
        assert elsewhere != first


async def test_a_rule_takes_over_when_the_budget_comes_to_its_end(tmp_path: Path) -> None:
    policy = """version: 1
backends:
  good: {kind: scripted, text: Good., price: {input: 0, output: 0, request: 0.1}, max_output_tokens: 5}
  free: {kind: scripted, text: Free.}
rules: [{name: saving, when: {max_budget_left: 0.5}, use: [free]}]
default: good
tenants: {acme: {budget_usd: {month: 1.0}}}
"""
    async with serving(policy, tmp_path) as service:
        seen = [await backend_of(service, "hello") for _ in range(7)]
        assert seen == ["good"] * 5 + ["free"] * 2
        assert await backend_of(service, "hello", key=service.other_key) == "good"  # without a budget all of it is left
        _, answer = await chat(service, "hello", explain=True)
        assert answer["headgate"]["reasons"][0] == "rule:saving"


def test_the_command_line_reads_included_files_and_leads_to_their_mistakes(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "headgate.yaml").write_text("version: 1\ninclude: [parts/rules.yaml]\ndefault: extractive\n")
    rules = tmp_path / "parts" / "rules.yaml"
    rules.write_text("backends:\n  one: {kind: scripted}\nrules:\n  - {name: gold, when: {tags: gold}, use: [one]}\n")
    assert headgate(tmp_path, "policy", "validate").returncode == 0
    shown = headgate(tmp_path, "policy", "explain", "hello", "--tag", "gold").stdout
    assert "candidates: one" in shown
    assert "request: task chat" in shown
    rules.write_text("rules:\n  - {name: gold, when: {tags: gold}, use: [extractve]}\n")
    refused = headgate(tmp_path, "policy", "validate")
    assert refused.returncode == 2
    assert "parts/rules.yaml:2:44: rules[0].use[0]: there is no backend 'extractve'; did you mean 'extractive'?" in refused.stderr


def test_a_rule_that_no_backend_can_serve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "headgate.yaml").write_text(
        "version: 1\nbackends:\n  plain: {kind: scripted, capabilities: {tools: false}}\ndefault: plain\n"
        "rules:\n  - {name: agents, when: {all: [{needs: tools}]}, use: [plain]}\n"
    )
    refused = headgate(tmp_path, "policy", "validate")
    assert refused.returncode == 2
    assert "headgate.yaml:6:56: rules[0].use: none of these backends can do tools, which this rule's requests need" in refused.stderr
