"""Whether a rule's conditions hold. Pure: the time, the budget and the backends' health stand in the state."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import get_args
from zoneinfo import ZoneInfo

from policies.decision import State
from policies.features import Features
from policies.schema import BOUNDS, BackendIs, Day, TimeOfDay, When, one_or_more

DAYS: tuple[Day, ...] = get_args(Day)
EVERYTHING = 1.0
"""The share that is left of a budget that a tenant does not have."""


def matches(when: When, features: Features, state: State) -> bool:
    """Whether all conditions hold."""
    for wanted, value in (
        (when.tenant, features.tenant),
        (when.role, features.role),
        (when.data_class, features.data_class),
        (when.task, features.task),
        (when.language, features.language),
        (when.model, features.model),
    ):
        if wanted is not None and value not in one_or_more(wanted):
            return False
    for names, values in ((when.needs, features.needs), (when.tags, features.tags), (when.key, (features.key, features.key_name))):
        if names is not None and not any(name in values for name in one_or_more(names)):
            return False
    if when.grounded is not None and when.grounded != features.grounded:
        return False
    return _bounds_hold(when, features, state) and _moment_holds(when, state) and _parts_hold(when, features, state)


_BOUNDS = tuple((f"min_{name}", f"max_{name}", name, source == "state") for name, source in BOUNDS)


def _bounds_hold(when: When, features: Features, state: State) -> bool:
    for low, high, name, of_state in _BOUNDS:
        least, most = getattr(when, low), getattr(when, high)
        if least is None and most is None:
            continue
        value = getattr(state if of_state else features, name)
        if value is None and of_state:
            value = EVERYTHING
        if value is None or (least is not None and value < least) or (most is not None and value > most):
            return False
    return True


def _moment_holds(when: When, state: State) -> bool:
    return (when.time is None or within(when.time, state.now)) and (when.backend is None or _is(when.backend, state))


def _parts_hold(when: When, features: Features, state: State) -> bool:
    if when.all is not None and not all(matches(part, features, state) for part in when.all):
        return False
    if when.any is not None and not any(matches(part, features, state) for part in when.any):
        return False
    return when.none is None or not matches(when.none, features, state)


def within(part: TimeOfDay, now: float) -> bool:
    """Whether a moment (seconds since the epoch) lies in this part of the day, by the clocks of its zone."""
    local = datetime.fromtimestamp(now, ZoneInfo(part.zone))
    minute, start, end = local.hour * 60 + local.minute, minutes(part.start), minutes(part.to)
    began = local
    if end <= start and minute < end:  # it began yesterday
        began = local - timedelta(days=1)
    elif minute < start or (start < end <= minute):
        return False
    return not part.days or DAYS[began.weekday()] in part.days


def minutes(clock: str) -> int:
    """Minutes since midnight."""
    return int(clock[:2]) * 60 + int(clock[3:])


def _is(wanted: BackendIs, state: State) -> bool:
    now = state.backends.get(wanted.name)
    if now is None:
        return wanted.ready is False and wanted.max_queue is None and wanted.max_wait_s is None
    return (
        (wanted.ready is None or wanted.ready == now.ready)
        and (wanted.max_queue is None or now.queue_depth <= wanted.max_queue)
        and (wanted.max_wait_s is None or now.wait_s <= wanted.max_wait_s)
    )
