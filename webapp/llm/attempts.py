"""Tries the targets of a route in order, each several times, until one of them answers."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import gevent

from webapp.errors import (
    ModelNotFound,
    ProviderBusy,
    ProviderError,
    ProviderFailed,
    ProvidersUnavailable,
    UnsupportedParameter,
)
from webapp.llm.accounting import CallAccounting, CostTracker
from webapp.llm.messages import Answer, Chunk
from webapp.llm.ports import Breakers, BusyTargets
from webapp.llm.routing import Route, Target

Result = TypeVar("Result")

INITIAL_BACKOFF = 0.5  # seconds; doubled with every further attempt, as in OpenAI's own clients
MAX_BACKOFF = 8.0
# Seconds. Where a provider asks for a longer pause, the next target is tried at once.
MAX_RETRY_AFTER = 20


@dataclass(frozen=True, slots=True)
class Success(Generic[Result]):
    """The result of a target, and how many provider calls it took."""

    result: Result
    target: Target
    attempts: int


class Attempts:
    """`retries` are the attempts after the first one, for each target."""

    def __init__(self, breakers: Breakers, busy: BusyTargets, retries: int) -> None:
        self._breakers = breakers
        self._busy = busy
        self._retries = retries

    def answer(self, route: Route, costs: CostTracker, deadline: float) -> Success[Answer]:
        """A whole answer. Raises the error of the last target, or ProvidersUnavailable, and what
        CostTracker.reserve() raises."""

        def call(target: Target, accounting: CallAccounting) -> Answer:
            answer = target.provider.answer(costs.capped(target), target.model)
            self._breakers.succeeded(costs.circuit(target), costs.billing.bucket)
            accounting.complete(answer)
            return costs.with_cost(answer)

        return self._first_success(route, costs, deadline, call)

    def stream(
        self, route: Route, costs: CostTracker, deadline: float
    ) -> Success[Generator[Chunk | Answer]]:
        """A stream whose first content has arrived. Raises as answer().

        Later errors are raised by the stream itself, since no other target can continue it.
        """

        def call(target: Target, accounting: CallAccounting) -> Generator[Chunk | Answer]:
            return self._start_stream(costs, target, accounting)

        return self._first_success(route, costs, deadline, call)

    def repeated(self, call: Callable[[], Result], deadline: float) -> Result:
        """The result of a call that costs nothing and changes nothing when it is made twice.
        Raises its last error."""
        for retry in range(self._retries):
            try:
                return call()
            except ProviderError as error:
                if not error.try_again or not _pause(retry, error.retry_after, deadline):
                    raise
        return call()

    def _first_success(
        self,
        route: Route,
        costs: CostTracker,
        deadline: float,
        call: Callable[[Target, CallAccounting], Result],
    ) -> Success[Result]:
        calls = 0
        failure: ProviderError | None = None
        leader_only = False
        targets = route.targets
        for target in targets:
            tries = _Tries(self._breakers, costs.circuit(target), costs.billing.bucket)
            retries, resent = self._retries, False
            with tries:
                while tries.allowed():
                    calls += 1
                    try:
                        result = _accounted(target, costs, costs.reserve(target, calls), call)
                        tries.told = True
                        return Success(result, target, calls)
                    except ModelNotFound as missing:
                        tries.succeeded()
                        missing.attempts = calls
                        if not route.named:
                            raise
                        # Not the client's mistake: the route that it named exists.
                        failure = ProviderFailed(
                            "A target of this route does not exist at its provider."
                        )
                        failure.attempts = calls
                        break
                    except UnsupportedParameter:
                        tries.succeeded()
                        if target is targets[0]:
                            raise
                        # A target before it can be told: its failure is the better answer.
                        break
                    except ProviderError as error:
                        error.attempts = calls
                        self._tell_if_busy(target, costs, error)
                        if not error.try_next:
                            # A target that refuses a request is available.
                            tries.succeeded()
                            raise
                        failure = tries.failed = error
                    if failure.lost_send_seconds is not None and not resent:
                        resent = True
                        continue
                    if not failure.try_again or not retries:
                        break
                    retry, retries = self._retries - retries, retries - 1
                    if not _pause(retry, failure.retry_after, deadline, costs):
                        break
            if not tries.begun and not self._breakers.is_open_for_all(tries.circuit):
                leader_only = True
        failure = failure or self._unavailable(route, costs)
        failure.leader_only = leader_only
        raise failure

    def _start_stream(
        self, costs: CostTracker, target: Target, accounting: CallAccounting
    ) -> Generator[Chunk | Answer]:
        """The stream of a target, once its first content has arrived."""
        items = target.provider.stream(costs.capped(target), target.model, accounting.stream_usage)
        buffered: list[Chunk | Answer] = []
        for item in items:
            buffered.append(item)
            if isinstance(item, Answer) or item.begins:
                break
        self._breakers.answered(costs.circuit(target), costs.billing.bucket)
        return self._continue_stream(costs, target, accounting, buffered, items)

    def _continue_stream(
        self,
        costs: CostTracker,
        target: Target,
        accounting: CallAccounting,
        buffered: list[Chunk | Answer],
        items: Generator[Chunk | Answer],
    ) -> Generator[Chunk | Answer]:
        try:
            with closing(items):
                for item in chain(buffered, items):
                    if isinstance(item, Answer):
                        self._breakers.succeeded(costs.circuit(target), costs.billing.bucket)
                        accounting.complete(item)
                        item = costs.with_cost(item)
                    yield item
        except ProviderError as error:
            accounting.fail(error)
            _count(self._breakers, costs.circuit(target), costs.billing.bucket, error)
            self._tell_if_busy(target, costs, error)
            raise
        except BaseException as error:
            accounting.fail(error)
            raise

    def _tell_if_busy(self, target: Target, costs: CostTracker, error: ProviderError) -> None:
        """Batches are to keep away from a target that refuses calls of those who wait."""
        if isinstance(error, ProviderBusy) and costs.billing.batch is None:
            self._busy.report(target.name, error.retry_after)

    def _unavailable(self, route: Route, costs: CostTracker) -> ProvidersUnavailable:
        who = costs.billing.bucket
        seconds = min(
            self._breakers.opens_in(costs.circuit(target), who) for target in route.targets
        )
        return ProvidersUnavailable(
            "No provider of this model is available: all have failed repeatedly.",
            retry_after=max(1, math.ceil(seconds)),
        )


class _Tries:
    """The tries of one target by one request, of which its breaker learns once, at the end."""

    def __init__(self, breakers: Breakers, circuit: str, who: str) -> None:
        self._breakers = breakers
        self.circuit = circuit
        self._who = who
        self.begun = False
        self.failed: ProviderError | None = None
        self.told = False

    def allowed(self) -> bool:
        allowed = self._breakers.allows(self.circuit, self._who)
        self.begun = self.begun or allowed
        return allowed

    def succeeded(self) -> None:
        self.told = True
        self._breakers.succeeded(self.circuit, self._who)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        """Whatever ends the tries: the client may leave during a pause between two."""
        if self.told or not self.begun:
            return
        if self.failed:
            _count(self._breakers, self.circuit, self._who, self.failed)
        else:
            self._breakers.abandoned(self.circuit, self._who)


def _count(breakers: Breakers, circuit: str, who: str, error: ProviderError) -> None:
    """Report a request that failed to the circuit's breaker."""
    if error.counts:
        breakers.failed(circuit, who, error.retry_after, unreachable=error.unreachable)
    else:
        breakers.abandoned(circuit, who)


def _accounted(
    target: Target,
    costs: CostTracker,
    accounting: CallAccounting,
    call: Callable[[Target, CallAccounting], Result],
) -> Result:
    began = time.monotonic()
    try:
        with accounting.observer.current():
            return call(target, accounting)
    except BaseException as error:
        accounting.fail(error)
        raise
    finally:
        costs.waited += time.monotonic() - began


def _pause(
    retry: int, retry_after: float | None, deadline: float, costs: CostTracker | None = None
) -> bool:
    """Wait before the next attempt; False at once if that would take too long."""
    if retry_after is not None:
        seconds = retry_after
        if seconds > MAX_RETRY_AFTER:
            return False
    else:
        # Jitter: requests that failed together must not retry together.
        seconds = min(MAX_BACKOFF, INITIAL_BACKOFF * 2**retry) * random.uniform(0.5, 1.0)  # noqa: S311
    if time.monotonic() + seconds >= deadline:
        return False
    gevent.sleep(seconds)
    if costs:
        costs.waited += seconds
    return True
