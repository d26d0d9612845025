"""Money as integers of nano-USD, so that sums are exact."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANO = 1_000_000_000
MAX_USD = 1_000_000_000


def to_nano(usd: object) -> int:
    """The nano-USD of an amount in USD, written as text or as a JSON number.

    Rounds up. Raises ValueError if it is not an amount, is negative, or exceeds MAX_USD.
    """
    if isinstance(usd, bool) or not isinstance(usd, str | int | float | Decimal):
        raise ValueError("must be an amount in USD")
    try:
        amount = Decimal(str(usd).strip())
    except InvalidOperation:
        raise ValueError("must be an amount in USD") from None
    if not amount.is_finite() or not 0 <= amount <= MAX_USD:
        raise ValueError(f"must be an amount in USD from 0 to {MAX_USD}")
    return int((amount * NANO).to_integral_value(ROUND_CEILING))


def to_usd(nano: int | None) -> float | None:
    """USD, for display; None stays None."""
    return None if nano is None else nano / NANO


def text(nano: int) -> str:
    """USD as text: at least two decimals, without further trailing zeros."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"
