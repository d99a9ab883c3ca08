"""Charts as inline SVG. Colours come from the page's style sheet, so that they follow its light and dark mode.

The markup contains only numbers and constant texts, never text of users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from finetune_api.evaluation import Verdict

_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 44
WIDE, NARROW = (990, 320), (480, 230)
"""Width and height in SVG units of a chart of full and of half page width; text has the same size in both."""

_MOST_POINTS = 400

TONES = {Verdict.BETTER: "better", Verdict.WORSE: "worse", Verdict.NO_DIFFERENCE: "unclear"}
"""CSS class of each verdict."""


@dataclass(frozen=True)
class Series:
    """A line of a chart: ``points`` are (x, y), ``style`` is a CSS class (tuned, baseline or accent)."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    markers: bool = False


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About ``about`` round numbers that enclose ``low`` and ``high``, in steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float) -> str:
    """Format a tick label: short, with a thousands separator, and in scientific notation for very small values."""
    if value == 0:
        return "0"
    if abs(value) < 1e-2:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    return f"{value:.4g}"


def thin(points: Sequence[tuple[float, float]], most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """Reduce to at most ``most`` points by averaging neighbours; points that are not finite are dropped."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    size = math.ceil(len(finite) / most) if finite else 1
    groups = [finite[start : start + size] for start in range(0, len(finite), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def line_chart(
    title: str,
    x_name: str,
    y_name: str,
    series: Sequence[Series],
    *,
    size: tuple[int, int] = WIDE,
    from_zero: bool = False,
) -> Markup | None:
    """Draw a line chart with axes, ticks and, for several series, a legend.

    Args:
        title: Title of the chart.
        x_name: Label of the x axis.
        y_name: Label of the y axis.
        series: The lines; those without finite points are omitted.
        size: `WIDE` or `NARROW`.
        from_zero: Start the y axis at zero.

    Returns:
        The markup; None when no series has a finite point.
    """
    width, height = size
    drawn = [Series(line.name, thin(line.points), line.style, line.markers) for line in series]
    drawn = [line for line in drawn if line.points]
    if not drawn:
        return None
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    # The x axis ends at the last point; only the y axis extends to the next round number.
    low_x, high_x = min(xs), max(xs)
    if high_x <= low_x:
        low_x, high_x = low_x - 1, high_x + 1
    y_ticks = ticks(0 if from_zero else min(ys), max(ys))
    if len(drawn) > 1 and 0 < min(ys) <= y_ticks[0]:
        y_ticks.insert(0, round(2 * y_ticks[0] - y_ticks[1], 12))  # The axis would hide a line.
    x = _Scale(low_x, high_x, _LEFT, width - _RIGHT)
    y = _Scale(y_ticks[0], y_ticks[-1], height - _BOTTOM, _TOP)
    legend = _legend(drawn) if len(drawn) > 1 else ""
    body = [*_axes(x, y, y_ticks, x_name, y_name), *(_line(line, x, y) for line in drawn)]
    label = escape(f"{title}: {_summary(drawn)}")
    return Markup(
        f'<figure class="chart"><figcaption><span class="chart-title">{escape(title)}</span>{legend}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(body)}</svg></figure>'
    )


def change_bar(change: float, interval: tuple[float, float], reach: float, verdict: Verdict) -> Markup:
    """Draw a change and its confidence interval on an axis from -``reach`` to +``reach``.

    ``verdict`` selects the colour.
    """
    x = _Scale(-reach, reach, 8, 232)
    low, high = (x(max(-reach, min(reach, bound))) for bound in interval)
    style = TONES[verdict]
    label = f"change {change:+.3g}, 95 % interval {interval[0]:+.3g} to {interval[1]:+.3g}"
    return Markup(
        f'<svg class="interval {style}" viewBox="0 0 240 24" role="img" aria-label="{label}"><title>{label}</title>'
        f'<line class="rule" x1="8" x2="232" y1="12" y2="12"/><line class="zero" x1="120" x2="120" y1="2" y2="22"/>'
        f'<rect class="band" x="{low:.1f}" y="8" width="{max(high - low, 2):.1f}" height="8" rx="4"/>'
        f'<circle class="dot" cx="{x(max(-reach, min(reach, change))):.1f}" cy="12" r="5"/></svg>'
    )


def pair_bar(baseline: float, tuned: float, compared: str) -> Markup:
    """Draw a value of baseline and tuned model, joined by a line, on an axis from 0 to 1.

    Args:
        baseline: Value of the baseline.
        tuned: Value of the tuned model.
        compared: What the tuned model is called.
    """
    x = _Scale(0, 1, 8, 172)
    label = f"baseline {baseline:.2f}, {compared} {tuned:.2f}"
    return Markup(
        f'<svg class="pair" viewBox="0 0 180 20" role="img" aria-label="{label}"><title>{label}</title>'
        f'<line class="rule" x1="8" x2="172" y1="10" y2="10"/>'
        f'<line class="join" x1="{x(baseline):.1f}" x2="{x(tuned):.1f}" y1="10" y2="10"/>'
        f'<circle class="baseline" cx="{x(baseline):.1f}" cy="10" r="4"/>'
        f'<circle class="tuned" cx="{x(tuned):.1f}" cy="10" r="5"/></svg>'
    )


def _axes(x: _Scale, y: _Scale, y_ticks: list[float], x_name: str, y_name: str) -> list[str]:
    parts = []
    for tick in y_ticks:
        parts.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x.start - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in ticks(x.low, x.high, about=max(4, round((x.end - x.start) / 100))):
        if x.low <= tick <= x.high:
            place = f"{x(tick):.1f}"
            parts.append(f'<line class="axis" x1="{place}" x2="{place}" y1="{y.start}" y2="{y.start + 5}"/>')
            parts.append(
                f'<text class="tick" x="{place}" y="{y.start + 18}" text-anchor="middle">{number(tick)}</text>'
            )
    middle = (x.start + x.end) / 2
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    parts.append(
        f'<text class="name" x="{middle}" y="{y.start + _BOTTOM - 6}" text-anchor="middle">{escape(x_name)}</text>'
    )
    parts.append(
        f'<text class="name" text-anchor="middle" transform="translate(13 {(y.start + y.end) / 2}) rotate(-90)">'
        f"{escape(y_name)}</text>"
    )
    return parts


def _line(line: Series, x: _Scale, y: _Scale) -> str:
    path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in line.points)
    drawn = f'<polyline class="line {line.style}" points="{path}"/>'
    if line.markers or len(line.points) == 1:
        drawn += "".join(
            f'<circle class="marker {line.style}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="4">'
            f"<title>{escape(line.name)} {number(py)} at {number(px)}</title></circle>"
            for px, py in line.points
        )
    return drawn


def _legend(series: Sequence[Series]) -> str:
    keys = (f'<span class="key {line.style}"><i></i>{escape(line.name)}</span>' for line in series)
    return f'<span class="legend">{"".join(keys)}</span>'


def _summary(series: Sequence[Series]) -> str:
    return "; ".join(f"{line.name} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in series)
