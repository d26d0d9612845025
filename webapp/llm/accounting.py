"""Cost tracking of a request's provider calls: a ceiling before, reserved, settled after."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property

from webapp import money
from webapp.errors import ProviderError, WeirError
from webapp.llm.calls import BillingContext, CallState, ProviderCall, Settlement
from webapp.llm.cost_ceiling import (
    NAMED_TIERS,
    STANDARD,
    UNKNOWN_TIER,
    CostCeiling,
    Demand,
    TargetCosts,
    check_numbers,
)
from webapp.llm.messages import Answer, ModelRequest, Usage
from webapp.llm.ports import CallObserver, Ledger, Observer, Price, Prices
from webapp.llm.routing import Route, Target, circuit_name
from webapp.llm.stream_usage import StreamUsage, unseen_tokens
from webapp.llm.tokens import byte_length, estimate_input_tokens
from webapp.threads import run_in_thread

# Lengths of the ledger's columns.
MAX_MODEL_LENGTH = 256
MAX_MESSAGE_LENGTH = 1000
MAX_TARGETS = 10_000
MOST_BYTES_PER_TOKEN = 32  # of ordinary texts
MAX_NANO = 10**15  # of one call: the ledger's columns must hold the sums of many


class AnsweredTiers:
    """The service tiers at which targets of this process answered requests that named none."""

    def __init__(self) -> None:
        self._tiers: dict[str, set[str]] = {}

    def of(self, target: Target) -> Collection[str]:
        return self._tiers.get(target.name, ())

    def add(self, target: Target, tier: str, price: Price) -> None:
        if tier == STANDARD or not price.has_rates({tier}):
            return
        if len(self._tiers) >= MAX_TARGETS:
            self._tiers.clear()
        known = tier if tier in price.tiers | NAMED_TIERS else UNKNOWN_TIER
        self._tiers.setdefault(target.name, set()).add(known)


class CostTracker:
    """Tracks the cost of all provider calls of one request.

    `waited` is the total time, in seconds, spent only waiting for providers; `total_tokens` are
    those of all calls; `target` are the provider and model that were tried last. `routed` is told
    of each, `failed` of each call that failed. `tier` is the service tier of all calls, where it is
    certain. Raises ValidationError for numbers whose meaning for the cost is not certain.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Prices,
        observer: Observer,
        billing: BillingContext,
        request: ModelRequest,
        route: Route,
        answered_tiers: AnsweredTiers,
        routed: Callable[[str, str], object] = lambda *_: None,
        failed: Callable[[str, Settlement], object] = lambda *_: None,
        tier: str | None = None,
    ) -> None:
        limited = billing.has_budget or billing.tokens_per_minute is not None
        check_numbers(request, strictly=limited)
        self.billing = billing
        self.total_tokens = 0
        self.settled_usage: Usage | None = None
        self.waited = 0.0
        self.answered_tiers = answered_tiers
        self.demand = Demand(request)
        self.target: tuple[str, str] | None = None
        self.redact = observer.redact
        self.failed = failed
        self._ledger = ledger
        self._prices = prices
        self._observer = observer
        self._request = request
        self._route = route
        self._routed = routed
        self._tier = tier
        self._targets: dict[str, TargetCosts] = {}
        self._nano: int | None = 0

    @cached_property
    def ceiling(self) -> CostCeiling:
        """The ceiling of one call, at whatever target of the route."""
        targets = [self.of(target) for target in self._route.targets]
        unpriced = next((costs.unpriced for costs in targets if costs.unpriced), None)
        nano = max(costs.nano or 0 for costs in targets)
        return CostCeiling(
            max(costs.input_tokens for costs in targets),
            max(costs.output_tokens for costs in targets),
            None if unpriced else min(nano, MAX_NANO),
            unpriced,
            named=self.demand.named_max_output is not None,
            hidden_tokens=min(costs.hidden_tokens for costs in targets),
        )

    def of(self, target: Target) -> TargetCosts:
        """The costs of calls to a target."""
        costs = self._targets.get(target.name)
        if costs is None:
            price = self._prices.of(target.provider.name, target.provider.kind, target.model)
            answered = self.answered_tiers.of(target)
            costs = TargetCosts(self.demand, target, price, answered, self._tier)
            self._targets[target.name] = costs
        return costs

    def circuit(self, target: Target) -> str:
        """The name of the circuit that a call to this target belongs to."""
        return circuit_name(target.name, self._request.operation)

    def check(self) -> None:
        """Raise the error that would refuse such a call in any case."""
        if self.billing.has_budget:
            self._ledger.check(self.billing, self.ceiling.nano, self.ceiling.unpriced)

    def reserve(self, target: Target, attempt: int) -> CallAccounting:
        """Reserve the ceiling of a call, and return the call's accounting.

        Raises BudgetExceeded, BudgetReserved, SessionLimitExceeded, ModelNotPriced and
        StoreUnavailable.
        """
        self.target = target.provider.name, target.model
        self._routed(*self.target)
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
        return CallAccounting(self, self._ledger, call_id, target, observer)

    def capped(self, target: Target) -> ModelRequest:
        """The request with a limit on its output, where the client set none.

        It is the model's maximum, if that is known and fits. Where a budget depends on the limit,
        there always is one.
        """
        request, costs = self._request, self.of(target)
        if not self.demand.generates or costs.price is None:
            return request
        needed = self.billing.has_budget and costs.output_is_charged
        if self.demand.limits_output:
            if most := self._most_of_messages(costs):
                request = replace(request, output_cap=most)
            return replace(request, output_cap_needed=True) if needed else request
        cap = costs.max_output if needed else costs.price.max_output
        context = costs.price.context
        if cap is not None and context is not None and costs.input_tokens + cap > context:
            if not needed:
                return request
            # Long texts would stall the event loop.
            room = context - run_in_thread(lambda: estimate_input_tokens(request.body))
            cap = max(1, min(cap, room))
        if cap is None:
            return request
        return replace(request, output_cap=cap, output_cap_needed=needed)

    def _most_of_messages(self, costs: TargetCosts) -> int | None:
        """The model's maximum, where Messages limit the output to more: their limit is one for a
        Claude, and another maker's model may refuse it."""
        named, most = self.demand.named_max_output, costs.price.max_output if costs.price else None
        if self._request.operation != "messages" or not named or not most:
            return None
        return most if named > most else None

    def with_cost(self, answer: Answer) -> Answer:
        """The answer with its usage as it was settled, and the cost of all calls so far."""
        usage = self.settled_usage or answer.usage
        return answer.with_totals(usage, money.to_usd(self._nano))

    def add(self, usage: Usage, nano: int | None) -> None:
        self.total_tokens += usage.total_tokens
        self._nano = None if nano is None or self._nano is None else self._nano + nano


