"""Limits in Redis: one script for a batch, all scopes of a request at once, at the server's time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from policies.buckets import LONGEST_DEBT
from router.limits.values import SLOT_WAIT_S, SLOTS_LAPSE_S, Give, Operation, Verdict

PREFIX = "{headgate-limits}:"
"""In braces: in a cluster all of it lies on one node, so that a script may touch all of it."""

# The arithmetic of policies.buckets, and of values.refusal. A bucket is "level at"; a concurrency is a hash of what each worker runs.
SCRIPT = """
local input = cjson.decode(ARGV[1])
local now = input.now
if now == cjson.null or now == nil then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1e6
end
local levels, shapes, dirty = {}, {}, {}
local function level(c)
  local k = c[1]
  if levels[k] == nil then
    local capacity, rate = c[3], c[4]
    local raw = redis.call('GET', KEYS[k])
    local l, at = capacity, now
    if raw then
      local a, b = string.match(raw, '(%S+) (%S+)')
      l, at = tonumber(a), tonumber(b)
      if at > now then dirty[k] = true end
      if l < capacity and now > at then l = math.min(capacity, l + (now - at) * rate) end
    end
    levels[k] = l
  end
  shapes[k] = c
  return levels[k]
end
local function charge(c)
  local k, limit, cost = c[1], c[2], c[5]
  local l = level(c)
  if cost < 0 then levels[k] = math.max(l, math.min(limit, l - cost)) else levels[k] = math.max(l - cost, -input.debt * limit) end
  dirty[k] = true
end
local beats
local function read_beats()
  beats = {}
  local raw = redis.call('HGETALL', KEYS[1])
  for i = 1, #raw, 2 do beats[raw[i]] = tonumber(raw[i + 1]) end
end
local running = {}
local function held(k)
  if running[k] == nil then
    if beats == nil then read_beats() end
    local raw = redis.call('HGETALL', KEYS[k])
    local n = 0
    for i = 1, #raw, 2 do
      local w = raw[i]
      if w == input.worker or (beats[w] and now - beats[w] < input.lapse) then n = n + tonumber(raw[i + 1])
      else redis.call('HDEL', KEYS[k], w) end
    end
    running[k] = n
  end
  return running[k]
end
if input.slots then redis.call('HSET', KEYS[1], input.worker, string.format('%.17g', now)) end
local live = 0
if input.held ~= cjson.null and input.held ~= nil then
  for _, h in ipairs(input.held) do
    if h[2] > 0 then redis.call('HSET', KEYS[h[1]], input.worker, h[2]) else redis.call('HDEL', KEYS[h[1]], input.worker) end
  end
  read_beats()
  for w, at in pairs(beats) do
    if now - at < input.lapse then live = live + 1 elseif now - at > 100 * input.lapse then redis.call('HDEL', KEYS[1], w) end
  end
end
local answers = {}
for n, op in ipairs(input.ops) do
  local worst, wait, seen = 0, 0, {}
  if op.take then
    for i, c in ipairs(op.c) do
      local l = level(c)
      seen[i] = l
      local lacking = math.min(c[5], math.max(1, c[3] / 2)) - l
      if lacking > 1e-6 and lacking / c[4] > wait then worst, wait = i, lacking / c[4] end
    end
    if wait < input.slot_wait then
      for i, s in ipairs(op.s) do
        if held(s[1]) >= s[2] then worst, wait = #op.c + i, input.slot_wait; break end
      end
    end
  end
  if worst == 0 then
    for i, c in ipairs(op.c) do charge(c); seen[i] = levels[c[1]] end
    for _, s in ipairs(op.s) do
      local k = s[1]
      held(k)
      if op.take then
        redis.call('HINCRBY', KEYS[k], input.worker, 1)
        redis.call('EXPIRE', KEYS[k], 86400)
        running[k] = running[k] + 1
      else
        local left = tonumber(redis.call('HGET', KEYS[k], input.worker) or '0')
        if left > 0 then
          running[k] = running[k] - 1
          if left > 1 then redis.call('HSET', KEYS[k], input.worker, left - 1) else redis.call('HDEL', KEYS[k], input.worker) end
        end
      end
    end
  end
  answers[n] = {worst, wait, seen}
end
for k, _ in pairs(dirty) do
  local c = shapes[k]
  local ms = math.ceil(math.max(0, c[3] - levels[k]) / c[4] * 1000) + 60000
  redis.call('SET', KEYS[k], string.format('%.17g %.17g', levels[k], now), 'PX', string.format('%d', ms))
end
return cjson.encode({live, answers})
"""

_encode = msgspec.json.Encoder().encode


class RedisTransport:
    """One worker's connections. Needs the extra `redis`."""

    name = "redis"

    def __init__(self, url: str, worker: str, clock: Callable[[], float] | None = None) -> None:
        """`clock` is in place of the server's own, for tests. Connects at the first call."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._client: Any = Redis.from_url(url, socket_connect_timeout=0.5, socket_timeout=1.0, retry=Retry(NoBackoff(), 0))
        self._script = self._client.register_script(SCRIPT)
        self._worker = worker
        self._clock = clock

    async def run(self, operations: Sequence[Operation], held: Mapping[str, int] | None) -> tuple[list[Verdict], int]:
        places: dict[str, int] = {}
        keys = [f"{PREFIX}beats"]

        def place(name: str) -> int:
            found = places.get(name)
            if found is None:
                keys.append(PREFIX + name)
                found = places[name] = len(keys)
            return found

        asked = [
            {
                "take": not isinstance(operation, Give),
                "c": [(place(each.scope.id), each.bucket.limit, each.bucket.capacity, each.bucket.rate, each.cost) for each in operation.charges],
                "s": [(place(scope.id), scope.limit) for scope in operation.slots],
            }
            for operation in operations
        ]
        body = {
            "now": None if self._clock is None else self._clock(),
            "worker": self._worker,
            "lapse": SLOTS_LAPSE_S,
            "slot_wait": SLOT_WAIT_S,
            "debt": LONGEST_DEBT,
            "slots": held is not None or any(operation.slots for operation in operations),
            "held": None if held is None else [(place(name), count) for name, count in held.items()],
            "ops": asked,
        }
        live, answers = msgspec.json.decode(await self._script(keys=keys, args=[_encode(body)]))
        return [_verdict(operation, *answer) for operation, answer in zip(operations, answers or (), strict=True)], int(live)

    async def ping(self) -> None:
        """Raises where the server does not answer."""
        await self._client.ping()

    async def aclose(self) -> None:
        await self._client.aclose()


def _verdict(operation: Operation, worst: float, wait_s: float, levels: Sequence[float]) -> Verdict:
    """`worst` counts the charges, then the slots, from 1. An empty list is an empty object to the script's encoder."""
    exhausted = None
    if worst:
        number = int(worst) - 1 - len(operation.charges)
        exhausted = operation.slots[number] if number >= 0 else operation.charges[int(worst) - 1].scope
    return Verdict(tuple(levels), exhausted, wait_s)
