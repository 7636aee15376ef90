"""The policy's life over HTTP: read, check, test, compare, put in force, go back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from litestar import MediaType, Response, get, post, put
from litestar.params import FromPath, FromQuery
from msgspec import Meta, Struct

from config.yamlfile import Problem
from policies.cases import CaseResult
from policies.diffing import PolicyDiff
from policies.load import Policy, PolicyError, load_policy
from router import policy_store
from router.audit.changes import recorded_policy
from router.audit.log import Subject
from router.audit.replaying import Chosen
from router.backends import try_backends
from router.http.context import HttpRequest, actor_of, gateway_of, principal_of
from router.http.errors import ApiError, decode_body
from router.identity.errors import may_exist
from router.policy_checks import CasesFailed, check, tested
from router.policy_comparing import compare
from router.policy_file import FileStatus, read_status, told
from router.policy_in_force import known_price

if TYPE_CHECKING:
    from router.gateway import Gateway

YAML = "application/yaml"
Body = TypeVar("Body")
LAST_VERSION = 2**31 - 1
"""More than the database's column can count are never made."""

LONGEST_COMMENT = 500
COMMENT = "x-headgate-comment"
MOST_COMPARED, COMPARED = 100_000, 10_000
"""Recorded requests that one comparison decides again, at most and where nothing is said."""


class Rollback(Struct, frozen=True, forbid_unknown_fields=True):
    """`comment` says why, for the audit log."""

    version: Annotated[int, Meta(ge=1, le=LAST_VERSION)]
    comment: Annotated[str, Meta(max_length=LONGEST_COMMENT)] = ""


class Validation(Struct, frozen=True):
    """Whether a policy can be put in force, and every reason why not."""

    valid: bool
    problems: tuple[Problem, ...] = ()


class TestedCase(Struct, frozen=True):
    """One of the policy's own cases, what came out, and in what that is not as expected."""

    name: str
    ok: bool
    failures: tuple[str, ...]
    decision: dict[str, Any]


class TestReport(Struct, frozen=True):
    """Whether all of a policy's own cases hold."""

    ok: bool
    cases: tuple[TestedCase, ...]


class ShownVersion(Struct, frozen=True, kw_only=True):
    """A policy version with its text."""

    version: int
    hash: str
    source: str
    author: str
    comment: str
    created_at: float
    active: bool
    text: str


class PolicyStatus(Struct, frozen=True, kw_only=True):
    """Which version is active, which this worker serves by, and whether the policy file of its host is what is in force (None: nobody watches one)."""

    version: int
    hash: str
    source: str
    author: str
    comment: str
    created_at: float
    serving: int
    file: FileStatus | None


@get("/admin/policy", tags=["policy"], summary="The policy in force, as YAML, with its ETag", media_type=MediaType.TEXT)
async def get_policy(request: HttpRequest) -> Response[str]:
    """The text that is active now; send its ETag back in `If-Match` to change it."""
    gateway = gateway_of(request)
    version = await gateway.database.read(policy_store.active_version)
    assert version is not None, "a policy is imported before the first worker starts"
    await gateway.audit.note(actor_of(request), "policy.read", Subject("policy", str(version.version)))
    return Response(version.text, media_type=YAML, headers={"etag": version.etag, "x-headgate-policy": str(version.version)})


@put("/admin/policy", status_code=200, tags=["policy"], summary="Put a new policy in force")
async def put_policy(request: HttpRequest, comment: FromQuery[str | None] = None, force: FromQuery[bool] = False) -> Response[dict[str, Any]]:
    """The body is YAML. `If-Match` must name the version in force (428 without it, 412 when another one is). Never writes the file.

    A policy whose own cases do not hold is refused, unless `force`. `comment` (or the header `x-headgate-comment`) says why the version was made.
    """
    gateway, principal = gateway_of(request), principal_of(request)
    expected = request.headers.get("if-match")
    if expected is None:
        raise ApiError(428, "if_match_required", "Send If-Match with the ETag of GET /admin/policy, so that nobody's change is lost.")
    reason = _comment(request, comment)
    text = await _policy_text(request)
    problems, failed = await _problems(text, gateway, cases=not force)
    if problems and failed:
        advice = "Mend the policy or the case; ?force=true puts it in force all the same."
        raise ApiError(400, "policy_cases_failed", f"{told(problems)}. {advice}", param=problems[0].path)
    if problems:
        raise ApiError(400, "invalid_policy", told(problems), param=problems[0].path or None)
    try:
        author, wanted = principal.key_id, None if expected == "*" else expected
        work = recorded_policy(
            gateway.audit,
            actor_of(request),
            "policy.put",
            lambda connection: policy_store.add_version(connection, text, source="api", author=author, expected=wanted, comment=reason),
        )
        version = await gateway.database.write(work)
    except policy_store.Conflict as error:
        await gateway.audit.note(actor_of(request), "policy.put", Subject("policy"), "refused")
        raise ApiError(412, "policy_changed", "The policy was changed meanwhile: read GET /admin/policy again and repeat your change.") from error
    await gateway.policy.refresh()
    return Response(_shown(version), headers={"etag": version.etag})


