"""The claims of the source, from claims.md: what was measured, and the verdict of a rule.

The verdict is the rule's word for the quantities, so that it follows the runs. Where a claim is of
forgetting, the rule reads the verdict of the one rule of inference; of anything else, a 95 %
interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from study.runs import STUDY
from study.tables import table

Values = Sequence[Any]  # the quantities of a claim
OF_INTERVALS = ("above", "below", "saves")


def reproduced(condition: bool) -> str:
    """The word for a figure that was or was not found again."""
    return "reproduced" if condition else "not reproduced"


def near(values: Values, *goals: float) -> str:
    """The word for figures that were published; the last of the goals says how near."""
    *goals, within = goals
    return reproduced(all(abs(v - goal) < within for v, goal in zip(values, goals, strict=True)))


def ahead(values: Values) -> str:
    """The word for a claim that LWTA forgets less, from a verdict of the one rule."""
    _, verdict, p = values
    if not verdict.startswith("LWTA"):
        return "not supported"
    return "supported" if p < 0.01 else "supported, weakly"


def above(interval: Values, goal: float) -> str:
    """The word for a claim that something is above a number, from its 95 % interval."""
    low, high = interval
    return "supported" if low > goal else "contradicted" if high < goal else "not supported"


RULES: dict[str, Callable[..., str]] = {
    "near": near,
    "ahead": ahead,
    "above": above,
    "below": lambda interval, goal: above([-end for end in reversed(interval)], -goal),
    "twice": lambda values: f"{reproduced(values[0] > 2 * values[1])}; one seed cannot tell",
    "mixed": lambda wins: reproduced(min(wins) > 0.1 * sum(wins)),
    "band": lambda shares: "supported" if max(shares) > 0.05 else "not supported",
    "saves": lambda cost: "no" if cost[0] > 0 else "yes" if cost[1] < 0 else "undecided",
    "quick": lambda seconds: reproduced(seconds[0] < 12),
}


def claims_table(quantity: Callable[[str], Any]) -> str:
    """Every claim with what was measured and its verdict, in Markdown."""
    rows = []
    lines = (STUDY / "claims.md").read_text(encoding="utf-8").partition("|---|")[2].splitlines()
    for line in lines[1:]:
        claim, measured, judged, quantities = line.strip("| ").split(" | ")
        rule, *goals = judged.replace("within ", "").split()
        condition, _, names = quantities.rpartition(": ")
        values, found = [], []
        for name in names.split(", "):
            place, _, digits = name.partition(" @ ")
            ends = (".low", ".high") if rule in OF_INTERVALS else ("",)
            new = [quantity(f"{condition}:{place}{end}") for end in ends]
            values += new
            found.append(" to ".join(format(value, digits) for value in new))
        verdict = RULES[rule](values, *map(float, goals))
        rows.append([claim, measured, ", ".join(found), verdict])
    return table(["claim", "measured", "found", "verdict"], rows)
