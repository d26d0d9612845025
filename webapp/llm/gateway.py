"""The whole story of an answer on one page: cache, then one flight, then providers, then store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from webapp.errors import ModelNotAllowed, StoreUnavailable
from webapp.llm.attempts import Attempts
from webapp.llm.cache_key import cache_key
from webapp.llm.flight import Flight, Flights
from webapp.llm.kept import Kept, KeptStream, to_entry
from webapp.llm.live import LiveStream, Stream
from webapp.llm.messages import Answer, CacheState, ModelRequest, Piece, Reply
from webapp.llm.ports import AnswerCache, Ledger, Observer, Prices, Terms, TokenLimits
from webapp.llm.purchase import Purchase, Quote
from webapp.llm.routing import Route, Router

FOREVER = 1e9


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of a request: where it would go, what the cache would say, and whether
    it would join one that runs."""

    route: Route
    cache: CacheState
    would_coalesce: bool
    quote: Quote


class Gateway:
    """Answers requests. What it raises is a WeirError."""

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
    ) -> None:
        self.router = router
        self._cache = cache
        self._flights = flights
        self._attempts = attempts
        self._ledger = ledger
        self._prices = prices
        self._token_limits = token_limits
        self._observer = observer

    def answer(self, request: ModelRequest, terms: Terms) -> Reply:
        """The whole answer."""
        with closing(self.open(request, terms)) as stream:
            while True:
                part = stream.next(FOREVER)
                if isinstance(part, Reply):
                    return part

    def open(self, request: ModelRequest, terms: Terms) -> Stream:
        """The answer as it comes: its Origin, its pieces if it is a stream, the Reply."""
        route = self._resolve(request, terms)
        key = cache_key(request, route, terms.scope)
        kept = self._fresh(key, terms)
        if kept:
            return KeptStream(kept, CacheState.HIT, route.name, request.stream)
        if terms.only_cached:
            raise StoreUnavailable
        purchase = self._purchase(request, route, terms)
        span = self._observer.span("flight")

        def work(flight: Flight) -> Answer:
            # In the flight's own greenlet.
            with span.current():
                return self._fly(request, route, key, terms, purchase, flight)

        return LiveStream(
            request.stream,
            route.name,
            terms,
            join=lambda: self._flights.join(
                key if terms.read_cache else None, work, purchase.check
            ),
            stale=lambda: self._stale(key, terms),
            span=span,
        )

    def forecast(self, request: ModelRequest, terms: Terms) -> Forecast:
        """What open() would do, without doing it. Raises what it would raise at once."""
        route = self._resolve(request, terms)
        purchase = self._purchase(request, route, terms)
        key = cache_key(request, route, terms.scope)
        if self._fresh(key, terms):
            return Forecast(route, CacheState.HIT, False, purchase.quote)
        if terms.only_cached:
            raise StoreUnavailable
        purchase.check()
        joins = terms.read_cache and self._flights.is_running(key)
        return Forecast(route, terms.led, joins, purchase.quote)

    def _resolve(self, request: ModelRequest, terms: Terms) -> Route:
        route = self.router.resolve(request.model)
        if not terms.allows_model(*route.names):
            raise ModelNotAllowed(f"This key may not use {route.name}.")
        return route

    def _purchase(self, request: ModelRequest, route: Route, terms: Terms) -> Purchase:
        return Purchase(self._ledger, self._prices, self._observer, terms.payer, request, route)

    def _fly(
        self,
        request: ModelRequest,
        route: Route,
        key: str,
        terms: Terms,
        purchase: Purchase,
        flight: Flight,
    ) -> Answer:
        """Ask the providers, on behalf of all who listen to the flight, and keep the answer."""
        with self._tokens_held(purchase):
            if request.stream:
                answer = self._fly_streamed(route, terms, purchase, flight)
            else:
                success = self._attempts.answer(route, purchase, terms.deadline)
                flight.begin(success.target.provider.name, success.attempts, purchase.waited)
                answer = success.result
        if terms.write_cache and self._cache.ttl:
            pieces = [] if request.native else [piece.data for piece in flight.pieces]
            self._cache.put(key, to_entry(answer, pieces, native=request.native))
        return answer

    @contextmanager
    def _tokens_held(self, purchase: Purchase) -> Iterator[None]:
        """Around the calls of a purchase: their tokens count for the minute in which they began."""
        payer, quote = purchase.payer, purchase.quote
        if payer.tokens_per_minute is None:
            yield
            return
        ceiling, before = quote.input_tokens + quote.output_tokens, purchase.usage.total_tokens
        limit = payer.tokens_per_minute
        held = self._token_limits.reserve(payer.bucket, limit, ceiling, named=quote.named)
        try:
            yield
        finally:
            self._token_limits.settle(held, purchase.usage.total_tokens - before)

    def _fly_streamed(
        self, route: Route, terms: Terms, purchase: Purchase, flight: Flight
    ) -> Answer:
        success = self._attempts.stream(route, purchase, terms.deadline)
        flight.begin(success.target.provider.name, success.attempts, purchase.waited)
        with closing(success.result) as parts:
            for part in parts:
                if not isinstance(part, Piece):
                    return part
                flight.add(part)
        raise AssertionError("A provider's stream ends with its Answer, or raises.")

    def _fresh(self, key: str, terms: Terms) -> Kept | None:
        """The kept answer, if the terms let it be read and it is young enough."""
        return self._kept(key, terms, self._cache.ttl)

    def _stale(self, key: str, terms: Terms) -> Kept | None:
        """A kept answer that may stand in for providers that fail."""
        return self._kept(key, terms, max(self._cache.ttl, self._cache.stale_for))

    def _kept(self, key: str, terms: Terms, oldest: float) -> Kept | None:
        if not (terms.read_cache and self._cache.ttl):
            return None
        span = self._observer.span("cache")
        entry = self._cache.get(key)
        span.end(found=int(entry is not None))
        if entry is None:
            return None
        age = max(0.0, time.time() - entry["stored_at"])
        too_old = age > oldest or (terms.max_age is not None and age > terms.max_age)
        return None if too_old else Kept(entry, age)
