"""Cost tracking of a request's provider calls: a ceiling before, reserved, settled after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from webapp import money
from webapp.errors import ProviderError, WeirError
from webapp.llm.calls import BillingContext, CallState, ProviderCall, Settlement
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.llm.ports import CallObserver, Ledger, Observer, Price, Prices
from webapp.llm.routing import Route, Target
from webapp.llm.stream_usage import StreamUsage
from webapp.llm.tokens import input_bound

# Output tokens of a model whose maximum is not known.
DEFAULT_MAX_OUTPUT_TOKENS = 16_384


@dataclass(frozen=True, slots=True)
class CostCeiling:
    """The most that a call of a request can use; `nano` is its cost at the most expensive target.

    `nano` is None where a target, `unpriced`, has no price.
    """

    input_tokens: int
    output_tokens: int
    nano: int | None
    unpriced: str | None = None
    choices: int = 1
    named: bool = False
    """Whether the client itself limited the output tokens."""


def cost_ceiling(request: ModelRequest, route: Route, prices: Prices) -> CostCeiling:
    """The ceiling of one call: the whole input and the longest possible output."""
    bound = input_bound(request.body)
    named = requested_max_tokens(request.body)
    choices = request.body.get("n")
    choices = choices if isinstance(choices, int) and choices > 0 else 1
    most, nano, unpriced = 0, 0, None
    for target in route.targets:
        price = price_of(target, prices)
        output = 0
        if request.operation == "chat/completions":
            output = choices * (named or _maximum(price))
        most = max(most, output)
        if price is None:
            unpriced = unpriced or target.name
        else:
            nano = max(nano, price.cost(Usage(bound, output)))
    return CostCeiling(
        bound, most, None if unpriced else nano, unpriced, choices, named is not None
    )


def price_of(target: Target, prices: Prices) -> Price | None:
    return prices.of(target.provider.name, target.provider.kind, target.model)


def requested_max_tokens(body: Mapping[str, Any]) -> int | None:
    """The client's own limit on output tokens, if it set one."""
    named = body.get("max_completion_tokens") or body.get("max_tokens")
    return named if isinstance(named, int) and named > 0 else None


def _maximum(price: Price | None) -> int:
    return (price and price.max_output) or DEFAULT_MAX_OUTPUT_TOKENS


class CostTracker:
    """Tracks the cost of all provider calls of one request.

    `waited` is the total time, in seconds, spent only waiting for providers.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Prices,
        observer: Observer,
        billing: BillingContext,
        request: ModelRequest,
        route: Route,
    ) -> None:
        self.billing = billing
        self.usage = Usage(0, 0)
        self.waited = 0.0
        self._ledger = ledger
        self._prices = prices
        self._observer = observer
        self._request = request
        self._route = route
        self._nano: int | None = 0

    @cached_property
    def ceiling(self) -> CostCeiling:
        return cost_ceiling(self._request, self._route, self._prices)

    def circuit(self, target: Target) -> str:
        """The name of the circuit that a call to this target belongs to."""
        operation = self._request.operation
        return target.name if operation == "chat/completions" else f"{target.name} {operation}"

    def check(self) -> None:
        """Raise the error that would refuse such a call in any case."""
        if self.billing.has_budget:
            self._ledger.check(self.billing, self.ceiling.nano, self.ceiling.unpriced)

    def reserve(self, target: Target, attempt: int) -> CallAccounting:
        """Reserve the ceiling of a call, and return the call's accounting.

        Raises BudgetExceeded, BudgetReserved, ModelNotPriced and StoreUnavailable.
        """
        call = ProviderCall(
            self.billing,
            route=self._route.name,
            provider=target.provider.name,
            model=target.model,
            attempt=attempt,
            input_tokens=self.ceiling.input_tokens,
            output_tokens=self.ceiling.output_tokens,
            nano=self.ceiling.nano,
            unpriced=self.ceiling.unpriced,
        )
        call_id = self._ledger.reserve(call)
        observer = self._observer.call(call, self._request.operation, target.provider.kind)
        return CallAccounting(self, self._ledger, call_id, price_of(target, self._prices), observer)

    def capped(self, target: Target) -> ModelRequest:
        """The request with the model's maximum set, where the client set none and it fits."""
        price = price_of(target, self._prices)
        if price is None or self.ceiling.named or self._request.operation != "chat/completions":
            return self._request
        cap, context = price.max_output, price.context
        if cap is None or (context is not None and self.ceiling.input_tokens + cap > context):
            return self._request
        return replace(self._request, output_cap=cap)

    def with_cost(self, answer: Answer) -> Answer:
        """The answer with the cost of all calls so far."""
        return replace(answer, cost_usd=money.to_usd(self._nano))

    def add(self, usage: Usage, nano: int | None) -> None:
        self.usage += usage
        self._nano = None if nano is None or self._nano is None else self._nano + nano


class CallAccounting:
    """One call to a provider: reserved, and settled once, by complete() or else by fail()."""

    def __init__(
        self,
        costs: CostTracker,
        ledger: Ledger,
        call_id: int,
        price: Price | None,
        observer: CallObserver,
    ) -> None:
        self.stream_usage = StreamUsage(observer.chunk)
        self.observer = observer
        self._costs = costs
        self._ledger = ledger
        self._call_id = call_id
        self._price = price
        self._settled = False

    def complete(self, answer: Answer) -> None:
        """The call ended with this answer."""
        self._settle(CallState.SETTLED, answer.usage, None, answer.model)

    def fail(self, error: BaseException) -> None:
        """The call failed: settle what it may have cost (docs/money.md)."""
        known = isinstance(error, WeirError)
        name = error.name if isinstance(error, WeirError) else None
        broken = CallState.CUT if known else CallState.CANCELLED
        stream_usage = self.stream_usage
        if stream_usage.usage is not None:
            self._settle(broken, stream_usage.usage, name)
        elif stream_usage.has_begun:
            counted = stream_usage.tokens if known else stream_usage.tokens_when_cancelled
            hidden_tokens = (
                stream_usage.hidden_tokens if self._price and self._price.reasoning else 0
            )
            self._settle(broken, self._capped_usage(counted + hidden_tokens), name)
        elif not known:
            self._settle(
                broken,
                self._capped_usage(self._costs.ceiling.choices * stream_usage.unseen_tokens),
                name,
            )
        elif isinstance(error, ProviderError) and error.may_be_charged:
            self._settle(broken, self._capped_usage(self._costs.ceiling.output_tokens), name)
        else:
            self._settle(CallState.FAILED, Usage(0, 0), name)

    def _capped_usage(self, output: int) -> Usage:
        ceiling = self._costs.ceiling
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
        self._costs.add(usage, nano)
        settlement = Settlement(state, usage, nano, error)
        self._ledger.settle(self._call_id, settlement)
        self.observer.finished(settlement, model)
