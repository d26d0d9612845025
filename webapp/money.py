"""Money as whole nano-USD: no sum is ever rounded."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, InvalidOperation

NANO = 1_000_000_000
MAX_USD = 1_000_000_000


def to_nano(usd: object) -> int:
    """The nano-USD of an amount in USD, written as text or as a JSON number.

    Raises ValueError for what is no amount, is negative, or is beyond a billion.
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
    """USD for a reader; None stays None."""
    return None if nano is None else nano / NANO


def text(nano: int) -> str:
    """USD as people write it: at least two decimals, none that says nothing."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"
