"""What a model costs: rates by service tier and by the length of the input, and fees."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from webapp.llm.messages import Usage
from webapp.money import NANO
from webapp.setting_parsers import TIER_FACTOR, TIER_RATE, TOKEN_RATES, PriceEntry

MILLION = 1_000_000
STANDARD = "standard"
STANDARD_NAMES = frozenset({"", "default", "standard", "on_demand"})
# Tiers that cost at most as much as the standard one; and those that are dearer.
CHEAPER_TIERS = frozenset({"flex", "batch"})
DEARER_TIERS = frozenset({"priority", "ultrafast", "performance", "us"})
# What Anthropic charges for writing to its cache, for 5 minutes and 1 hour: multiples of the input.
CLAUDE_WRITE_FACTORS = (1_250_000_000, 2 * NANO)
# What it charges for inference in the US alone (`inference_geo`), as a tier of that name.
CLAUDE_TIERS = {"us.factor": 1_100_000_000}


@dataclass(frozen=True, slots=True)
class Rates:
    """Nano-USD per million tokens. Audio may have no rate."""

    input: int
    cached_input: int
    cache_write_5m: int
    cache_write_1h: int
    output: int
    audio_input: int | None = None
    audio_output: int | None = None

    def cost(self, usage: Usage, *, written: bool = False) -> int | None:
        """Nano-USD times a million. `written`: plain input counts as written to the cache."""
        if usage.audio_input_tokens and self.audio_input is None:
            return None
        if usage.audio_output_tokens and self.audio_output is None:
            return None
        audio_in, audio_out = usage.audio_input_tokens, usage.audio_output_tokens
        plain = usage.input_tokens - usage.cache_write_tokens - audio_in
        # Where kinds of tokens overlap (cached audio), the cheaper kind counts less.
        cached = max(0, min(usage.cached_input_tokens, plain))
        plain = max(0, plain - cached)
        return (
            plain * (max(self.input, self.cache_write_5m) if written else self.input)
            + cached * self.cached_input
            + usage.cache_write_5m_tokens * self.cache_write_5m
            + usage.cache_write_1h_tokens * self.cache_write_1h
            + audio_in * (self.audio_input or 0)
            + max(0, usage.output_tokens - audio_out) * self.output
            + audio_out * (self.audio_output or 0)
        )


# The rates from each length of the input on, the shortest first: (more tokens than, rates).
Bands = Sequence[tuple[int, Rates]]


@dataclass(frozen=True, slots=True)
class Price:
    """The price of a model. Fees are in nano-USD each; without one, what it is for has no price.

    `bands` holds the rates of each service tier, `standard` among them. `writes_unasked`: the
    maker writes to its cache without being asked. `is_free`: tokens cost nothing at any tier.
    """

    bands: Mapping[str, Bands]
    source: str
    max_output: int | None = None
    context: int | None = None
    reasoning: bool = False
    image: int | None = None
    web_search: int | None = None
    writes_unasked: bool = False
    is_free: bool = field(init=False)

    def __post_init__(self) -> None:
        is_free = self.dearest(Usage(MILLION, MILLION), None) == 0
        object.__setattr__(self, "is_free", is_free)

    @property
    def tiers(self) -> frozenset[str]:
        """The service tiers that have rates of their own, beside the standard one."""
        return frozenset(self.bands) - {STANDARD}

    def cost(self, usage: Usage) -> int | None:
        """Nano-USD, rounded up, at the usage's service tier; None if a part has no price."""
        costs = []
        for tier in self._tiers_of(usage.service_tier or STANDARD):
            rates = [rates for above, rates in self.bands[tier] if usage.input_tokens > above]
            costs.append(self._with_fees(rates[-1].cost(usage), usage))
        return _most(costs)

    def dearest(self, usage: Usage, tiers: Collection[str] | None) -> int | None:
        """The most that this usage, or a smaller one, can cost at any of these tiers (None: all).

        None if a part has no price at one of the tiers.
        """
        found = [frozenset(self.bands)] if tiers is None else [self._tiers_of(t) for t in tiers]
        if not all(found):
            return None
        costs = [
            self._with_fees(rates.cost(usage, written=self.writes_unasked), usage)
            for tier in frozenset().union(*found)
            for above, rates in self.bands[tier]
            if usage.input_tokens > above
        ]
        return _most(costs)

    def saved_by_cache(self, cached_tokens: int) -> int:
        """Nano-USD that so many tokens from the provider's cache would have cost more without it,
        at the standard tier and in short requests."""
        rates = self.bands[STANDARD][0][1]
        return max(0, cached_tokens * (rates.input - rates.cached_input) // MILLION)

    def has_rates(self, tiers: Collection[str]) -> bool:
        """Whether tokens have a price at each of these tiers."""
        return all(map(self._tiers_of, tiers))

    def _tiers_of(self, name: str) -> frozenset[str]:
        """The tiers whose rates may apply: all of them for a name that nobody knows."""
        if name in self.bands:
            return frozenset({name})
        if name in STANDARD_NAMES | CHEAPER_TIERS:
            return frozenset({STANDARD})
        return frozenset() if name in DEARER_TIERS else frozenset(self.bands)

    def _with_fees(self, tokens: int | None, usage: Usage) -> int | None:
        total = tokens
        for count, fee in ((usage.images, self.image), (usage.web_searches, self.web_search)):
            if not count:
                continue
            if fee is None or total is None:
                return None
            total += count * fee * MILLION
        return None if total is None else -(-total // MILLION)


def _most(costs: Collection[int | None]) -> int | None:
    """The highest of them; None if one is not known, or if there are none."""
    known = [cost for cost in costs if cost is not None]
    return max(known) if known and len(known) == len(costs) else None


def make_price(
    entry: PriceEntry, source: str, *, claude: bool = False, regional: bool = False
) -> Price:
    """The price that an entry describes.

    `claude`: writing to the cache, and inference in the US alone, cost as at Anthropic, if the
    entry does not say what they cost.
    `regional`: the call goes to the maker's host of a region, which may cost more.
    """
    entry = CLAUDE_TIERS | dict(entry) if claude else entry
    limits = {int(found[2] or -1) for name in entry if (found := TIER_RATE.fullmatch(name))}
    tiers = {STANDARD}.union(
        found[1]
        for name in entry
        if (found := TIER_FACTOR.fullmatch(name) or TIER_RATE.fullmatch(name)) and found[1]
    )
    uplift = entry.get("regional", NANO) if regional else NANO
    factors = CLAUDE_WRITE_FACTORS if claude else (NANO, NANO)
    standard = {limit: _standard_rates(entry, limit, factors) for limit in sorted(limits | {-1})}
    bands = {
        tier: tuple(
            (limit, _rates(_tier_rates(entry, tier, limit, standard), uplift)) for limit in standard
        )
        for tier in tiers
    }
    return Price(
        bands,
        source,
        entry.get("max_output"),
        entry.get("context"),
        bool(entry.get("reasoning")),
        entry.get("image"),
        entry.get("web_search"),
        writes_unasked=not claude,
    )


def _standard_rates(entry: PriceEntry, limit: int, factors: tuple[int, int]) -> dict[str, int]:
    """The rates of the standard tier for more input than `limit`.

    Without rates of their own, cached input costs as other input, and writing to the cache by
    `factors`. What a longer input leaves out rises as its input does.
    """
    rates = {name: entry[name] for name in TOKEN_RATES if name in entry}
    rates.setdefault("cached_input", rates["input"])
    rates.setdefault("cache_write_5m", _times(rates["input"], factors[0]))
    longer = max(_times(rates["input"], factors[1]), rates["cache_write_5m"])
    rates.setdefault("cache_write_1h", longer)
    rates.setdefault("output", 0)
    if limit < 0:
        return rates
    given = {name: entry.get(f"above_{limit}.{name}") for name in TOKEN_RATES}
    return _scaled(rates, given, _ratio(given["input"], rates["input"]))


def _tier_rates(
    entry: PriceEntry, tier: str, limit: int, standard: Mapping[int, dict[str, int]]
) -> dict[str, int]:
    """The rates of a tier: by its factor, those aside that it names.

    One that it names for any length of the input rises with the standard one for longer inputs.
    """
    rates, base = standard[limit], standard[-1]
    if tier == STANDARD:
        return rates
    ratio = _ratio(entry.get(f"{tier}.input"), entry["input"])
    factor = entry.get(f"{tier}.factor", ratio)
    given = {name: entry.get(f"{tier}.{name}") for name in TOKEN_RATES}
    if limit >= 0:
        risen = {
            name: _times(rate, _ratio(rates.get(name), base.get(name, 0)))
            for name, rate in given.items()
            if rate is not None
        }
        given = {n: entry.get(f"{tier}.above_{limit}.{n}", risen.get(n)) for n in TOKEN_RATES}
    return _scaled(rates, given, factor)


def _scaled(rates: dict[str, int], given: Mapping[str, int | None], factor: int) -> dict[str, int]:
    scaled = {name: _times(rate, factor) for name, rate in rates.items()}
    return scaled | {name: rate for name, rate in given.items() if rate is not None}


def _ratio(rate: int | None, base: int) -> int:
    """How many times the base a rate is, in billionths: at least 1, rounded up."""
    return NANO if rate is None or rate <= base or not base else -(-rate * NANO // base)


def _times(rate: int, factor: int) -> int:
    """A rate times a factor in billionths, rounded up."""
    return -(-rate * factor // NANO)


def _rates(rates: dict[str, int], uplift: int) -> Rates:
    return Rates(**{name: _times(rate, uplift) for name, rate in rates.items()})


def free(source: str) -> Price:
    """The price of what costs nothing."""
    return make_price(dict.fromkeys((*TOKEN_RATES, "image", "web_search"), 0), source)
