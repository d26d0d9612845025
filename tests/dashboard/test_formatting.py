"""How the pages show counts, money and durations."""

from __future__ import annotations

import pytest

from webapp.dashboard.formatting import compact, duration, nano, usd


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "–"),
        (0, "$0.00"),
        (1234.5, "$1,234.50"),
        (12.345678, "$12.35"),
        (1.0, "$1.00"),
        (0.99996, "$1.00"),
        (0.5, "$0.50"),
        (0.01, "$0.01"),
        (0.0042, "$0.0042"),
        (0.0001, "$0.0001"),
        (-0.25, "−$0.25"),
        (-2, "−$2.00"),
        (0.4129, "$0.4129"),
        (0.41294, '<span title="$0.41294">$0.4129</span>'),
        (0.000154, '<span title="$0.000154">$0.0002</span>'),
    ],
)
def test_money_has_one_format(amount: float | None, shown: str) -> None:
    assert usd(amount) == shown


def test_an_amount_too_small_to_show_has_the_exact_one_for_everybody() -> None:
    shown = nano(12_300)
    assert shown.startswith('<span title="$0.0000123">&lt;$0.0001')
    assert '<span class="unseen"> (exactly $0.0000123)</span>' in shown
    assert nano(1).startswith('<span title="$0.000000001">')
    assert nano(-1).startswith('<span title="−$0.000000001">&gt;−$0.0001')


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [
        (None, "–"),
        (0.84, "0.8 ms"),
        (120, "120 ms"),
        (999.6, "1.00 s"),
        (2_683, "2.68 s"),
        (9_996, "10.0 s"),
        (12_340, "12.3 s"),
        (99_960, "100 s"),
        (1_234_000, "1,234 s"),
    ],
)
def test_a_duration_has_three_digits_above_a_second(milliseconds: float, shown: str) -> None:
    assert duration(milliseconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (9_876, "9,876"),
        (12_345, "12.3 k"),
        (999_960, "1 M"),
        (4_560_000, "4.56 M"),
        (2_171_000_000, "2.17 B"),
        (1_030_000_000_000, "1.03 T"),
    ],
)
def test_a_large_count_has_three_digits_and_a_unit(count: int | None, shown: str) -> None:
    assert compact(count) == shown
