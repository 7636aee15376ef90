"""The values that the policy file is made of: names, numbers with bounds, and words of which one is chosen."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta

Name: TypeAlias = Annotated[str, Meta(min_length=1)]
Task: TypeAlias = Literal["chat", "qa", "code", "math", "extraction", "classification", "summarise", "translate", "write"]
# fmt: off
Language: TypeAlias = Literal[
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id", "it",
    "ja", "ko", "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh",
]
# fmt: on
Need: TypeAlias = Literal["tools", "vision", "files", "audio", "json_schema", "logprobs", "multiple_choices"]
Count: TypeAlias = Annotated[int, Meta(ge=0)]
Positive: TypeAlias = Annotated[int, Meta(ge=1)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Usd: TypeAlias = Annotated[float, Meta(ge=0)]
Weight: TypeAlias = Annotated[float, Meta(ge=0)]
TASKS: tuple[Task, ...] = get_args(Task)
OTHER_TASKS = "default"
"""In a backend's `quality` by task: that of every task that is not named."""

TAG = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,31}$"
"""How a request's own tags are written."""

Clock: TypeAlias = Annotated[str, Meta(pattern=r"^(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)$", description="a time of day such as 09:30, from 00:00 to 24:00")]
Moment: TypeAlias = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d$", description="a moment such as 2026-11-30T09:30, in UTC")]
Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ErrorClass: TypeAlias = Literal["rate_limit", "timeout", "unavailable", "context_length", "content_filter", "invalid_output"]
Outcome: TypeAlias = Literal[
    "ok", "not_permitted", "model_not_found", "unsupported_feature", "context_length_exceeded", "budget_exceeded", "no_permitted_backend"
]
