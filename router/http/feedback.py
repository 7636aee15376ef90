"""`POST /v1/feedback`: what a user thought of an answer."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import post
from msgspec import Meta, Struct

from retrieval.values import NotFound
from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.http.listing import missing
from router.kept.keeping import require_id

LONGEST_COMMENT = 2_000
THUMBS = {"up": 1.0, "down": 0.0}


class GivenFeedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`request_id` is the answer's `headgate.decision_id`, and its `x-request-id`. Either a `score` from 0 (bad) to 1 (good), or a `thumb`."""

    request_id: Annotated[str, Meta(min_length=1)]
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    thumb: Literal["up", "down"] | None = None
    comment: Annotated[str, Meta(max_length=LONGEST_COMMENT)] | None = None


class KeptFeedback(Struct, frozen=True, kw_only=True):
    """What is kept; a second one of the same user takes its place."""

    object: str = "feedback"
    request_id: str
    score: float
    created_at: float


@post("/v1/feedback", status_code=200, tags=["chat"], summary="What a user thought of an answer")
async def give_feedback(request: HttpRequest) -> KeptFeedback:
    """Of one of the tenant's own requests. Of each user (or key that acts for none) the last word counts; sending it again changes nothing."""
    gateway, principal = gateway_of(request), principal_of(request)
    given = decode_body(await request.body(), GivenFeedback)
    if (given.score is None) == (given.thumb is None):
        raise ApiError(400, "invalid_request", "score: give either a score from 0 to 1, or a thumb ('up' or 'down').", param="score")
    score = given.score if given.score is not None else THUMBS[given.thumb or "up"]
    try:
        wanted = require_id("request", given.request_id)
        kept = await gateway.database.write(lambda connection: gateway.feedback.give(connection, principal, wanted, score, given.comment or None))
    except NotFound as error:
        raise missing(error) from error
    return KeptFeedback(request_id=wanted, score=kept.score, created_at=kept.created_at)
