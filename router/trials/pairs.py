"""Pairs of answers to the same question, by the weak and the strong backend, scored: what a complexity head is trained on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from adapters.backend import DATA_CLASSES
from adapters.collect import Collected
from config.database import Database
from policies.choosing import unit
from policies.comparing import LONGEST_TEXT, VERDICT_TOKENS, fair_scores, judge_request, matches_reference, read_scores
from policies.complexity.features import features_of, looked_at
from policies.history import transcript
from policies.trials import REFERENCE, Pairs
from router.heads import SPACE, TEXT_FEATURES
from router.scoring import embedded
from router.summarising import UNMODERATED, needs_nothing
from router.trials.tables import routing_pairs

if TYPE_CHECKING:
    from policies.features import Features
    from policies.schema import Complexity
    from router.pipeline import Exchange
    from router.trials.shadowing import Trial

CALLED_FOR = frozenset({"tools", "vision", "files", "audio", "multiple_choices"})
"""What a request may not need whose answers are to be compared as texts."""

DAY_S = 86_400.0
EMBEDDING_WAIT_S = 30.0
SWEPT_AT_ONCE = 5_000

Paired: TypeAlias = Literal["scored", "no_answer", "no_verdict", "too_long", "not_permitted", "over_budget", "error"]


def wanted(exchange: Exchange) -> Pairs | None:
    """Whether a request is to be paired, asked once it is decided.

    Never one with confidential data, whoever may see that; nor one without a text to compare.
    """
    complexity, features = complexity_of(exchange), exchange.features
    if complexity is None or complexity.pairs is None or not exchange.decided_by("complexity"):
        return None
    pairs = complexity.pairs
    if DATA_CLASSES.index(features.data_class) >= DATA_CLASSES.index("confidential") or CALLED_FOR & set(features.needs) or exchange.call.request.n != 1:
        return None
    if features.provider_tools or features.opaque_parts or (pairs.judge == REFERENCE and exchange.call.hints.reference is None):
        return None
    return pairs if unit(f"{exchange.request_id}\npairs") < pairs.share else None


def complexity_of(exchange: Exchange) -> Complexity | None:
    """The tenant's own, or the policy's."""
    return exchange.active.policy.complexity(exchange.principal.tenant)


def other_backend(exchange: Exchange) -> str | None:
    """The one of the two that did not answer; None where neither did, or where the answer is no whole text."""
    complexity = complexity_of(exchange)
    finished = exchange.finished
    if complexity is None or complexity.weak == complexity.strong or not finished or any(each.reason != "stop" for each in finished) or not exchange.heard:
        return None
    return {complexity.weak: complexity.strong, complexity.strong: complexity.weak}.get(exchange.backend_name)


async def pair(trial: Trial, exchange: Exchange, pairs: Pairs, other: str, answer: str, database: Database, keep_s: float) -> Paired:
    """Let the other backend answer, have both answers scored, and keep what came of it."""
    complexity = complexity_of(exchange)
    assert complexity is not None, "only what the complexity decided is paired"
    conversation = transcript(exchange.call.request.messages)
    if len(conversation) + 2 * len(answer) > LONGEST_TEXT:
        return "too_long"
    came, second = await trial.answer(other, exchange.rules)
    if second is None:
        return "no_answer" if came == "ok" else came
    text = _text(second)
    if not text:
        return "no_answer"
    weak, strong = (answer, text) if exchange.backend_name == complexity.weak else (text, answer)
    scores: tuple[float, float] | None
    if pairs.judge == REFERENCE:
        reference = exchange.call.hints.reference or ""
        scores = matches_reference(weak, reference), matches_reference(strong, reference)
    elif len(conversation) + len(weak) + len(strong) > LONGEST_TEXT:
        return "too_long"
    else:
        partition = exchange.partition
        forward, backward = judge_request(conversation, weak, strong, partition), judge_request(conversation, strong, weak, partition)
        features = asking(exchange.features, len(conversation) + len(weak) + len(strong))
        verdicts = []
        for request in (forward, backward):
            came, said = await trial.ask(pairs.judge, request, features, UNMODERATED)
            if came != "ok" or said is None:
                return "no_verdict" if came == "ok" else came
            verdicts.append(read_scores(_text(said)))
        scores = fair_scores(*verdicts)
    if scores is None:
        return "no_verdict"
    row = await _row(exchange, complexity.weak, complexity.strong, scores, pairs.judge, trial.cost, keep_s)
    await database.write(lambda connection: _insert(connection, row))
    return "scored"


def asking(features: Features, characters: int) -> Features:
    """What a decision may ask of a judge: the same tenant, role, key and data, none of the request's own needs."""
    return msgspec.structs.replace(needs_nothing(features), input_tokens=(characters + 3) // 4, output_tokens=VERDICT_TOKENS)


def _text(answer: Collected) -> str:
    return answer.choices[0].text.strip() if answer.choices else ""


async def _row(exchange: Exchange, weak: str, strong: str, scores: tuple[float, float], judge: str, cost: int, keep_s: float) -> dict[str, object]:
    """What heads are learnt from: numbers about the question and its embedding, none of its text. Nobody waits for the embedding any more."""
    question = exchange.question
    made = await embedded(question, exchange.gateway.compute, EMBEDDING_WAIT_S)
    known = {**msgspec.to_builtins(exchange.features), TEXT_FEATURES: features_of(looked_at(question)), SPACE: made.space}
    return {
        "request_id": exchange.request_id,
        "tenant": exchange.principal.tenant,
        "user_id": exchange.principal.user or None,
        "created_at": exchange.created,
        "expires_at": exchange.created + keep_s,
        "features": msgspec.json.encode(known).decode(),
        "embedding": made.vector or None,
        "weak_backend": weak,
        "strong_backend": strong,
        "weak_score": scores[0],
        "strong_score": scores[1],
        "judge": judge,
        "cost": cost,
    }


def _insert(connection: Connection, row: dict[str, object]) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(routing_pairs).on_conflict_do_nothing(), row)


class PairSweep:
    """Deletes pairs that have expired, with the decisions of their requests."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def sweep(self) -> None:
        """At most so many at once: what is left goes with the next."""
        expired = select(routing_pairs.c.request_id).where(routing_pairs.c.expires_at <= self._clock()).limit(SWEPT_AT_ONCE)
        await self._database.write(lambda connection: connection.execute(delete(routing_pairs).where(routing_pairs.c.request_id.in_(expired))) and None)
