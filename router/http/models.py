"""`GET /v1/models`: what this key may name in `model`."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath
from msgspec import Struct

from router.http.context import HttpRequest, gateway_of, principal_of
from router.http.errors import ApiError


class ModelInfo(Struct, frozen=True, kw_only=True):
    """OpenAI's model object, and what Headgate knows of it."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str
    headgate: dict[str, str | bool]


class ModelList(Struct, frozen=True):
    data: tuple[ModelInfo, ...]
    object: str = "list"


def _models(request: HttpRequest) -> tuple[ModelInfo, ...]:
    gateway, principal = gateway_of(request), principal_of(request)
    gateway.require(principal, "models.read")
    active = gateway.policy.current
    models = [ModelInfo(id="auto", owned_by="headgate", headgate={"ready": True, "reason": ""})]
    for name, backend in active.backends.items():
        if principal.allowed_models is not None and not {name, backend.model} & set(principal.allowed_models):
            continue
        health = active.health[name]
        about: dict[str, str | bool] = {
            "model": backend.model,
            "ready": health.ready,
            "reason": health.reason,
            "clearance": active.policy.backends[name].clearance,
        }
        models.append(ModelInfo(id=name, owned_by=backend.provider, headgate=about))
    if principal.allowed_models is None:
        known = {model.id for model in models}
        made_up = (name for rule in active.policy.file.rules for name in rule.when.models)
        models += [ModelInfo(id=name, owned_by="headgate", headgate={"ready": True, "reason": ""}) for name in dict.fromkeys(made_up) if name not in known]
    return tuple(models)


@get("/v1/models", tags=["chat"], summary="List the models this key may use")
async def list_models(request: HttpRequest) -> ModelList:
    """`auto`, every backend by its name, and the names that rules make up."""
    return ModelList(_models(request))


@get("/v1/models/{name:path}", tags=["chat"], summary="One model")
async def get_model(request: HttpRequest, name: FromPath[str]) -> ModelInfo:
    """Raises 404 for a model that is missing or not this key's."""
    wanted = name.lstrip("/")
    for model in _models(request):
        if model.id == wanted:
            return model
    raise ApiError(404, "model_not_found", f"No model {wanted!r}. List yours with GET /v1/models.", param="model")
