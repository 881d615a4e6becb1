"""Every claim of the source: its words, the quantities that speak to it, and the rule that judges.

The verdict is the rule's word for the quantities, so that it follows the runs. Where a claim is of
forgetting, the rule reads the verdict of the one rule of inference; of anything else, a 95 %
interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from study.runs import PAIR
from study.tables import Column, markdown


@dataclass(frozen=True)
class Claim:
    """A statement, what was measured, the places of its numbers, their format, and the rule."""

    text: str
    what: str
    places: tuple[str, ...]
    digits: str
    rule: Callable[..., str]


def reproduced(condition: bool) -> str:
    """The word for a figure that was or was not found again."""
    return "reproduced" if condition else "not reproduced"


def lwta_is_ahead(difference: float, verdict: str) -> str:
    """The word for a claim that LWTA forgets less, from a verdict of the one rule."""
    return "supported" if verdict.startswith("LWTA") else "not supported"


def above_zero(low: float, high: float) -> str:
    """The word for a claim that something is above zero, from its 95 % interval."""
    return "supported" if low > 0 else "contradicted" if high < 0 else "not supported"


def below_one(low: float, high: float) -> str:
    """The word for a claim that a ratio is below one, from its 95 % interval."""
    return above_zero(1 - high, 1 - low)


def ends(place: str) -> tuple[str, str]:
    """The places of a summary's 95 % interval."""
    return f"{place}.low", f"{place}.high"


def judged(place: str) -> tuple[str, str]:
    """The places of a condition's difference and verdict."""
    return f"{place}:difference", f"{place}:verdict"


PUBLISHED, TEN = "published/published", "repeats/ten seeds"
IN_FIGURES, INSIDE = "mechanism/what the figures show", "mechanism/default"
PERMUTED = "permuted/ten digits, then permuted, 5 epochs"
CLAIMS = (
    Claim(
        "At seed 0 ReLU forgets 0.072 and LWTA 0.022",
        "forgetting of ReLU, of LWTA",
        (f"{PUBLISHED}:records.relu.0.forgetting", f"{PUBLISHED}:records.lwta.0.forgetting"),
        ".3f",
        lambda relu, lwta: f"{reproduced(relu > 2 * lwta)}; one seed cannot tell",
    ),
    Claim(
        "Over ten seeds ReLU forgets 0.045 and LWTA 0.043",
        "forgetting of ReLU, of LWTA",
        (f"{TEN}:relu.forgetting", f"{TEN}:lwta.forgetting"),
        ".3f",
        lambda relu, lwta: reproduced(abs(relu - 0.045) < 0.01 and abs(lwta - 0.043) < 0.01),
    ),
    Claim(
        "LWTA forgets less on average",
        "200 seeds: ReLU minus LWTA",
        judged(PUBLISHED),
        "+.3f",
        lwta_is_ahead,
    ),
    Claim(
        "Task 1 is learned to 97 %, Task 2 to 95 %",
        "200 seeds: ReLU on both, LWTA on both",
        tuple(f"{PUBLISHED}:{m}.{what}" for m in PAIR for what in ("learned", "last_task")),
        ".3f",
        lambda *values: reproduced(
            all(abs(v - goal) < 0.015 for v, goal in zip(values, (0.97, 0.95) * 2, strict=True))
        ),
    ),
    Claim(
        "At 800 units, three layers and 50 epochs LWTA forgets less",
        "20 seeds: ReLU minus LWTA",
        judged("scale/hidden 800, depth 3, epochs 50"),
        "+.3f",
        lwta_is_ahead,
    ),
    Claim(
        "At 1024 units, three layers and 50 epochs LWTA forgets less",
        "20 seeds: ReLU minus LWTA",
        judged("scale/hidden 1024, depth 3, epochs 50"),
        "+.3f",
        lwta_is_ahead,
    ),
    Claim(
        "Blocks of 4 are noisier than blocks of 2",
        "ratio of standard deviations, 95 % interval",
        ends("block/k 4, equal units:change.spread_ratio"),
        ".2f",
        lambda low, high: above_zero(low - 1, high - 1),
    ),
    Claim(
        "Dropout makes seeds differ less",
        "half of the hidden units: ratio of standard deviations, 95 % interval",
        ends("dropout/dropout 0.5, input dropout 0.0:change.spread_ratio"),
        ".2f",
        below_one,
    ),
    Claim(
        "On permuted MNIST some seeds have ReLU forget more, some less",
        "seeds on which LWTA, ReLU forgets less",
        (f"{PERMUTED}:wins", f"{PERMUTED}:losses"),
        "d",
        lambda wins, losses: reproduced(min(wins, losses) > 0.1 * (wins + losses)),
    ),
    Claim(
        "Without the mask both networks forget all",
        "forgetting of ReLU, of LWTA",
        ("single-head/head single:relu.forgetting", "single-head/head single:lwta.forgetting"),
        ".3f",
        lambda relu, lwta: reproduced(min(relu, lwta) > 0.9),
    ),
    Claim(
        "LWTA's first-layer fields are more localised",
        "spread of what training changed, ReLU minus LWTA, pixels, 95 % interval",
        ends(f"{IN_FIGURES}:relu-lwta.change_spread"),
        "+.3f",
        above_zero,
    ),
    Claim(
        "A band of LWTA's units fires almost only for one task",
        "share of such units, layers 1 and 2",
        (f"{IN_FIGURES}:lwta.exclusive_1", f"{IN_FIGURES}:lwta.exclusive_2"),
        ".1%",
        lambda *shares: "supported" if max(shares) > 0.05 else "not supported",
    ),
    Claim(
        "LWTA's units tell the tasks apart, ReLU's fire for both",
        "mean selectivity in layer 1, ReLU minus LWTA, 95 % interval",
        ends(f"{IN_FIGURES}:relu-lwta.selectivity_1"),
        "+.3f",
        lambda low, high: above_zero(-high, -low),
    ),
    Claim(
        "Deeper LWTA layers are more segregated than the first",
        "bits about the task, layer 2 minus layer 1, 95 % interval",
        ends(f"{INSIDE}:lwta.information.layer2-layer1.after2"),
        "+.4f",
        above_zero,
    ),
    Claim(
        "Asked: does firing half of its units save LWTA memory traffic beside ReLU?",
        "forward pass, silent units skipped, share that LWTA costs more, 95 % interval",
        ends("movement:over_relu.lwta.forward"),
        "+.3f",
        lambda low, high: "no" if low > 0 else "yes" if high < 0 else "undecided",
    ),
    Claim(
        "One seed, its figures and its animation take about 10 s",
        "seconds, on another machine and without training again for the animation",
        ("speed:processes.all of one seed.seconds",),
        ".1f",
        lambda seconds: reproduced(seconds < 12),
    ),
)


def claims_table(quantity: Callable[[str], Any]) -> str:
    """Every claim with what was measured and its verdict, in Markdown."""
    values = {claim: [quantity(place) for place in claim.places] for claim in CLAIMS}

    def numbers(claim: Claim) -> str:
        texts = [v if isinstance(v, str) else format(v, claim.digits) for v in values[claim]]
        return ", ".join(texts)

    columns = (
        Column("the source says", lambda claim: claim.text),
        Column("measured", lambda claim: claim.what),
        Column("found", numbers),
        Column("verdict", lambda claim: claim.rule(*values[claim])),
    )
    return markdown(columns, CLAIMS)
