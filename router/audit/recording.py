"""Recording decisions and, for tenants that want it, prompts: once for each request, at its end, and never on its way.

A request leaves a note here and goes. Notes are written together, a tenth of a second after the first of them. Their number is bounded: where the
database does not keep up, or is away for long, the newest are dropped, counted (`headgate_decisions_dropped_total`) and logged; no answer waits.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection, delete, select
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from adapters.backend import DataClass
from adapters.types import Capabilities, Citation, Message, RefusalPart, TextPart, ToolCallPart, Usage
from config.database import Database
from policies.decision import Decision, State
from policies.moderation import RuleSet, moderate
from router.audit.inserting import insert_missing
from router.audit.tables import decision_capabilities, decisions, feedback, prompts
from router.kept.keeping import packed
from router.kept.sealing import Sealer
from router.money.settlement import LARGEST_COUNT

if TYPE_CHECKING:
    from router.embedding import EmbeddingExchange
    from router.pipeline import Exchange

log = structlog.get_logger("headgate.decisions")

PAUSE_S = 0.1
"""How long notes are gathered before they are written together."""

AWAY_S = 2.0
"""Between two attempts to write while the database is away."""

MOST_NOTES = 20_000
MOST_CHARACTERS = 50_000_000
"""Of prompts that wait to be written; what comes beyond that is not stored."""

WRITTEN_AT_ONCE = 500
SWEPT_AT_ONCE = 5_000
SWEEPS = 20
DAY_S = 86_400.0

LONGEST_NAME = 200
"""Characters of a model's name: providers answer with what they like."""

EMBEDDED: frozenset[DataClass] = frozenset({"public", "internal"})
"""Data classes of which a question's embedding is recorded: much of a text can be told from its embedding."""


class BackendNow(Struct, frozen=True, omit_defaults=True):
    """A backend's state as it is recorded; what it can do stands in `decision_capabilities`."""

    ready: bool = True
    reason: str = ""
    upper_cost_usd: float = 0.0
    input_tokens: int | None = None
    least_cost_usd: float | None = None


class StateNow(Struct, frozen=True, omit_defaults=True):
    """A `State` as it is recorded; its seed stands in the decision. `capabilities` is the id of what the backends could do."""

    backends: dict[str, BackendNow]
    capabilities: str
    remaining_usd: float | None = None
    allowed_models: tuple[str, ...] | None = None


class Place(Struct, frozen=True):
    """Where a citation leads: a file's id, and offsets in its canonical text."""

    file_id: str
    start: int
    end: int


class Said(Struct, frozen=True):
    """One message of a stored prompt: its texts, redacted, and of everything else only what it was."""

    role: str
    text: str
    other: tuple[str, ...] = ()


class _Prompt(Struct, frozen=True):
    messages: tuple[Message, ...]
    rules: RuleSet
    expires_at: float
    size: int


class Note(Struct, frozen=True, kw_only=True):
    """What is recorded of one request."""

    request_id: str
    tenant: str
    key_id: str
    user: str
    created_at: float
    policy_version: int
    dialect: str
    data_class: str
    outcome: str
    error: str | None
    backend: str
    input_hash: str
    decision: Decision | None
    state: State | None
    citations: tuple[Place, ...]
    moderation: dict[str, int]
    policy_hash: str = ""
    model: str = ""
    attempts: int = 0
    usage: Usage = Usage()
    cost: int = 0
    latency_ms: float | None = None
    first_ms: float | None = None
    embedding: bytes | None = None
    prompt: _Prompt | None = None


