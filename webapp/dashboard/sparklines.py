"""Small charts beside a figure, drawn by the server as SVG without styles."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

HEIGHT, STEP, BAR = 20, 3, 2


def sparkline(values: Sequence[int], title: str) -> Markup:
    """A bar for each value; the highest is as high as the chart. `title` says the same in words."""
    highest = max(values, default=0)
    bars = []
    for place, value in enumerate(values):
        if value:
            height = max(1, round(value / highest * HEIGHT))
            bars.append(f"M{place * STEP} {HEIGHT}v-{height}h{BAR}v{height}z")
    return Markup(
        '<svg class="sparkline" viewBox="0 0 {} {}" role="img" aria-label="{}"><path d="{}"/></svg>'
    ).format(len(values) * STEP, HEIGHT, title, "".join(bars))
