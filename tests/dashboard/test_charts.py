"""Charts as paths: bars on each other, lines with gaps, the current step apart, round scales."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from webapp.dashboard.charts import COUNT, DURATION, MONEY, Chart, Series, Unit

HOUR, DAY = 3_600, 86_400
MIDNIGHT = 1_795_910_400  # 2026-11-29


def chart(
    *values: Sequence[float | None], unit: Unit = COUNT, lines: bool = False, step: int = HOUR
) -> Chart:
    """One that ends with the current step."""
    series = [Series(str(number), "style", one) for number, one in enumerate(values)]
    times = [MIDNIGHT + place * step for place in range(len(values[0]))]
    return Chart("id", "Title", unit, series, times, is_running=True, lines=lines)


def drawn(one: Chart) -> list[tuple[int, str, bool]]:
    return [(path.series, path.d, path.running) for path in one.paths]


def test_bars_stand_on_each_other_and_the_current_step_is_drawn_apart() -> None:
    assert drawn(chart([5, 0, 1], [5, 10, 0])) == [
        (0, "M0 200V100", False),
        (0, "M2 200V180", True),
        (1, "M0 100V0M1 200V0", False),
    ]


def test_one_error_among_many_requests_is_seen() -> None:
    assert drawn(chart([100_000, 0], [1, 0]))[1] == (1, "M0 67V65", False)


def test_a_line_has_gaps_and_does_not_fall_to_zero_at_the_current_step() -> None:
    values = [500, 1000, None, 500, None, 500, 1000]
    assert drawn(chart(values, unit=DURATION, lines=True)) == [
        (0, "M0 100h0L1 0M2.6 100h0.8M5 100h0", False),
        (0, "M5 100L6 0", True),
    ]
    without = chart([500, 1000, None], unit=DURATION, lines=True)
    assert drawn(without) == [(0, "M0 100h0L1 0", False)]
    first = chart([None, None, 500], unit=DURATION, lines=True)
    assert drawn(first) == [(0, "M1.6 0h0.8", True)]


@pytest.mark.parametrize(
    ("unit", "highest", "labels"),
    [
        (COUNT, 3, ["0", "1", "2", "3"]),
        (COUNT, 61_000, ["0", "20 k", "40 k", "60 k", "80 k"]),
        (MONEY, 2_150_000_000, ["$0", "$0.50", "$1", "$1.50", "$2", "$2.50"]),
        (MONEY, 30_000, ["$0", "$0.00001", "$0.00002", "$0.00003"]),
        (DURATION, 1_800, ["0", "500 ms", "1 s", "1.5 s", "2 s"]),
    ],
)
def test_the_scale_is_made_of_round_numbers(unit: Unit, highest: float, labels: list[str]) -> None:
    assert [label for _, label in chart([highest], unit=unit).y_ticks] == labels


def test_without_data_there_is_no_scale() -> None:
    empty = chart([0, 0], unit=MONEY)
    assert (empty.is_empty, empty.y_ticks, empty.paths) == (True, [(100, "0")], [])


def test_steps_are_named_at_round_times() -> None:
    def labels(steps: int, step: int) -> list[str]:
        return [label for _, _, label in chart([1] * steps, step=step).x_ticks]

    assert labels(48, 1_800)[:3] == ["Nov 29", "03:00", "06:00"]
    assert labels(60, 60) == ["Nov 29", "00:10", "00:20", "00:30", "00:40", "00:50"]
    assert labels(7, DAY)[::3] == ["Nov 29", "Dec 2", "Dec 5"]
    assert labels(30, DAY)[:2] == ["Nov 29", "Dec 3"]
    assert labels(1, HOUR) == ["Nov 29"]
