"""What an allowance makes of the overrides that a key has."""

from __future__ import annotations

from webapp.allowance import Allowance


def test_a_limit_that_only_a_later_version_knows_is_passed_over() -> None:
    """After a roll-back: the key goes on working with the limits that this version has."""
    kept = {"usd_per_day": 5, "of_a_later_version": 1}
    assert Allowance(max_text=7).overridden(kept) == Allowance(max_text=7, usd_per_day=5)
