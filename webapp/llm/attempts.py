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
    ProviderError,
    ProviderFailed,
    ProvidersUnavailable,
    UnsupportedParameter,
)
from webapp.llm.messages import Answer, Piece
from webapp.llm.ports import Breakers
from webapp.llm.purchase import Bill, Purchase
from webapp.llm.routing import Route, Target

Result = TypeVar("Result")

FIRST_PAUSE = 0.5  # seconds; doubled with every further attempt, as OpenAI's own clients do
LONGEST_PAUSE = 8.0
# A provider that wants more patience than this is left for the next target at once.
LONGEST_RETRY_AFTER = 20


@dataclass(frozen=True, slots=True)
class Success(Generic[Result]):
    """What a target gave, and how many calls to providers it took."""

    result: Result
    target: Target
    attempts: int


class Attempts:
    """`retries` are those beside the first attempt, for each target."""

    def __init__(self, breakers: Breakers, retries: int) -> None:
        self._breakers = breakers
        self._retries = retries

    def answer(self, route: Route, purchase: Purchase, deadline: float) -> Success[Answer]:
        """A whole answer. Raises what the last target raised, or ProvidersUnavailable; and what
        Purchase.reserve() raises."""

        def call(target: Target, bill: Bill) -> Answer:
            answer = target.provider.answer(purchase.capped(target), target.model)
            bill.pay(answer)
            return purchase.with_cost(answer)

        return self._first_success(route, purchase, deadline, call)

    def stream(
        self, route: Route, purchase: Purchase, deadline: float
    ) -> Success[Generator[Piece | Answer]]:
        """A stream that has begun: its first content is there. Raises as answer().

        What fails later is raised by the stream itself, since no other target can go on with it.
        """

        def call(target: Target, bill: Bill) -> Generator[Piece | Answer]:
            return self._begun(purchase, target, bill)

        return self._first_success(route, purchase, deadline, call)

    def _first_success(
        self,
        route: Route,
        purchase: Purchase,
        deadline: float,
        call: Callable[[Target, Bill], Result],
    ) -> Success[Result]:
        made = 0
        failure: ProviderError | None = None
        for target in route.in_order():
            for retry in range(self._retries + 1):
                if not self._breakers.allows(target.name):
                    break
                made += 1
                try:
                    result = self._guarded(target, purchase, made, call)
                    return Success(result, target, made)
                except ModelNotFound as missing:
                    missing.attempts = made
                    if not route.named:
                        raise
                    # Not the client's mistake: it named a route, and that exists.
                    failure = ProviderFailed("A provider of this route has no such model.")
                    failure.attempts = made
                    break
                except ProviderError as error:
                    error.attempts = made
                    if not error.try_next:
                        raise
                    failure = error
                    if not (error.try_again and retry < self._retries):
                        break
                    if not _pause(retry, error.retry_after, deadline, purchase):
                        break
        raise failure or self._unavailable(route)

    def _guarded(
        self,
        target: Target,
        purchase: Purchase,
        number: int,
        call: Callable[[Target, Bill], Result],
    ) -> Result:
        """Call a target and tell its breaker what that says about it."""
        try:
            result = _billed(target, purchase, purchase.reserve(target, number), call)
        except ProviderError as error:
            if error.try_next:
                self._breakers.failed(target.name, error.retry_after)
            else:
                # It refused, so it is there.
                self._breakers.succeeded(target.name)
            raise
        except (ModelNotFound, UnsupportedParameter):
            self._breakers.succeeded(target.name)
            raise
        except BaseException:
            self._breakers.abandoned(target.name)
            raise
        self._breakers.succeeded(target.name)
        return result

    def _begun(self, purchase: Purchase, target: Target, bill: Bill) -> Generator[Piece | Answer]:
        """The stream of a target, once its first content is there."""
        parts = target.provider.stream(purchase.capped(target), target.model, bill.meter)
        held: list[Piece | Answer] = []
        for part in parts:
            held.append(part)
            if isinstance(part, Answer) or part.begins:
                break
        return self._rest(purchase, target, bill, held, parts)

    def _rest(
        self,
        purchase: Purchase,
        target: Target,
        bill: Bill,
        held: list[Piece | Answer],
        parts: Generator[Piece | Answer],
    ) -> Generator[Piece | Answer]:
        try:
            with closing(parts):
                for part in chain(held, parts):
                    if isinstance(part, Answer):
                        bill.pay(part)
                        part = purchase.with_cost(part)
                    yield part
        except ProviderError as error:
            bill.fail(error)
            self._breakers.failed(target.name, error.retry_after)
            raise
        except BaseException as error:
            bill.fail(error)
            raise

    def _unavailable(self, route: Route) -> ProvidersUnavailable:
        seconds = min(self._breakers.opens_in(target.name) for target in route.targets)
        return ProvidersUnavailable(
            "No provider of this model is available: all have failed repeatedly just now.",
            retry_after=max(1, math.ceil(seconds)),
        )


def _billed(
    target: Target, purchase: Purchase, bill: Bill, call: Callable[[Target, Bill], Result]
) -> Result:
    began = time.monotonic()
    try:
        with bill.watch.current():
            return call(target, bill)
    except BaseException as error:
        bill.fail(error)
        raise
    finally:
        purchase.waited += time.monotonic() - began


def _pause(retry: int, retry_after: int | None, deadline: float, purchase: Purchase) -> bool:
    """Wait before the next attempt; False, at once, where that would take too long."""
    if retry_after is not None:
        seconds = float(retry_after)
        if seconds > LONGEST_RETRY_AFTER:
            return False
    else:
        # Jitter: those who failed together must not come back together.
        seconds = min(LONGEST_PAUSE, FIRST_PAUSE * 2**retry) * random.uniform(0.5, 1.0)  # noqa: S311
    if time.monotonic() + seconds >= deadline:
        return False
    gevent.sleep(seconds)
    purchase.waited += seconds
    return True