class CallAccounting:
    """One call to a provider: reserved, and settled once, by complete() or else by fail()."""

    def __init__(
        self,
        tracker: CostTracker,
        ledger: Ledger,
        call_id: int,
        target: Target,
        observer: CallObserver,
    ) -> None:
        self.stream_usage = StreamUsage(observer.chunk)
        self.observer = observer
        self._tracker = tracker
        self._ledger = ledger
        self._call_id = call_id
        self._target = target
        self._costs = tracker.of(target)
        self._settled = False

    def complete(self, answer: Answer) -> None:
        """The call ended with this answer."""
        usage = answer.usage
        if usage.estimated:
            usage = self._completed(usage)
        tier, costs = usage.service_tier, self._costs
        if tier and costs.price and self._tracker.demand.service_tier is None:
            self._tracker.answered_tiers.add(self._target, tier, costs.price)
        self._tracker.settled_usage = usage
        self._settle(CallState.SETTLED, usage, model=answer.model)

    def fail(self, error: BaseException) -> None:
        """The call failed: settle what it may have cost (docs/money.md)."""
        known = isinstance(error, WeirError)
        broken = CallState.CUT if known else CallState.CANCELLED
        stream_usage = self.stream_usage
        told = error if isinstance(error, ProviderError) else ProviderError()
        choices = self._tracker.demand.choices
        reported: Usage | None = stream_usage.usage or told.usage
        if (
            reported
            and not reported.estimated
            and (reported.output_tokens or not stream_usage.tokens)
        ):
            self._settle(broken, reported, error)
        elif told.lost_send_seconds is not None:
            output = choices * unseen_tokens(told.lost_send_seconds)
            self._settle(broken, self._estimate(output), error)
        elif stream_usage.tokens or (
            stream_usage.has_begun and (told.may_be_charged or told is not error)
        ):
            counted = stream_usage.tokens if known else stream_usage.tokens_when_cancelled
            hidden_tokens = stream_usage.hidden_tokens if self._may_reason else 0
            self._settle(broken, self._estimate(counted + hidden_tokens), error)
        elif not known:
            self._settle(broken, self._estimate(choices * stream_usage.unseen_tokens), error)
        elif told.may_be_charged:
            self._settle(broken, self._estimate(self._costs.output_tokens), error)
        else:
            self._settle(CallState.FAILED, Usage(0, 0), error)

    def _completed(self, usage: Usage) -> Usage:
        """Usage of which a half was counted, and with it what only the provider saw."""
        input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
        if not usage.input_reported:
            most = self._costs.input_tokens
            input_tokens = min(input_tokens, most) if self._costs.input.is_bounded else most
        if not usage.output_reported:
            hidden_tokens = self.stream_usage.hidden_tokens if self._may_reason else 0
            output_tokens = self._at_most_the_ceiling(output_tokens + hidden_tokens)
        return replace(usage, input_tokens=input_tokens, output_tokens=output_tokens)

    @property
    def _may_reason(self) -> bool:
        return bool(self._costs.price and self._costs.price.reasoning)

    def _estimate(self, output_tokens: int) -> Usage:
        most = self._at_most_the_ceiling(output_tokens)
        told = self.stream_usage.input()
        if told and self._is_all_input(told):
            return replace(told, output_tokens=most, output_reported=False)
        return Usage(self._costs.input_tokens, most, estimated=True)

    def _is_all_input(self, told: Usage) -> bool:
        """Whether what the first event told is the whole input: tools of the provider's add to it,
        and some servers begin with a number that stands for nothing."""
        found = self._costs.input
        least = sum(map(byte_length, found.texts)) // MOST_BYTES_PER_TOKEN
        return told.input_tokens >= least and not found.runs_tools

    def _at_most_the_ceiling(self, output_tokens: int) -> int:
        return min(output_tokens, self._costs.output_tokens)

    def _settle(
        self,
        state: CallState,
        usage: Usage,
        error: BaseException | None = None,
        model: str | None = None,
    ) -> None:
        if self._settled:
            return
        self._settled = True
        # Of a call that was cut, the input may be known.
        exact = not usage.estimated or (usage.input_reported and state is not CallState.SETTLED)
        nano = 0 if state is CallState.FAILED else self._cost(usage, exact=exact)
        self._tracker.add(usage, nano)
        known = error if isinstance(error, WeirError) else None
        words = known.provider_message if known else None
        settlement = Settlement(
            state,
            usage,
            nano,
            known.name if known else None,
            storable(model, MAX_MODEL_LENGTH),
            known.provider_status if known else None,
            storable(self._tracker.redact(words) if words else None, MAX_MESSAGE_LENGTH),
        )
        if settlement.error:
            self._tracker.failed(self._target.name, settlement)
        self._ledger.settle(self._call_id, settlement)
        self.observer.finished(settlement, model)

    def _cost(self, usage: Usage, *, exact: bool) -> int | None:
        if not exact:
            return self._costs.of_estimate(usage)
        nano = self._costs.of_reported(usage)
        if nano is None and self._tracker.billing.has_budget:
            # A kind of tokens that the request did not ask for, and that has no price.
            return self._costs.nano
        return nano


def storable(text: str | None, length: int) -> str | None:
    """A provider's words as a database can hold them."""
    if text is None:
        return None
    return text[:length].replace("\0", "").encode("utf-8", "replace").decode()
