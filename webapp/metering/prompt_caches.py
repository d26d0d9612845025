"""How much of the input the prompt caches of the providers knew, and what that saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from webapp.metering.price import Price


@dataclass(frozen=True, slots=True)
class CachedInput:
    """Input tokens of a target, and how many of them its provider's cache knew.

    `saved_nano` is what these would have cost more; None where there is no price.
    """

    target: str
    input_tokens: int
    cached_tokens: int
    saved_nano: int | None

    @property
    def share(self) -> float | None:
        return min(1.0, self.cached_tokens / self.input_tokens) if self.input_tokens else None


def cached_inputs(
    rows: Iterable[tuple[str, str, int, int]], price_of: Callable[[str, str], Price | None]
) -> list[CachedInput]:
    """Of each target (provider, model, its input tokens, those that were cached); the total comes
    last, if there is more than one. Prices are those of now, at the standard tier."""
    found = []
    for provider, model, tokens, cached in rows:
        price = price_of(provider, model)
        saved = price.saved_by_cache(cached) if price else None
        found.append(CachedInput(f"{provider}/{model}", tokens, cached, saved))
    if len(found) > 1:
        known = [one.saved_nano for one in found if one.saved_nano is not None]
        tokens = sum(one.input_tokens for one in found)
        cached = sum(one.cached_tokens for one in found)
        found.append(CachedInput("All", tokens, cached, sum(known) if known else None))
    return found
