"""The most that a call can use and cost: of a request, and at each target of its route."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from webapp.errors import ValidationError
from webapp.llm.messages import ModelRequest, Usage
from webapp.llm.ports import Price
from webapp.llm.request_input import (
    TOKENS_PER_IMAGE,
    RequestInput,
    always_searches,
    read_input,
    whole_number,
)
from webapp.llm.routing import Target

# Output tokens of a model whose maximum is not known.
DEFAULT_MAX_OUTPUT_TOKENS = 16_384
MAX_OUTPUT_TOKENS = 10**10  # more than any call generates, whatever a client names
# The client's limits on the output of a choice, and others that some servers know.
OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
RESPONSES_OUTPUT_LIMITS = ("max_output_tokens",)
OTHER_OUTPUT_LIMITS = ("max_output_tokens", "max_new_tokens", "n_predict", "num_predict")
CHOICES = ("n", "best_of")
NUMBERS = (*OUTPUT_LIMITS, *OTHER_OUTPUT_LIMITS, *CHOICES, "max_tool_calls")
STANDARD = "standard"
STANDARD_NAMES = frozenset({"default", "on_demand", "standard", "standard_only"})
NAMED_TIERS = frozenset({"flex", "priority", "batch"})
PRICED_MODALITIES = ({"text"}, {"audio"}, {"text", "audio"})
US_TIER = "us"  # inference in the US alone, at Anthropic
UNKNOWN_TIER = "unknown"  # costs as the dearest tier
ONE_OF_EACH = Usage(1, 1)


@dataclass(frozen=True, slots=True)
class CostCeiling:
    """The most that a call of a request can use; `nano` is its cost at the most expensive target.

    `nano` is None where a part has no price: `unpriced` says which. `named` says that the client
    itself limited the output.
    """

    input_tokens: int
    output_tokens: int
    nano: int | None
    unpriced: str | None = None
    named: bool = False
    hidden_tokens: int = 0
    """Those of the input that are not likely, but possible where a part of it is not seen."""

    @property
    def likely_tokens(self) -> int:
        """What a limit on tokens holds back: a context window would be more than most allow."""
        return self.input_tokens + self.output_tokens - self.hidden_tokens


class Demand:
    """What a request asks for, as far as its cost depends on it."""

    def __init__(self, request: ModelRequest) -> None:
        body = request.body
        self.generates = request.operation != "embeddings"
        limits: Collection[str] = OUTPUT_LIMITS
        if request.operation == "responses":
            limits = RESPONSES_OUTPUT_LIMITS
        numbers = {name: body[name] for name in body.keys() & NUMBERS if whole_number(body[name])}
        self.choices = _largest(numbers, CHOICES) or 1
        self.named_max_output = _largest(numbers, limits)
        if request.operation == "messages" and body.get("max_tokens") == 0:
            self.named_max_output = 0  # the request only fills the prompt cache
        self.max_output = _largest(numbers, (*OUTPUT_LIMITS, *OTHER_OUTPUT_LIMITS))
        self.limits_output = any(body.get(name) is not None for name in limits)
        self.service_tier = body.get("service_tier")
        self.in_us = body.get("inference_geo") == US_TIER
        modalities = body.get("modalities")
        self.modalities = set(map(str, modalities)) if isinstance(modalities, list) else {"text"}
        self._body = body

    @cached_property
    def input(self) -> RequestInput:
        return read_input(self._body)

    def tiers(self, answered: Collection[str]) -> frozenset[str] | None:
        """The service tiers at which it can be served; None means any.

        `answered` are those of earlier answers to requests that named none.
        """
        named = self.service_tier
        standard = US_TIER if self.in_us else STANDARD
        if named is None:
            return frozenset({standard, *answered})
        if not isinstance(named, str):
            return None
        name = named.lower()
        if name in STANDARD_NAMES:
            return frozenset({standard})
        # A provider may serve it at the standard tier after all.
        return frozenset({STANDARD, name, *answered}) if name in NAMED_TIERS else None


class TargetCosts:
    """The costs of a request's calls to one target.

    `input` is the request's, with what a model that always searches the web finds there. `nano` is
    the ceiling; None if it is not known, and `unpriced` says why, as a clause. `tier` is the
    service tier, where it is certain.
    """

    def __init__(
        self,
        demand: Demand,
        target: Target,
        price: Price | None,
        answered: Collection[str],
        tier: str | None = None,
    ) -> None:
        self.price = price
        self.tiers = demand.tiers(answered) if tier is None else frozenset({tier})
        self._demand = demand
        self._model = target.name
        self._is_free = bool(price and price.is_free)
        self.input = self._input_at(target)
        self.input_tokens = self._most_input_tokens()
        self.output_tokens = self._most_output_tokens()
        self._parts_are_priced = self._are_parts_priced()
        self.unpriced = self._why_unpriced()
        most = Usage(self.input_tokens, self.output_tokens)
        self.nano = None if self.unpriced else self._dearest(most)

    def _input_at(self, target: Target) -> RequestInput:
        found = self._demand.input
        if found.searches or not (self._demand.generates and always_searches(target.model)):
            return found
        hidden = found.hidden or "web_search_options"
        return replace(found, searches=1, hidden=hidden, references=found.references + 1)

    def _most_input_tokens(self) -> int:
        """The context window of the model, where a part of the input is not seen.

        The window is the most that images and sounds can take, too. Texts count in any case.
        """
        found, bound = self.input, self.input.bound
        context = self.price and self.price.context
        if context and self._demand.generates:
            texts = bound - found.file_size - found.image_tokens - found.audio_tokens
            return max(texts, min(bound, context) if found.is_bounded else context)
        if found.is_bounded:
            return bound
        visible = bound - found.file_size
        files = found.file_size + TOKENS_PER_IMAGE if found.file_size else 0
        return max(visible, context) if context else visible + files

    @property
    def hidden_tokens(self) -> int:
        """How much of `input_tokens` is more than an image for each part that is not seen."""
        found = self.input
        return max(0, self.input_tokens - found.bound - found.references * TOKENS_PER_IMAGE)

    def _most_output_tokens(self) -> int:
        if not self._demand.generates:
            return 0
        known = self._demand.max_output
        if self._demand.named_max_output is None:
            known = max(known or 0, self.max_output)
        predicted = self.input.predicted_tokens
        return min(self._demand.choices * ((known or 0) + predicted), MAX_OUTPUT_TOKENS)

    @property
    def max_output(self) -> int:
        """The most that the model generates for one choice, if the request sets no limit."""
        return (self.price and self.price.max_output) or DEFAULT_MAX_OUTPUT_TOKENS

    @property
    def output_is_charged(self) -> bool:
        return self.price is not None and not self._is_free

    def _why_unpriced(self) -> str | None:
        found, model = self.input, self._model
        if self.price is None:
            return f"Model {model} has no price"
        if self._has_unknown_fees:
            path = found.unpriced or "modalities"
            return f"What {path} asks for has no price with model {model}"
        if self._is_free:
            return None
        if not self._parts_are_priced:
            kinds = "audio, web searches" if found.searches else "audio"
            return f"A part of this request ({kinds}) has no price with model {model}"
        if found.hidden and self.price.context is None:
            return f"The input of {found.hidden} has no known limit with model {model}"
        if self.tiers and not self.price.has_rates(self.tiers):
            named = self._demand.service_tier
            asked = "inference_geo" if self._demand.in_us else f"Service tier {named!r}"
            return f"{asked} of model {model} has no price"
        return None

    def of_reported(self, usage: Usage) -> int | None:
        """The cost of usage that the provider reported; None if it is not known."""
        if self.price is None or self._has_unknown_fees or not self._parts_are_priced:
            return None
        if self._is_free:
            return 0
        costs = [self.price.cost(usage)]
        if usage.service_tier is None and self._demand.service_tier is not None:
            # The answer does not say which of them it was.
            tiers = self.tiers or {UNKNOWN_TIER}
            costs = [self.price.cost(replace(usage, service_tier=tier)) for tier in tiers]
        if None in costs and self.unpriced is None:
            # A tier without a price that nobody asked for.
            costs = [self.price.cost(replace(usage, service_tier=UNKNOWN_TIER))]
        return None if None in costs else max(cost for cost in costs if cost is not None)

    def of_estimate(self, usage: Usage) -> int | None:
        """The most that usage costs whose kinds and tier are not known; None if not known."""
        if self.price is None or self._has_unknown_fees or not self._parts_are_priced:
            return None
        if self.unpriced and not self.input.is_bounded:
            return None
        tiers = {usage.service_tier} if usage.service_tier else self.tiers
        cost = self._dearest(usage, tiers)
        if cost is None and self.unpriced is None:
            cost = self._dearest(usage, {UNKNOWN_TIER})
        return cost

    @property
    def _has_unknown_fees(self) -> bool:
        unknown_modality = self._demand.modalities not in PRICED_MODALITIES and not self._is_free
        return bool(self.input.unpriced or unknown_modality)

    def _are_parts_priced(self) -> bool:
        """Whether the kinds of tokens that it asks for have a price at the standard tier."""
        found = self.input
        if self.price is None:
            return False
        other_kinds = found.audio_tokens or found.searches or "audio" in self._demand.modalities
        is_text = found.is_bounded and not other_kinds
        return is_text or self._dearest(ONE_OF_EACH, {STANDARD}) is not None

    def _dearest(self, usage: Usage, tiers: Collection[str] | None = None) -> int | None:
        """The cost of these tokens if all are of the dearest kinds that the request allows."""
        if self._is_free:
            return 0
        assert self.price is not None
        tiers = self.tiers if tiers is None else tiers
        found = self.input
        audio_input = min(found.audio_tokens, usage.input_tokens)
        searches = self._demand.choices * found.searches
        if (audio_input, searches) != (usage.audio_input_tokens, usage.web_searches):
            usage = replace(usage, audio_input_tokens=audio_input, web_searches=searches)
        if found.cache_ttl:
            written = usage.input_tokens - audio_input
            long = found.cache_ttl == "1h"
            usage = replace(
                usage,
                cache_write_5m_tokens=0 if long else written,
                cache_write_1h_tokens=written if long else 0,
            )
        costs = [self.price.dearest(usage, tiers)]
        if "audio" in self._demand.modalities:
            usage = replace(usage, audio_output_tokens=usage.output_tokens)
            costs.append(self.price.dearest(usage, tiers))
        if None in costs:
            return None
        if not found.is_bounded:
            # What is not seen may be audio, which some models have a price for.
            heard = replace(
                usage,
                audio_input_tokens=usage.input_tokens,
                cache_write_5m_tokens=0,
                cache_write_1h_tokens=0,
            )
            costs.append(self.price.dearest(heard, tiers))
        return max(cost for cost in costs if cost is not None)


def check_numbers(request: ModelRequest, *, strictly: bool) -> None:
    """Refuse numbers that decide about the cost and that providers may read in another way.

    `strictly` refuses 0 and negative ones, too, which mean "no limit" to some servers. In Messages,
    `max_tokens: 0` means no output. Raises ValidationError.
    """
    wrong, least = {}, {"max_tokens": 0} if request.operation == "messages" else {}
    for name in NUMBERS:
        value = request.body.get(name)
        if value is not None and type(value) is not int:
            wrong[name] = ["Must be a whole number."]
        elif value is not None and strictly and value < 1 and value != least.get(name):
            wrong[name] = ["Must be at least 1."]
    if wrong:
        raise ValidationError(f"The request is not valid: {', '.join(wrong)}.", details=wrong)


def _largest(numbers: Mapping[str, int], names: Collection[str]) -> int | None:
    return max(filter(None, map(numbers.get, names)), default=None)