class Recorder:
    """One worker's notes. `run` writes them; `flush` writes what is there now."""

    def __init__(
        self,
        database: Database,
        secret: bytes,
        sealer: Sealer,
        keep_days: float,
        dropped: Callable[[int], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._key = hmac.digest(secret, b"headgate input hash v1", "sha256")
        self._sealer = sealer
        self._keep_s = keep_days * DAY_S
        self._dropped = dropped
        self._clock = clock
        self._notes: deque[Note] = deque()
        self._characters = 0
        self._there = asyncio.Event()
        self._writing = asyncio.Lock()
        self._known: tuple[tuple[str, ...], tuple[Capabilities, ...], str] = ((), (), "")
        self._new: dict[str, str] = {}

    def note(self, exchange: Exchange, dialect: str, outcome: str, error: str | None) -> None:
        """Leave a note of a request that has ended, as soon as it is known what it cost. Never raises, never waits."""
        exchange.when_known(lambda: self._note(exchange, dialect, outcome, error))

    def _note(self, exchange: Exchange, dialect: str, outcome: str, error: str | None) -> None:
        try:
            self.put(self._noted(exchange, dialect, outcome, error))
        except Exception:
            self._dropped(1)
            log.exception("decision_not_noted", request_id=exchange.request_id)

    def put(self, note: Note) -> None:
        """Let a note wait to be written, if there is room for it."""
        if len(self._notes) >= MOST_NOTES:
            self._dropped(1)
            return
        size = 0 if note.prompt is None else note.prompt.size
        if note.prompt is not None:
            if self._characters + size > MOST_CHARACTERS:
                log.error("prompt_not_stored", request_id=note.request_id, reason="too much waits to be written")
                note = msgspec.structs.replace(note, prompt=None)
            else:
                self._characters += size
        self._notes.append(note)
        self._there.set()

    def _noted(self, exchange: Exchange, dialect: str, outcome: str, error: str | None) -> Note:
        principal, messages = exchange.principal, exchange.call.request.messages
        wanted = exchange.tenant.prompts
        prompt = None
        if wanted.store:
            size = sum(len(text) for message in messages for text in _texts(message))
            rules = exchange.active.policy.prompt_rules(principal.tenant)
            prompt = _Prompt(messages, rules, self._clock() + wanted.retention_days * DAY_S, size)
        return Note(
            request_id=exchange.request_id,
            tenant=principal.tenant,
            key_id=principal.key_id,
            user=principal.user,
            created_at=exchange.created,
            policy_version=exchange.active.version,
            dialect=dialect,
            data_class=exchange.data_class,
            outcome=outcome,
            error=error,
            backend=exchange.backend_name,
            input_hash=self.input_hash(messages),
            decision=exchange.decision,
            state=exchange.decided_from,
            citations=tuple(map(_place, exchange.citations)),
            moderation=exchange.moderation.counts(),
            policy_hash=exchange.active.policy.hash,
            model=exchange.model,
            attempts=exchange.attempts,
            usage=exchange.usage,
            cost=exchange.cost,
            latency_ms=exchange.latency_ms,
            first_ms=exchange.first_ms,
            embedding=exchange.embedding if exchange.data_class in EMBEDDED else None,
            prompt=prompt,
        )

    def embedded(self, exchange: EmbeddingExchange, error: str | None) -> None:
        """Leave a note of a request for embeddings that has ended: nothing was decided for it, and no vector is kept. Never raises, never waits."""
        try:
            principal, texts = exchange.principal, exchange.call.request.texts
            note = Note(
                request_id=exchange.request_id,
                tenant=principal.tenant,
                key_id=principal.key_id,
                user=principal.user,
                created_at=exchange.created,
                policy_version=exchange.active.version,
                dialect="openai.embeddings",
                data_class=exchange.data_class,
                outcome="cancelled" if error is None and exchange.outcome == "refused" else exchange.outcome,  # its settlement follows in the background
                error=error,
                backend=exchange.name,
                input_hash=self.input_hash([Message("user", tuple(TextPart(text) for text in texts))]),
                decision=None,
                state=None,
                citations=(),
                moderation={},
                policy_hash=exchange.active.policy.hash,
                model=exchange.record.model or "",
                attempts=int(exchange.record.called),
                usage=exchange.record.usage or Usage(),
                cost=exchange.cost,
                latency_ms=1000 * (time.perf_counter() - exchange.started),
            )
            self.put(note)
        except Exception:
            self._dropped(1)
            log.exception("decision_not_noted", request_id=exchange.request_id)

    def input_hash(self, messages: Iterable[Message]) -> str:
        """HMAC of the texts of a prompt: says whether two requests asked the same, and nothing of what they asked."""
        said = [(message.role, *_texts(message)) for message in messages]
        return hmac.digest(self._key, msgspec.json.encode(said), "sha256").hex()

    async def run(self) -> None:
        """Write notes as they come, until cancelled."""
        while True:
            await self._there.wait()
            await asyncio.sleep(PAUSE_S)
            try:
                await self.flush()
            except (SQLAlchemyError, OSError) as error:
                log.error("decisions_not_written", error=type(error).__name__, waiting=len(self._notes))
                await asyncio.sleep(AWAY_S)

    async def flush(self) -> None:
        """Write what is there. Raises what the database raises: then it is still there."""
        async with self._writing:
            while self._notes:
                batch = [self._notes[place] for place in range(min(WRITTEN_AT_ONCE, len(self._notes)))]
                rows = [row for note in batch if (row := self._row(note)) is not None]
                stored = await asyncio.to_thread(self._prompt_rows, batch) if any(note.prompt for note in batch) else []
                new = [{"id": digest, "content": content} for digest, content in self._new.items()]

                def work(connection: Connection, rows: Any = rows, stored: Any = stored, new: Any = new) -> None:
                    for table, values in ((decision_capabilities, new), (decisions, rows), (prompts, stored)):
                        if values:
                            insert_missing(connection, table, values)

                try:
                    await self._database.write(work)
                except (DataError, IntegrityError) as error:  # what the database will never take must not hold up what follows
                    self._dropped(len(batch))
                    log.error("decisions_refused", error=type(error).__name__, first=batch[0].request_id, count=len(batch))
                for note in batch:
                    self._notes.popleft()
                    self._characters -= 0 if note.prompt is None else note.prompt.size
                for each in new:
                    self._new.pop(each["id"], None)
            self._there.clear()

    def _row(self, note: Note) -> dict[str, object] | None:
        try:
            state = None if note.state is None else self._state(note.state)
            return {
                "request_id": note.request_id,
                "tenant": note.tenant,
                "key_id": note.key_id,
                "user_id": note.user or None,
                "created_at": note.created_at,
                "expires_at": note.created_at + self._keep_s,
                "policy_version": note.policy_version,
                "dialect": note.dialect,
                "data_class": note.data_class,
                "outcome": note.outcome,
                "error": note.error,
                "backend": note.backend,
                "input_hash": note.input_hash,
                "decision": None if note.decision is None else msgspec.json.encode(note.decision).decode(),
                "state": None if state is None else msgspec.json.encode(state).decode(),
                "citations": msgspec.json.encode(note.citations).decode(),
                "moderation": msgspec.json.encode(note.moderation).decode(),
                "policy_hash": note.policy_hash,
                "model": note.model.replace("\0", "")[:LONGEST_NAME],
                "attempts": note.attempts,
                "input_tokens": min(note.usage.input_tokens, LARGEST_COUNT),
                "output_tokens": min(note.usage.output_tokens, LARGEST_COUNT),
                "cache_read_input_tokens": min(note.usage.cache_read_input_tokens, LARGEST_COUNT),
                "cache_creation_input_tokens": min(note.usage.cache_creation_input_tokens, LARGEST_COUNT),
                "cost": note.cost,
                "latency_ms": note.latency_ms,
                "first_ms": note.first_ms,
                "embedding": note.embedding,
            }
        except Exception:  # one that cannot be written must not hold up the others
            self._dropped(1)
            log.exception("decision_not_written", request_id=note.request_id)
            return None

    def _state(self, state: State) -> StateNow:
        now = {name: BackendNow(each.ready, each.reason, each.upper_cost_usd, each.input_tokens, each.least_cost_usd) for name, each in state.backends.items()}
        return StateNow(now, self._capabilities(state), state.remaining_usd, state.allowed_models)

    def _capabilities(self, state: State) -> str:
        """The id of what the backends can do: the same for almost every request of a policy."""
        names, found = tuple(state.backends), tuple(each.capabilities for each in state.backends.values())
        known_names, known, digest = self._known
        if names != known_names or any(one is not other and one != other for one, other in zip(found, known, strict=True)):
            content = msgspec.json.encode(dict(zip(names, found, strict=True)))
            digest = hashlib.sha256(content).hexdigest()
            self._known, self._new[digest] = (names, found, digest), content.decode()
        return digest

    def _prompt_rows(self, batch: list[Note]) -> list[dict[str, object]]:
        """Redacted and sealed: in a thread, for looking for what must not be stored takes long."""
        rows: list[dict[str, object]] = []
        for note in batch:
            if note.prompt is None:
                continue
            said = [_said(message, note.prompt.rules) for message in note.prompt.messages]
            content = packed(self._sealer.of(note.tenant), said, f"prompt/{note.request_id}")
            rows.append(
                {
                    "request_id": note.request_id,
                    "tenant": note.tenant,
                    "user_id": note.user or None,
                    "data_class": note.data_class,
                    "created_at": note.created_at,
                    "expires_at": note.prompt.expires_at,
                    "content": content,
                }
            )
        return rows

    async def sweep(self) -> None:
        """Delete what has expired: as many decisions as a busy service makes between two sweeps."""
        for table in (decisions, prompts, feedback):
            for _ in range(SWEEPS):
                expired = select(table.c.request_id).where(table.c.expires_at <= self._clock()).limit(SWEPT_AT_ONCE)
                statement = delete(table).where(table.c.request_id.in_(expired))
                if await self._database.write(lambda connection, statement=statement: connection.execute(statement).rowcount) < SWEPT_AT_ONCE:  # type: ignore[misc]
                    break


def _place(citation: Citation) -> Place:
    return Place(citation.file_id, citation.start, citation.end)


def _texts(message: Message) -> Iterable[str]:
    for part in message.parts:
        match part:
            case TextPart() | RefusalPart():
                yield part.text
            case ToolCallPart():
                yield part.arguments
            case _:
                pass


def _said(message: Message, rules: RuleSet) -> Said:
    texts, other = [], []
    for part in message.parts:
        match part:
            case TextPart() | RefusalPart():
                texts.append(moderate(rules, part.text).text)
            case ToolCallPart():
                other.append(f"tool_call {moderate(rules, part.name).text} {moderate(rules, part.arguments).text}")
            case _:
                other.append(str(msgspec.to_builtins(type(part).__struct_config__.tag)))
    return Said(message.role, "\n".join(texts), tuple(other))
