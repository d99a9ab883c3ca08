"""Formatting of numbers and text in report and model card."""

from __future__ import annotations

from finetune_api.spec import HarnessMetric, Metric, MetricName


def format_value(metric: MetricName | str, value: float | None) -> str:
    """A metric value with the number of digits of the metric; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.{named(metric).row.digits}f}"


def format_change(metric: MetricName, value: float) -> str:
    """A change of a metric value, with a plus sign or a typographic minus sign."""
    return f"{value:+.{metric.row.digits}f}".replace("-", "−")


def named(metric: str) -> MetricName:
    """The metric of that name."""
    return HarnessMetric(metric) if "/" in metric else Metric(metric)


def grouped(value: float) -> str:
    """An integer with narrow no-break spaces as thousands separators."""
    return f"{value:,.0f}".replace(",", "\u202f")


def escape_markdown(text: str) -> str:
    """Text for a cell of a Markdown table, on one line and with markup escaped."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|#!~$" else sign for sign in flat)


def inline_code(text: str) -> str:
    """Text as inline code in Markdown, delimited by more backticks than it contains in a row."""
    flat = " ".join(str(text).split()).replace("|", "\\|")
    runs = [len(run) for run in "".join(sign if sign == "`" else " " for sign in flat).split()]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return f"{fence}{space}{flat}{space}{fence}"