@post("/admin/policy/validate", status_code=200, tags=["policy"], summary="Check a policy without putting it in force")
async def validate_policy(request: HttpRequest) -> Validation:
    """The body is YAML; every problem comes with line, column and, where one is near, a suggestion."""
    gateway = gateway_of(request)
    problems, _ = await _problems(await _policy_text(request), gateway, cases=False)
    return Validation(not problems, problems)


@post("/admin/policy/test", status_code=200, tags=["policy"], summary="Run a policy's own cases")
async def test_policy(request: HttpRequest) -> TestReport:
    """The body is YAML; without one, the cases of the policy in force are run. Nothing is called."""
    gateway = gateway_of(request)
    policy = await _candidate(request, gateway) or gateway.policy.current.policy
    results = await tested(policy, gateway.policy.environ)
    return TestReport(all(result.ok for result in results), tuple(map(_tested, results)))


def _tested(result: CaseResult) -> TestedCase:
    return TestedCase(result.name, result.ok, result.failures, msgspec.to_builtins(result.decision))


@post("/admin/policy/diff", status_code=200, tags=["policy"], summary="What another policy would have done with recorded requests")
async def diff_policy(
    request: HttpRequest,
    old: FromQuery[int | None] = None,
    new: FromQuery[int | None] = None,
    since: FromQuery[float | None] = None,
    until: FromQuery[float | None] = None,
    tenant: FromQuery[str | None] = None,
    limit: FromQuery[int] = COMPARED,
) -> PolicyDiff:
    """The body is the candidate, as YAML; or `new` is the number of a version. It is compared with version `old`, by default the one in force.

    Of the requests recorded from `since` until before `until` (seconds since the epoch), the newest `limit` are decided by both. Nothing is called.
    """
    gateway = gateway_of(request)
    if not 1 <= limit <= MOST_COMPARED:
        raise ApiError(400, "invalid_request", f"limit: must be from 1 to {MOST_COMPARED}.", param="limit")
    if tenant is not None and not may_exist(tenant):
        raise ApiError(404, "tenant_not_found", f"No tenant {tenant[:80]!r}.", param="tenant")
    candidate = await _candidate(request, gateway)
    if (candidate is None) == (new is None):
        raise ApiError(400, "invalid_request", "Send the candidate as the body, or name a version with `new`: one of the two.", param="new")
    before, was = await _version(gateway, old, "old")
    if candidate is None:
        assert new is not None
        candidate, text = await _version(gateway, new, "new")
    else:
        text = await _policy_text(request)
    await gateway.recorder.flush()
    chosen = Chosen(since=since, until=until, tenant=tenant, limit=limit)
    found = await compare(gateway.database, before, candidate, (was, text), chosen, gateway.policy.environ)
    subject = Subject("policy", before.source, tenant or "", {"compared": found.requests, "changed": found.changed})
    await gateway.audit.note(actor_of(request), "policy.diff", subject)
    return found


@get("/admin/policy/status", tags=["policy"], summary="Which version is in force, and whether the policy file is")
async def policy_status(request: HttpRequest) -> PolicyStatus:
    """A file that may not be put in force changes nothing: `file.problems` say where it is wrong."""
    gateway = gateway_of(request)
    active = await gateway.database.read(policy_store.active_version)
    assert active is not None, "a policy is imported before the first worker starts"
    return PolicyStatus(
        version=active.version,
        hash=active.hash,
        source=active.source,
        author=active.author,
        comment=active.comment,
        created_at=active.created_at,
        serving=gateway.policy.current.version,
        file=read_status(gateway.settings.home),
    )


@get("/admin/policy/versions", tags=["policy"], summary="Every policy that was ever active")
async def policy_versions(request: HttpRequest) -> dict[str, Any]:
    gateway = gateway_of(request)
    return {"data": [_shown(version) for version in await gateway.database.read(policy_store.list_versions)]}


