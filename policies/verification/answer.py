"""What the verifier looks at, and what it says."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from adapters.structured import AnswerFormat
from adapters.types import FinishReason, Tool, ToolCallPart
from policies.verification.spec import Signal


class Asked(Struct, frozen=True, kw_only=True):
    """What the request asks of its answer's form.

    `language` is an ISO 639-1 code where the question names one, `code` whether it wants a block of code, `form` the JSON it must be, `passages` how
    many passages the answer was given to cite.
    """

    language: str | None = None
    code: bool = False
    form: AnswerFormat | None = None
    tools: tuple[Tool, ...] = ()
    passages: int = 0


class Answer(Struct, frozen=True, kw_only=True):
    """One answer as the model wrote it. `finish` is None while more may come; `refused` where the provider says itself that it is a refusal.

    `logprobs` are those of its tokens, empty where they are not known. `cited` are the parts of the text that a verified citation bears out, as
    code-point offsets.
    """

    text: str
    finish: FinishReason | None = "stop"
    refused: bool = False
    logprobs: tuple[float, ...] = ()
    calls: tuple[ToolCallPart, ...] = ()
    cited: tuple[tuple[int, int], ...] = ()


class Finding(Struct, frozen=True):
    """What one signal says. `code` is the reason where it failed, and begins with the signal's name; `value` what was measured.

    `ok` is None where the signal cannot be known of this answer: then it decides nothing.
    """

    signal: Signal
    ok: bool | None
    value: float | None = None
    code: str = ""


class Verdict(Struct, frozen=True):
    """What all signals say together. An answer of which no signal is known has not failed, and is not `verified` either."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """The reason codes, in the order of the policy's `verify`."""
        return tuple(finding.code for finding in self.findings if finding.ok is False)

    @property
    def verified(self) -> bool:
        return not self.failed and any(finding.ok for finding in self.findings)

    @property
    def values(self) -> dict[str, float]:
        """What was measured, by signal."""
        return {finding.signal: round(finding.value, 4) for finding in self.findings if finding.value is not None}

    def with_finding(self, finding: Finding) -> Verdict:
        return msgspec.structs.replace(self, findings=(*self.findings, finding))
