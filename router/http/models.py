"""`GET /v1/models`: what this key may name in `model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from litestar import get
from litestar.params import FromPath
from msgspec import Struct, structs

from adapters.backend import DataClass, may_see
from adapters.types import BackendHealth
from policies.access import may_handle
from router.embedding import candidates
from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError

if TYPE_CHECKING:
    from policies.access import Principal
    from router.policy_in_force import ActivePolicy


class ModelInfo(Struct, frozen=True, kw_only=True):
    """OpenAI's model object, what Anthropic's adds to it, and what Headgate knows of it. When it was made is not known."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str
    type: str = "model"
    display_name: str = ""
    created_at: str = "1970-01-01T00:00:00Z"
    lifecycle: str = "active"
    headgate: dict[str, str | bool]


class ModelList(Struct, frozen=True):
    """The whole list on one page, in OpenAI's words and in Anthropic's."""

    data: tuple[ModelInfo, ...]
    object: str = "list"
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


def _info(name: str, owner: str, **about: str | bool) -> ModelInfo:
    return ModelInfo(id=name, owned_by=owner, display_name=name, headgate=about)


def _models(request: HttpRequest) -> tuple[ModelInfo, ...]:
    gateway, principal = gateway_of(request), principal_of(request)
    active = gateway.policy.current
    models = [_info("auto", "headgate", kind="chat", ready=True, reason="")]
    for name, backend in active.backends.items():
        clearance = active.policy.backends[name].clearance
        if _within_reach(principal, active, name, backend.model, clearance):
            models.append(_known(name, backend.provider, backend.model, clearance, active.health[name], "chat"))
    for name, each in candidates(gateway, active).items():
        embedder = each.embedder
        if _within_reach(principal, active, name, embedder.model, each.clearance):
            models.append(_known(name, embedder.provider, embedder.model, each.clearance, embedder.health(), "embedding"))
    known = {model.id for model in models}
    by_model = {str(model.headgate["model"]): model for model in reversed(models) if "model" in model.headgate}  # the first backend of a model speaks for it
    models += [structs.replace(by_model[name], id=name, display_name=name) for name in reversed(by_model) if name not in known]
    if principal.allowed_models is None:
        known = {model.id for model in models}
        made_up = (name for rule in active.policy.file.rules for name in rule.when.models)
        models += [_info(name, "headgate", kind="chat", ready=True, reason="") for name in dict.fromkeys(made_up) if name not in known]
    return tuple(models)


def _within_reach(principal: Principal, active: ActivePolicy, name: str, model: str, clearance: DataClass) -> bool:
    """Whether the key may name it, and it may see the least sensitive data that the key's tenant ever sends."""
    if principal.allowed_models is not None and not {name, model} & set(principal.allowed_models):
        return False
    least = active.policy.tenant(principal.tenant).data_class
    return principal.platform or (may_see(clearance, least) and may_handle(principal, least))


def _known(name: str, provider: str, model: str, clearance: DataClass, health: BackendHealth, kind: str) -> ModelInfo:
    return _info(name, provider, kind=kind, model=model, ready=health.ready, reason=health.reason, clearance=clearance)


@get("/v1/models", tags=["chat"], summary="List the models this key may use")
async def list_models(request: HttpRequest) -> ModelList:
    """`auto`, every backend and embedder by its name, their models by theirs, and the names that rules make up."""
    models = _models(request)
    return ModelList(models, first_id=models[0].id, last_id=models[-1].id)


@get("/v1/models/{name:path}", tags=["chat"], summary="One model")
async def get_model(request: HttpRequest, name: FromPath[str]) -> ModelInfo:
    """Raises 404 for a model that is missing or not this key's."""
    wanted = name.lstrip("/")
    for model in _models(request):
        if model.id == wanted:
            return model
    raise ApiError(404, "model_not_found", f"No model {wanted!r}. List yours with GET /v1/models.", param="model")
