"""Numbers and text of users, as report and model card print them."""

from __future__ import annotations

from finetune_api.tables.metrics import Metric


def format_value(metric: Metric | str, value: float) -> str:
    return f"{value:.{Metric(metric).row.digits}f}"


def format_change(metric: Metric, value: float) -> str:
    """With its sign; a minus sign, not a hyphen."""
    return f"{value:+.{metric.row.digits}f}".replace("-", "−")


def grouped(value: float) -> str:
    """A number with narrow spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def escape_markdown(text: str) -> str:
    """Text for the cell of a Markdown table: one line, without markup."""
    flat = " ".join(str(text).split())
    return "".join(f"\\{sign}" if sign in "\\`*_{}[]<>|#!~$" else sign for sign in flat)


def inline_code(text: str) -> str:
    """Text as inline code in Markdown, fenced with more backticks than it has."""
    flat = " ".join(str(text).split()).replace("|", "\\|")
    runs = [len(run) for run in "".join(sign if sign == "`" else " " for sign in flat).split()]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if runs else ""
    return f"{fence}{space}{flat}{space}{fence}"
