"""Markdown tables: columns declared as data, one renderer, and how numbers look in a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compete.files import InputError

MISSING = "-"  # a cell without a number


def look_up(value: Any, name: str, place: str) -> Any:
    """The number or word that a dotted name leads to; of a summary low, high, or else its mean.

    Raises `InputError`, which names the place, where there is nothing.
    """
    try:
        while name:
            if isinstance(value, list):
                value = dict(enumerate(value))
            if value.get("ci95"):
                value = value | dict(zip(("low", "high"), value["ci95"], strict=True))
            # The longest that fits, as keys have dots of their own.
            key = max(
                (k for k in value if f"{name}.".startswith(f"{k}.")), key=lambda k: len(f"{k}")
            )
            value, name = value[key], name[len(f"{key}") + 1 :]
        return value["mean"] if isinstance(value, dict) else value
    except (AttributeError, KeyError, ValueError):
        raise InputError(f"{place}: there is no such quantity") from None


@dataclass(frozen=True)
class Column:
    """A column: its head, and a row's cell as text."""

    head: str
    text: Callable[[Any], str]


def summary(head: str, *names: str, sign: bool = True) -> Column:
    """A column with a summary that lies in a row under these names; empty where there is none."""

    def text(row: dict[str, Any]) -> str:
        for name in names:
            row = row.get(name) or {}
        return estimate(row, sign=sign) if row else ""

    return Column(head, text)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(columns: Sequence[Column], rows: Iterable[Any]) -> str:
    """A Markdown table of any kind of rows that the columns can read."""
    cells = ([column.text(row) for column in columns] for row in rows)
    return table([column.head for column in columns], cells)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with so many decimals and commas between thousands; `MISSING` for None."""
    if value is None:
        return MISSING
    if not sign:
        value = round(value, digits) + 0.0  # -0.0 becomes 0.0; with signs it tells the side of zero
    return f"{value:{'+' if sign else ''},.{digits}f}"


def estimate(summary: dict[str, Any], digits: int = 3, sign: bool = True, scale: float = 1) -> str:
    """Mean and 95 % interval from `summarise`, times `scale`: +0.003 (-0.007 to +0.012)."""
    if summary["mean"] is None:
        return MISSING
    ends = summary["ci95"] or []
    mean, *interval = (number(v * scale, digits, sign) for v in (summary["mean"], *ends))
    return f"{mean} ({' to '.join(interval)})" if interval else mean
