"""Limits on requests, counted by one process: where there is no Redis, and while it is away."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from webapp.admission.limit_states import DAY, Decision, Limit, LimitState

SWEEP_THRESHOLD = 10_000


@dataclass(slots=True)
class Unshared:
    """What a process has allowed in a bucket and Redis does not know: times by length of window,
    and the count of a day."""

    windows: dict[int, deque[float]] = field(default_factory=dict)
    day: int = 0
    day_count: int = 0


class LocalRateLimits:
    """The same limits within this process, each divided among `workers`.

    `unshared` is by bucket, and stays empty without `keep_unshared`.
    """

    def __init__(
        self,
        workers: int,
        counted_today: Callable[[str], int] = lambda _: 0,
        tokens_here: Callable[[str], int] = lambda _: 0,
        *,
        keep_unshared: bool = False,
    ) -> None:
        self._workers = workers
        self._keep_unshared = keep_unshared
        self.unshared: dict[str, Unshared] = {}
        # What other processes had of a window when Redis was last asked, and until when it counts.
        self._others: dict[tuple[str, int], tuple[int, float]] = {}
        self._sweep_at = SWEEP_THRESHOLD
        self._counted_today = counted_today
        self._tokens_here = tokens_here
        self._logs: dict[tuple[str, int], deque[float]] = {}
        self._days: dict[str, tuple[int, int]] = {}
        self._running: dict[str, set[str]] = {}

    def release(self, bucket: str, request: str) -> None:
        running = self._running.get(bucket, set())
        running.discard(request)
        if not running:
            self._running.pop(bucket, None)

    def note(self, bucket: str, decision: Decision, request: str) -> None:
        """Remember what Redis has decided."""
        now = time.monotonic()
        took = bool(request) and decision.allowed
        for state in decision.states:
            limit = state.limit
            if limit.kind == "window":
                log = self._log(bucket, limit, now)
                if took:
                    if len(log) >= self._share(limit):  # more of them would change nothing
                        log.popleft()
                    log.append(now)
                others = state.used - len(log)
                self._others[bucket, limit.length] = (others, now + limit.length)
            elif limit.kind == "day":
                self._days[bucket] = (int(decision.now // DAY), state.used)
            elif limit.kind == "parallel" and took:
                self._running.setdefault(bucket, set()).add(request)

    def put_back(self, bucket: str, unshared: Unshared) -> None:
        """Keep what could not be added to Redis for another attempt."""
        kept = self.unshared.setdefault(bucket, unshared)
        if kept is not unshared:
            for length, times in unshared.windows.items():
                kept.windows.setdefault(length, deque()).extendleft(reversed(times))
            if kept.day == unshared.day:
                kept.day_count += unshared.day_count

    def decision(
        self, bucket: str, limits: Sequence[Limit], request: str, known: int = -1
    ) -> Decision:
        """`known` is what the database has of this day's requests; -1 asks it where needed."""
        if bucket not in self._days and any(limit.kind == "day" for limit in limits):
            # Asked before anything is looked at: others may be served meanwhile.
            counted = self._counted_today(bucket) if known < 0 else known
            self._days.setdefault(bucket, (int(time.time() // DAY), counted))
        now, wall = time.monotonic(), time.time()
        used = [self._used(bucket, limit, now, wall) for limit in limits]
        shares = [self._share(limit) - self._excess(bucket, limit, now) for limit in limits]
        allowed = all(
            count < share or limit.kind == "tokens"
            for limit, count, share in zip(limits, used, shares, strict=True)
        )
        if request and allowed:
            used = [
                self._take(bucket, limit, now, wall, request, count)
                for limit, count in zip(limits, used, strict=True)
            ]
        states = []
        for limit, count, share in zip(limits, used, shares, strict=True):
            reset = self._reset(bucket, limit, now, wall, share)
            # What others may take is shown as used once this process's share is.
            shown = count + limit.amount - share if count >= share else count
            states.append(LimitState(limit, shown, reset))
        return Decision(allowed, wall, tuple(states))

    def _share(self, limit: Limit) -> int:
        return max(1, limit.amount // self._workers)

    def _excess(self, bucket: str, limit: Limit, now: float) -> int:
        """How much of this process's share of a window others are known to have used."""
        others, until = self._others.get((bucket, limit.length), (0, 0.0))
        if limit.kind != "window" or until <= now:
            return 0
        return max(0, others - (limit.amount - self._share(limit)))

    def _used(self, bucket: str, limit: Limit, now: float, wall: float) -> int:
        if limit.kind == "day":
            day, counted = self._days[bucket]
            return counted if day == int(wall // DAY) else 0
        if limit.kind == "parallel":
            return len(self._running.get(bucket, ()))
        if limit.kind == "tokens":
            return self._tokens_here(bucket)
        return len(self._log(bucket, limit, now))

    def _take(
        self, bucket: str, limit: Limit, now: float, wall: float, request: str, used: int
    ) -> int:
        if limit.kind == "window":
            self._logs[bucket, limit.length].append(now)
            if self._keep_unshared:
                windows = self.unshared.setdefault(bucket, Unshared()).windows
                times = windows.setdefault(limit.length, deque())
                times.append(now)
                while times[0] <= now - limit.length:
                    times.popleft()
        elif limit.kind == "day":
            today = int(wall // DAY)
            self._days[bucket] = (today, used + 1)
            if self._keep_unshared:
                unshared = self.unshared.setdefault(bucket, Unshared())
                if unshared.day != today:
                    unshared.day, unshared.day_count = today, 0
                unshared.day_count += 1
        elif limit.kind == "parallel":
            self._running.setdefault(bucket, set()).add(request)
        else:
            return used
        return used + 1

    def _reset(self, bucket: str, limit: Limit, now: float, wall: float, share: int) -> float:
        if limit.kind == "day":
            return (wall // DAY + 1) * DAY
        if limit.kind != "window":
            return wall + (1 if limit.kind == "parallel" else 0)
        log = self._logs[bucket, limit.length]
        if log and len(log) >= share > 0:
            # The oldest entry of those that fill the share leaves first.
            return wall + log[len(log) - share] + limit.length - now
        if share <= 0:  # others have it all, as far as this process knows
            return wall + self._others[bucket, limit.length][1] - now
        return wall + (log[0] if log else now) + limit.length - now

    def _log(self, bucket: str, limit: Limit, now: float) -> deque[float]:
        if len(self._logs) > self._sweep_at:
            self._sweep(now)
            self._sweep_at = max(SWEEP_THRESHOLD, 2 * len(self._logs))
        log = self._logs.setdefault((bucket, limit.length), deque())
        while log and log[0] <= now - limit.length:
            log.popleft()
        return log

    def _sweep(self, now: float) -> None:
        """Forget windows in which nothing is left: addresses come and go."""
        for key, log in list(self._logs.items()):
            if not log or log[-1] <= now - key[1]:
                del self._logs[key]
        for key, (_, until) in list(self._others.items()):
            if until <= now:
                del self._others[key]
        for bucket, unshared in list(self.unshared.items()):
            windows = unshared.windows.items()
            if not unshared.day_count and all(
                times[-1] <= now - length for length, times in windows
            ):
                del self.unshared[bucket]
