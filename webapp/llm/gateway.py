"""How a request is answered: cache lookup, then one shared flight, then providers, then store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from webapp.errors import (
    ModelNotAllowed,
    NotFound,
    ProviderError,
    StoreUnavailable,
    UnsupportedParameter,
    ValidationError,
)
from webapp.llm.accounting import AnsweredTiers, CostTracker
from webapp.llm.affinity import conversation_of
from webapp.llm.attempts import Attempts, Success
from webapp.llm.cache_key import cache_key
from webapp.llm.cached import CachedAnswer, CachedStream, to_entry
from webapp.llm.calls import BillingContext, CacheUse, CallOptions
from webapp.llm.cost_ceiling import CostCeiling
from webapp.llm.flight import Flight, Flights
from webapp.llm.messages import Answer, CacheState, Chunk, FinalAnswer, ModelRequest, Operation
from webapp.llm.ports import AnswerCache, Ledger, Observer, Prices, ResponseIds, TokenLimits
from webapp.llm.routing import Route, Router, Target
from webapp.llm.subscription import FlightSubscription, Stream
from webapp.llm.tokens import estimate_messages_tokens
from webapp.threads import run_in_thread

NO_TIMEOUT = 1e9  # seconds; the options' deadline ends the wait


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a request would be handled: its route, the state of the cache, and whether it would
    join a running flight."""

    route: Route
    cache: CacheState
    would_coalesce: bool
    ceiling: CostCeiling


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of a request: `body` is what `provider` answered, else they are estimated."""

    route: str
    provider: str = ""
    body: str = ""
    estimated_tokens: int = 0


class Gateway:
    """Answers requests. Raises only WeirError."""

    def __init__(
        self,
        router: Router,
        cache: AnswerCache,
        flights: Flights,
        attempts: Attempts,
        ledger: Ledger,
        prices: Prices,
        token_limits: TokenLimits,
        observer: Observer,
        responses: ResponseIds,
    ) -> None:
        self.router = router
        self._cache = cache
        self._flights = flights
        self._attempts = attempts
        self._ledger = ledger
        self._prices = prices
        self._token_limits = token_limits
        self._observer = observer
        self._responses = responses
        self._answered_tiers = AnsweredTiers()

    def answer(self, request: ModelRequest, options: CallOptions) -> FinalAnswer:
        """The whole answer."""
        with closing(self.open(request, options)) as stream:
            while True:
                event = stream.next(NO_TIMEOUT)
                if isinstance(event, FinalAnswer):
                    return event

    def open(self, request: ModelRequest, options: CallOptions) -> Stream:
        """The answer as a stream of events: AnswerMetadata, Chunks if streamed, FinalAnswer."""
        options = _for(request, options)
        route = self._resolve(request, options)
        key = cache_key(request, route, options.cache.scope)
        cached = self._fresh(key, options)
        if cached:
            return CachedStream(cached, CacheState.HIT, route.name, request.stream)
        if options.only_cached:
            raise StoreUnavailable
        costs = self._costs(request, route, options)
        span = self._observer.span("flight")

        def work(flight: Flight) -> Answer:
            # In the flight's own greenlet.
            try:
                with span.current():
                    return self._fly(request, route, key, options, costs, flight)
            finally:
                flight.target = costs.target

        return FlightSubscription(
            request.stream,
            route.name,
            options,
            join=lambda: self._flights.join(key if options.cache.read else None, work, costs.check),
            stale=lambda: self._stale(key, options),
            span=span,
        )

    def forecast(self, request: ModelRequest, options: CallOptions) -> Forecast:
        """What open() would do, without doing it. Raises the errors that open() raises."""
        options = _for(request, options)
        route = self._resolve(request, options)
        costs = self._costs(request, route, options)
        key = cache_key(request, route, options.cache.scope)
        if self._fresh(key, options):
            return Forecast(route, CacheState.HIT, would_coalesce=False, ceiling=costs.ceiling)
        if options.only_cached:
            raise StoreUnavailable
        costs.check()
        joins = options.cache.read and self._flights.is_running(key)
        return Forecast(route, options.uncached_state, joins, costs.ceiling)

    def count_tokens(self, request: ModelRequest, options: CallOptions) -> TokenCount:
        """The tokens of a request, as the first target of its route counts them.

        Estimated where that one does not count. A provider that fails is not replaced by an
        estimate, but by the next target.
        """
        route = self._resolve(request, options)
        if options.only_cached:
            raise StoreUnavailable
        failure: ProviderError | None = None
        for target in _for_conversation(route, request, options).targets:
            options.routed(target.provider.name, target.model)
            try:
                body = target.provider.count_tokens(request, target.model)
            except ProviderError as error:
                if not error.try_next:
                    raise
                failure = error
                continue
            if body is None:
                tokens = run_in_thread(lambda: estimate_messages_tokens(request.body))
                return TokenCount(route.name, estimated_tokens=tokens)
            return TokenCount(route.name, target.provider.name, body)
        assert failure
        raise failure

    def stored_response(
        self, method: str, response_id: str, path: str, options: CallOptions
    ) -> tuple[str, str]:
        """Name and answer of the provider that keeps a response, to a call of this path below
        `/responses`. Raises NotFound where this key has no such response."""
        if options.only_cached:
            raise StoreUnavailable
        name, model = self._responses.target_of(response_id, options.billing.key_id)
        provider = self.router.provider(name)
        if provider is None:
            raise NotFound(f"Provider {name!r} of this response is not configured any more.")
        options.routed(name, model)
        body = self._attempts.repeated(
            lambda: provider.stored_response(method, path), options.deadline
        )
        if method == "DELETE":
            with suppress(StoreUnavailable):  # then the provider says that it is gone
                self._responses.forget(response_id, options.billing.key_id)
        return name, body

    def check_model(self, model: str | None, allows_model: Callable[..., bool]) -> Route:
        """The route of a model. Raises ModelNotFound and ModelNotAllowed."""
        route = self.router.resolve(model)
        _check_allowed(route, allows_model)
        return route

    def costs_at(
        self, request: ModelRequest, route: Route, billing: BillingContext, tier: str
    ) -> CostTracker:
        """What a request costs that is not answered here, but served at this tier for certain.
        Raises ValidationError."""
        return CostTracker(
            self._ledger, self._prices, self._observer, billing, request, route,
            self._answered_tiers, tier=tier,
        )  # fmt: skip

    def _resolve(self, request: ModelRequest, options: CallOptions) -> Route:
        model = request.model or (self.router.summary_model if request.source else None)
        route = self.router.resolve(model, request.operation)
        first = route.targets[0]
        options.routed(first.provider.name, first.model)
        _check_allowed(route, options.allows_model)
        return self._pinned(_able(route, request.operation), request, options)

    def _pinned(self, route: Route, request: ModelRequest, options: CallOptions) -> Route:
        """The route, with no target but the one that keeps the response that is gone on from."""
        previous = request.body.get("previous_response_id")
        if request.operation != "responses" or not previous:
            return route
        spoken = [target.provider.operations_of(target.model) for target in route.targets]
        if not any("responses" in formats for formats in spoken):
            return route  # all of them refuse it, by its name
        try:
            name, model = self._responses.target_of(previous, options.billing.key_id)
        except NotFound:
            raise NotFound(
                f"Previous response with id {previous!r} not found.",
                details={"param": "previous_response_id", "code": "previous_response_not_found"},
            ) from None
        held = [target for target in route.targets if target.provider.name == name]
        if not held:
            reason = f"Model {route.name!r} has no target at the provider of that response."
            raise ValidationError(
                f"previous_response_id: {reason}", details={"previous_response_id": [reason]}
            )
        same = [target for target in held if target.model == model]
        return replace(route, targets=((same or held)[0],))

    def _costs(self, request: ModelRequest, route: Route, options: CallOptions) -> CostTracker:
        return CostTracker(
            self._ledger,
            self._prices,
            self._observer,
            options.billing,
            request,
            route,
            self._answered_tiers,
            options.routed,
            options.failed,
        )

    def _fly(
        self,
        request: ModelRequest,
        route: Route,
        key: str,
        options: CallOptions,
        costs: CostTracker,
        flight: Flight,
    ) -> Answer:
        """Call the providers on behalf of all listeners of the flight, and store the answer."""
        route = _for_conversation(route, request, options)
        with self._tokens_reserved(costs):
            if request.stream:
                answer = self._fly_streamed(route, options, costs, flight)
            else:
                success = self._attempts.answer(route, costs, options.deadline)
                answer = success.result
                self._remember(answer.stored_id, success.target, options)
                flight.begin(*_began(success, costs))
        if options.cache.write and self._cache.ttl and not route.stands_in(costs.target):
            chunks = [] if request.native else [chunk.data for chunk in flight.chunks]
            self._cache.put(key, to_entry(answer, flight.model, chunks, native=request.native))
        return answer

    @contextmanager
    def _tokens_reserved(self, costs: CostTracker) -> Iterator[None]:
        """Reserve the tokens of a request's calls; they count for the minute of the start."""
        billing, ceiling = costs.billing, costs.ceiling
        if billing.tokens_per_minute is None:
            yield
            return
        most, before = ceiling.likely_tokens, costs.total_tokens
        limit = billing.tokens_per_minute
        reservation = self._token_limits.reserve(billing.bucket, limit, most, named=ceiling.named)
        try:
            yield
        finally:
            self._token_limits.settle(reservation, costs.total_tokens - before)

    def _fly_streamed(
        self, route: Route, options: CallOptions, costs: CostTracker, flight: Flight
    ) -> Answer:
        success = self._attempts.stream(route, costs, options.deadline)
        flight.begin(*_began(success, costs))
        with closing(success.result) as items:
            for event in items:
                if not isinstance(event, Chunk):
                    return event
                self._remember(event.stored_id, success.target, options)
                flight.add(event)
        raise AssertionError("A provider's stream ends with its Answer, or raises.")

    def _remember(self, stored_id: str | None, target: Target, options: CallOptions) -> None:
        """Whose a response is, before its id is sent."""
        if stored_id:
            key_id = options.billing.key_id
            self._responses.remember(stored_id, key_id, target.provider.name, target.model)

    def _fresh(self, key: str, options: CallOptions) -> CachedAnswer | None:
        """The cached answer, if the options allow reading it and it is fresh."""
        return self._cached(key, options, self._cache.ttl)

    def _stale(self, key: str, options: CallOptions) -> CachedAnswer | None:
        """A cached answer to use when all providers fail."""
        return self._cached(key, options, max(self._cache.ttl, self._cache.stale_for))

    def _cached(self, key: str, options: CallOptions, oldest: float) -> CachedAnswer | None:
        if not (options.cache.read and self._cache.ttl):
            return None
        span = self._observer.span("cache")
        entry = self._cache.get(key)
        span.end(found=int(entry is not None))
        if entry is None:
            return None
        age = max(0.0, time.time() - entry["stored_at"])
        too_old = age > oldest or (
            options.cache.max_age is not None and age > options.cache.max_age
        )
        return None if too_old else CachedAnswer(entry, age)