@get("/admin/policy/versions/{version:str}", tags=["policy"], summary="One policy version, with its text")
async def policy_version(request: HttpRequest, version: FromPath[str]) -> ShownVersion:
    gateway = gateway_of(request)
    found = await _find(gateway, int(version) if version.isascii() and version.isdecimal() and len(version) <= 10 else 0, "version", version[:80])
    await gateway.audit.note(actor_of(request), "policy.read", Subject("policy", str(found.version)))
    return ShownVersion(**{name: getattr(found, name) for name in ShownVersion.__struct_fields__})


@post("/admin/policy/rollback", status_code=200, tags=["policy"], summary="Make an earlier version active again")
async def rollback_policy(request: HttpRequest) -> dict[str, Any]:
    """Its cases need not hold: going back always works where the version can still be loaded."""
    gateway = gateway_of(request)
    wanted = decode_body(await request.body(), Rollback)
    earlier = await _find(gateway, wanted.version, "version")
    problems, _ = await _problems(earlier.text, gateway, cases=False, trusted=_trusted(earlier))
    if problems:
        raise ApiError(409, "invalid_policy", "That version is not valid any more: " + told(problems), param="version")
    work = recorded_policy(
        gateway.audit,
        actor_of(request),
        "policy.rollback",
        lambda connection: policy_store.activate(connection, wanted.version),
        comment=_clean(wanted.comment),
    )
    version = await gateway.database.write(work)
    assert version is not None
    await gateway.policy.refresh()
    return _shown(version)


async def _policy_text(request: HttpRequest) -> str:
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "invalid_policy", f"The policy is not UTF-8: {error}.") from error


async def _candidate(request: HttpRequest, gateway: Gateway) -> Policy | None:
    """The policy that the body holds; None where there is no body. Raises `ApiError` 400 with every problem."""
    text = await _policy_text(request)
    if not text.strip():
        return None
    try:
        policy = load_policy(text, "policy.yaml", price_of=known_price, private_addresses=gateway.settings.allow_private_backends)
        await try_backends(policy, gateway.policy.environ)
    except PolicyError as error:
        raise ApiError(400, "invalid_policy", told(error.problems), param=error.problems[0].path or None) from error
    return policy


async def _find(gateway: Gateway, number: int, param: str, called: str = "") -> policy_store.PolicyVersion:
    """Raises `ApiError` 404 where there is no such version; `called` is how the client called it."""
    known = 1 <= number <= LAST_VERSION
    found = await gateway.database.read(lambda connection: policy_store.get_version(connection, number)) if known else None
    if found is None:
        raise ApiError(404, "version_not_found", f"No policy version {called or number}. See GET /admin/policy/versions.", param=param)
    return found


async def _version(gateway: Gateway, number: int | None, param: str) -> tuple[Policy, str]:
    """A version as a policy, and its text; the one in force where none is named."""
    number = gateway.policy.current.version if number is None else number
    found = await _find(gateway, number, param)
    try:
        return load_policy(found.text, f"version {number}", price_of=known_price), found.text
    except PolicyError as error:
        raise ApiError(409, "invalid_policy", f"Version {number} is not valid any more: {told(error.problems)}", param=param) from error


def _trusted(version: policy_store.PolicyVersion) -> bool:
    """Whether a version came from this machine: it may name private addresses."""
    return version.source in ("file", "cli")


async def _problems(text: str, gateway: Gateway, *, cases: bool, trusted: bool = False) -> tuple[tuple[Problem, ...], bool]:
    """What keeps a policy from being put in force, and whether it is only that its own cases do not hold."""
    private = trusted or gateway.settings.allow_private_backends
    try:
        await check(text, "policy.yaml", gateway.policy.environ, private_addresses=private, cases=cases)
    except PolicyError as error:
        return error.problems, isinstance(error, CasesFailed)
    return (), False


def _comment(request: HttpRequest, given: str | None) -> str:
    """Why a version is made: from the query, else from the header, which may be UTF-8."""
    value = given
    if value is None:
        raw = request.headers.get(COMMENT, "").encode("latin-1", "replace")
        value = raw.decode("utf-8", "replace")
    if len(value) > LONGEST_COMMENT:
        raise ApiError(400, "invalid_request", f"comment: {len(value)} characters; at most {LONGEST_COMMENT} are kept.", param="comment")
    return _clean(value)


def _clean(comment: str) -> str:
    """Without what is no character of a line of text."""
    return "".join(each if each.isprintable() else " " for each in comment).strip()


def _shown(version: policy_store.PolicyVersion) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(version)
    shown.pop("text")
    return shown


handlers = (
    get_policy,
    put_policy,
    validate_policy,
    test_policy,
    diff_policy,
    policy_status,
    policy_versions,
    policy_version,
    rollback_policy,
)
