"""How many lines of batches may run at a target at once, so that interactive requests come first.

The number grows by about one for each round of successes, and halves when the provider answers
429. No line starts while less than a quarter of a limit is left, by the provider's own headers,
while the target refuses interactive requests, or while its circuit is open.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from webapp.errors import ProviderBusy, WeirError
from webapp.llm.messages import Operation
from webapp.llm.ports import Breakers
from webapp.llm.routing import circuit_name
from webapp.providers.remaining_limits import RemainingLimit, RemainingLimits
from webapp.storage.busy_targets import BusyTargets

INITIAL_WIDTH = 4
LEFT_TO_OTHERS = 0.25  # of each limit
FIRST_PAUSE = 2.0  # seconds, where the provider names none; doubled with each further 429
MAX_DEFAULT_PAUSE = 60.0
MAX_PAUSE = 600.0
# Seconds after which a long wait for a limit's reset is checked by a single line.
CHECK_AFTER = 300.0
MAX_REMEMBERED = 1_000
MAX_STARTS = 1_000  # the largest BATCH_CONCURRENCY
EVERYBODY = "*"
CHAT: Operation = "chat/completions"


@dataclass(slots=True)
class _Pace:
    """The lines of one target. Times are monotonic."""

    width: int
    running: int = 0
    # Successes since the width has changed, and whether it was used in full since then.
    successes: int = 0
    was_full: bool = False
    # How many of the running lines began before the width was halved last: what becomes of them
    # says nothing about the new width.
    before_halving: int = 0
    refusals: int = 0
    paused_until: float = 0.0
    starts: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_STARTS))


class Pacing:
    """The lines that this process runs. `most` is the limit for each target.

    A target is `provider/model`.
    """

    def __init__(
        self,
        most: int,
        remaining: Callable[[str], RemainingLimits | None],
        busy: BusyTargets,
        breakers: Breakers,
    ) -> None:
        self._most = most
        self._remaining = remaining
        self._busy = busy
        self._breakers = breakers
        self._paces: dict[str, _Pace] = {}

    def free(self, target: str, operation: Operation = CHAT, who: str = EVERYBODY) -> int:
        """How many more lines may start now; `who` is the bucket of the key that pays."""
        circuit = circuit_name(target, operation)
        if self._busy.busy_for(target) or self._breakers.opens_in(circuit, who):
            return 0
        pace, now = self._paces.get(target) or self._new(), time.monotonic()
        if now < pace.paused_until:
            return 0
        free = pace.width - pace.running
        if self._breakers.is_open_for_all(circuit):
            # Its pause is over: one line is the probe.
            free = min(free, 1 - pace.running)
        return max(0, min(free, self._left(target, pace, now)))

    def choose(self, targets: Sequence[str], operation: Operation, who: str) -> str | None:
        """The target that a line may go to now: the first whose circuit is not open, as the gateway
        leaves out the others. None if it has to wait."""
        for target in targets:
            if not self._breakers.opens_in(circuit_name(target, operation), who):
                return target if self.free(target, operation, who) else None
        return None

    def started(self, target: str) -> None:
        pace = self._paces.get(target)
        if pace is None:
            self._forget_idle()
            pace = self._paces[target] = self._new()
        pace.running += 1
        pace.was_full = pace.was_full or pace.running >= pace.width
        pace.starts.append(time.monotonic())

    def ended(self, target: str, error: WeirError | None, *, called: bool = True) -> None:
        """A line ended, by an error or with an answer, for which the target was called or not.

        Any error but ProviderBusy is neutral.
        """
        pace = self._paces[target]
        pace.running -= 1
        began_before = pace.before_halving > 0
        pace.before_halving -= began_before
        if isinstance(error, ProviderBusy):
            self._slow_down(pace, error.retry_after, halve=not began_before)
        elif error is None and called and not began_before:
            self._speed_up(pace)

    def refused(self, target: str, retry_after: float | None) -> None:
        """A line that still runs got a 429 here, and was perhaps answered by another target."""
        if pace := self._paces.get(target):
            self._slow_down(pace, retry_after, halve=not pace.before_halving)

    def width(self, target: str) -> int:
        return (self._paces.get(target) or self._new()).width

    def _slow_down(self, pace: _Pace, retry_after: float | None, *, halve: bool) -> None:
        if halve:
            pace.width = max(1, pace.width // 2)
            pace.before_halving = pace.running
            pace.successes, pace.was_full = 0, False
            pace.refusals += 1
        if retry_after is None:
            doubled = FIRST_PAUSE * 2 ** min(max(0, pace.refusals - 1), 10)
            seconds = min(doubled, MAX_DEFAULT_PAUSE)
        else:
            seconds = min(retry_after, MAX_PAUSE)
        pace.paused_until = max(pace.paused_until, time.monotonic() + seconds)

    def _speed_up(self, pace: _Pace) -> None:
        pace.refusals = 0
        pace.successes += 1
        if pace.successes >= pace.width:
            # A width that is not used has not been tried.
            if pace.was_full:
                pace.width = min(pace.width + 1, self._most)
            pace.successes, pace.was_full = 0, pace.running >= pace.width

    def _left(self, target: str, pace: _Pace, now: float) -> int:
        """How many more lines may start by what the provider says is left."""
        said = self._remaining(target)
        if said is None:
            return self._most
        while pace.starts and pace.starts[0] < said.asked_at:
            pace.starts.popleft()
        # How many tokens a line takes is not known before it ends.
        if any(_above(limit) < 0 for limit in _running(said.tokens, now)):
            left = 0
        else:
            requests = (_above(limit) - len(pace.starts) for limit in _running(said.requests, now))
            left = math.floor(min(requests, default=self._most - 1)) + 1
        if left <= 0 and now - said.said_at > CHECK_AFTER:
            return 1 - pace.running
        return left

    def _new(self) -> _Pace:
        return _Pace(min(INITIAL_WIDTH, self._most))

    def _forget_idle(self) -> None:
        """Clients may name any model, so targets are not limited."""
        if len(self._paces) >= MAX_REMEMBERED:
            self._paces = {name: pace for name, pace in self._paces.items() if pace.running}


def _running(limits: Mapping[str, RemainingLimit], now: float) -> list[RemainingLimit]:
    """Those whose figures still hold."""
    return [limit for limit in limits.values() if now < limit.resets_at]


def _above(limit: RemainingLimit) -> float:
    """How much is left above the part that belongs to interactive requests."""
    return limit.remaining - limit.limit * LEFT_TO_OTHERS
