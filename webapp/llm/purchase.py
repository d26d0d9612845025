"""What the calls of a request cost: quoted before, reserved in the ledger, settled after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from webapp import money
from webapp.errors import ProviderError, WeirError
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.llm.meter import Meter
from webapp.llm.ports import (
    Call,
    CallState,
    CallWatch,
    Ledger,
    Observer,
    Payer,
    Price,
    Prices,
    Settlement,
)
from webapp.llm.routing import Route, Target
from webapp.llm.tokens import input_bound

# Output tokens of a model whose maximum nobody has stated.
UNKNOWN_MAXIMUM = 16_384


@dataclass(frozen=True, slots=True)
class Quote:
    """The most that a call of a request can use; `nano` is what that costs at the dearest target.

    `nano` is None where a target, `unpriced`, has no price.
    """

    input_tokens: int
    output_tokens: int
    nano: int | None
    unpriced: str | None = None
    choices: int = 1
    named: bool = False
    """Whether the client itself named the most that it wants to get."""


def quote(request: ModelRequest, route: Route, prices: Prices) -> Quote:
    """The ceiling of one call: all of the input, and all that may come back."""
    bound = input_bound(request.body)
    named = named_maximum(request.body)
    choices = request.body.get("n")
    choices = choices if isinstance(choices, int) and choices > 0 else 1
    most, nano, unpriced = 0, 0, None
    for target in route.targets:
        price = price_of(target, prices)
        output = 0
        if request.call == "chat/completions":
            output = choices * (named or _maximum(price))
        most = max(most, output)
        if price is None:
            unpriced = unpriced or target.name
        else:
            nano = max(nano, price.cost(Usage(bound, output)))
    return Quote(bound, most, None if unpriced else nano, unpriced, choices, named is not None)


def price_of(target: Target, prices: Prices) -> Price | None:
    return prices.of(target.provider.name, target.provider.kind, target.model)


def named_maximum(body: Mapping[str, Any]) -> int | None:
    """How many output tokens the client wants at most, if it says so."""
    named = body.get("max_completion_tokens") or body.get("max_tokens")
    return named if isinstance(named, int) and named > 0 else None


def _maximum(price: Price | None) -> int:
    return (price and price.max_output) or UNKNOWN_MAXIMUM


class Purchase:
    """All calls that one request leads to, on behalf of who pays for them.

    `waited` sums up the seconds in which nothing was done but wait for providers.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Prices,
        observer: Observer,
        payer: Payer,
        request: ModelRequest,
        route: Route,
    ) -> None:
        self.payer = payer
        self.usage = Usage(0, 0)
        self.waited = 0.0
        self._ledger = ledger
        self._prices = prices
        self._observer = observer
        self._request = request
        self._route = route
        self._nano: int | None = 0

    @cached_property
    def quote(self) -> Quote:
        return quote(self._request, self._route, self._prices)

    def check(self) -> None:
        """Raise what would stop the payer from making such a call at all."""
        if self.payer.has_budget:
            self._ledger.check(self.payer, self.quote.nano, self.quote.unpriced)

    def reserve(self, target: Target, attempt: int) -> Bill:
        """The bill of a call that may be made now.

        Raises BudgetExceeded, BudgetReserved, ModelNotPriced and StoreUnavailable.
        """
        call = Call(
            self.payer,
            route=self._route.name,
            provider=target.provider.name,
            model=target.model,
            attempt=attempt,
            input_tokens=self.quote.input_tokens,
            output_tokens=self.quote.output_tokens,
            nano=self.quote.nano,
            unpriced=self.quote.unpriced,
        )
        call_id = self._ledger.reserve(call)
        watch = self._observer.call(call, self._request.call, target.provider.kind)
        return Bill(self, self._ledger, call_id, price_of(target, self._prices), watch)

    def capped(self, target: Target) -> ModelRequest:
        """The request with the model's maximum said, where the client said none and it fits."""
        price = price_of(target, self._prices)
        if price is None or self.quote.named or self._request.call != "chat/completions":
            return self._request
        cap, context = price.max_output, price.context
        if cap is None or (context is not None and self.quote.input_tokens + cap > context):
            return self._request
        return replace(self._request, output_cap=cap)

    def with_cost(self, answer: Answer) -> Answer:
        """The answer with what all calls up to it have cost."""
        return replace(answer, cost_usd=money.to_usd(self._nano))

    def add(self, usage: Usage, nano: int | None) -> None:
        self.usage += usage
        self._nano = None if nano is None or self._nano is None else self._nano + nano


class Bill:
    """One call to a provider: reserved, and settled once, by pay() or else by fail()."""

    def __init__(
        self,
        purchase: Purchase,
        ledger: Ledger,
        call_id: int,
        price: Price | None,
        watch: CallWatch,
    ) -> None:
        self.meter = Meter(watch.chunk)
        self.watch = watch
        self._purchase = purchase
        self._ledger = ledger
        self._call_id = call_id
        self._price = price
        self._settled = False

    def pay(self, answer: Answer) -> None:
        """The call came to its end, with this answer."""
        self._settle(CallState.SETTLED, answer.usage, None, answer.model)

    def fail(self, error: BaseException) -> None:
        """The call came to no good end: settle what it may have cost (docs/money.md)."""
        known = isinstance(error, WeirError)
        name = error.name if isinstance(error, WeirError) else None
        broken = CallState.CUT if known else CallState.CANCELLED
        meter = self.meter
        if meter.usage is not None:
            self._settle(broken, meter.usage, name)
        elif meter.has_begun:
            counted = meter.tokens if known else meter.tokens_when_left
            hidden = meter.hidden if self._price and self._price.reasoning else 0
            self._settle(broken, self._at_most(counted + hidden), name)
        elif not known:
            self._settle(broken, self._at_most(self._purchase.quote.choices * meter.unseen), name)
        elif isinstance(error, ProviderError) and error.may_be_charged:
            self._settle(broken, self._at_most(self._purchase.quote.output_tokens), name)
        else:
            self._settle(CallState.FAILED, Usage(0, 0), name)

    def _at_most(self, output: int) -> Usage:
        ceiling = self._purchase.quote
        most = min(output, ceiling.output_tokens)
        return Usage(ceiling.input_tokens, most, estimated=True)

    def _settle(
        self, state: CallState, usage: Usage, error: str | None, model: str | None = None
    ) -> None:
        if self._settled:
            return
        self._settled = True
        nano = self._price.cost(usage) if self._price else None
        if state is CallState.FAILED:
            nano = 0
        self._purchase.add(usage, nano)
        settlement = Settlement(state, usage, nano, error)
        self._ledger.settle(self._call_id, settlement)
        self.watch.over(settlement, model)