def _for(request: ModelRequest, options: CallOptions) -> CallOptions:
    """The options, without the cache and flights for an answer that holds for no other request."""
    if request.cacheable:
        return options
    return replace(options, cache=CacheUse(options.cache.scope, read=False, write=False))


def _for_conversation(route: Route, request: ModelRequest, options: CallOptions) -> Route:
    """The route with its targets in the order of the request's conversation."""
    if not route.is_weighted:
        return route
    key_id = options.billing.key_id
    return route.in_order(conversation_of(request, key_id, options.session))


def _able(route: Route, operation: Operation) -> Route:
    """The route without the targets that can answer no request of this operation. Refused here, it
    is no call of theirs. Raises UnsupportedParameter where none is left."""
    refusals = [target.provider.refusal(operation) for target in route.targets]
    if not any(refusals):
        return route
    able = [target for target, no in zip(route.targets, refusals, strict=True) if not no]
    if not able:
        raise UnsupportedParameter("model", refusals[0])
    return replace(route, targets=tuple(able))


def _check_allowed(route: Route, allows_model: Callable[..., bool]) -> None:
    if not allows_model(*route.names):
        raise ModelNotAllowed(f"This API key is not allowed to use model {route.name!r}.")


def _began(success: Success[Any], costs: CostTracker) -> tuple[str, int, str, float]:
    """What a flight is told when its provider has begun to answer."""
    target = success.target
    return target.provider.name, success.attempts, target.model, costs.waited
