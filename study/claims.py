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

Rule = Callable[..., str]  # the word for a claim's quantities


@dataclass(frozen=True)
class Claim:
    """A statement, what was measured, the rule, and the numbers as the pages have them."""

    text: str
    what: str
    rule: Rule
    places: tuple[str, ...]  # PLACE @ FORMAT


def reproduced(condition: bool) -> str:
    """The word for a figure that was or was not found again."""
    return "reproduced" if condition else "not reproduced"


def near(*goals: float, within: float) -> Rule:
    """The rule for figures that were published."""
    return lambda *values: reproduced(
        all(abs(value - goal) < within for value, goal in zip(values, goals, strict=True))
    )


def lwta_is_ahead(difference: float, verdict: str, p: float) -> str:
    """The word for a claim that LWTA forgets less, from a verdict of the one rule."""
    if not verdict.startswith("LWTA"):
        return "not supported"
    return "supported" if p < 0.01 else "supported, weakly"


def above(goal: float) -> Rule:
    """The rule for a claim that something is above a number, from its 95 % interval."""
    return lambda low, high: (
        "supported" if low > goal else "contradicted" if high < goal else "not supported"
    )


def below(goal: float) -> Rule:
    """The rule for a claim that something is below a number, from its 95 % interval."""
    return lambda low, high: above(-goal)(-high, -low)


def is_band(*shares: float) -> str:
    """The word for the claim that units of one task alone form a band, from shares of units."""
    return "supported" if max(shares) > 0.05 else "not supported"


def places(condition: str, *names: str) -> tuple[str, ...]:
    """The places of several quantities of a condition."""
    return tuple(f"{condition}:{name}" for name in names)


def ends(place: str, digits: str) -> tuple[str, str]:
    """The places of a summary's 95 % interval."""
    return f"{place}.low @ {digits}", f"{place}.high @ {digits}"


BOTH_FORGET = "relu.forgetting @ .3f", "lwta.forgetting @ .3f"
JUDGED = "difference @ +.3f", "verdict", "p_adjusted @ .2g"
PUBLISHED, TEN = "published/published", "repeats/ten seeds"
IN_FIGURES, INSIDE = "mechanism/what the figures show", "mechanism/default"
IN_SMALL, SMALL = f"{IN_FIGURES}, small start", "The same, from a small start"
CLAIMS = (
    Claim(
        "At seed 0 ReLU forgets 0.072 and LWTA 0.022",
        "forgetting of ReLU, of LWTA; ReLU's more than twice LWTA's",
        lambda relu, lwta: f"{reproduced(relu > 2 * lwta)}; one seed cannot tell",
        places(PUBLISHED, "records.relu.0.forgetting @ .3f", "records.lwta.0.forgetting @ .3f"),
    ),
    Claim(
        "Over ten seeds ReLU forgets 0.045 and LWTA 0.043",
        "forgetting of ReLU, of LWTA; within 0.010",
        near(0.045, 0.043, within=0.01),
        places(TEN, *BOTH_FORGET),
    ),
    Claim(
        "Of ten seeds LWTA forgets less on 6 and ReLU on 4",
        "seeds on which LWTA, ReLU forgets less; within 1",
        near(6, 4, within=1.5),
        places(TEN, "wins @ d", "losses @ d"),
    ),
    Claim(
        "LWTA forgets less on average",
        "as published, 200 seeds: ReLU minus LWTA, verdict, adjusted p",
        lwta_is_ahead,
        places(PUBLISHED, *JUDGED),
    ),
    Claim(
        "The same, where the source did not look",
        "initial weights times 0.2, lr 0.01, 20 epochs, 100 fresh seeds: the same three",
        lwta_is_ahead,
        places("small-start/the small setting", *JUDGED),
    ),
    Claim(
        "The paper: LWTA forgets less",
        "its protocol, two layers, initial weights times 0.3, 20 fresh seeds: the same three",
        lwta_is_ahead,
        places("paper-start/depth 2, init scale 0.3", *JUDGED),
    ),
    Claim(
        "The paper: after Task 2 ReLU errs on 16.63 % of Task 1, LWTA on 6.12 %",
        "there: the errors; within 3.39, its smaller standard deviation, chosen after a look",
        near(16.63, 6.12, within=3.39),
        places(
            "paper-start/depth 2, init scale 0.3", "relu.error_kept @ .2f", "lwta.error_kept @ .2f"
        ),
    ),
    Claim(
        "The paper: LWTA forgets less, with three layers",
        "there, from 0.2: as before",
        lwta_is_ahead,
        places("paper-start/depth 3, init scale 0.2", *JUDGED),
    ),
    Claim(
        "Task 1 is learned to 97 %, Task 2 to 95 %",
        "200 seeds: ReLU on both, LWTA on both; within 1.5 %",
        near(0.97, 0.95, 0.97, 0.95, within=0.015),
        places(PUBLISHED, *(f"{m}.{w} @ .3f" for m in PAIR for w in ("learned", "last_task"))),
    ),
    *(
        Claim(
            f"At {hidden} units, three layers and 50 epochs LWTA forgets less",
            "20 seeds: the same three",
            lwta_is_ahead,
            places(f"scale/hidden {hidden}, depth 3, epochs 50", *JUDGED),
        )
        for hidden in (800, 1024)
    ),
    Claim(
        "Blocks of 4 are noisier than blocks of 2",
        "ratio of standard deviations, 95 % interval",
        above(1),
        ends("block/k 4, equal units:change.spread_ratio", ".2f"),
    ),
    Claim(
        "Dropout makes seeds differ less",
        "half of the hidden units: ratio of standard deviations, 95 % interval",
        below(1),
        ends("dropout/dropout 0.5, input dropout 0.0:change.spread_ratio", ".2f"),
    ),
    Claim(
        "On permuted MNIST some seeds have ReLU forget more, some less",
        "seeds on which LWTA, ReLU forgets less",
        lambda wins, losses: reproduced(min(wins, losses) > 0.1 * (wins + losses)),
        places("permuted/ten digits, then permuted, 5 epochs", "wins @ d", "losses @ d"),
    ),
    Claim(
        "Without the mask both networks forget all",
        "forgetting of ReLU, of LWTA; within 0.1",
        near(1, 1, within=0.1),
        places("single-head/head single", *BOTH_FORGET),
    ),
    Claim(
        "LWTA's first-layer fields are more localised",
        "spread of what training changed, ReLU minus LWTA, pixels, 95 % interval",
        above(0),
        ends(f"{IN_FIGURES}:relu-lwta.change_spread", "+.3f"),
    ),
    Claim(SMALL, "the same", above(0), ends(f"{IN_SMALL}:relu-lwta.change_spread", "+.3f")),
    Claim(
        "A band of LWTA's units fires almost only for one task",
        "share of such units, layers 1 and 2; a band if above 5 %",
        is_band,
        places(IN_FIGURES, "lwta.exclusive_1 @ .1%", "lwta.exclusive_2 @ .1%"),
    ),
    Claim(
        SMALL,
        "the same",
        is_band,
        places(IN_SMALL, "lwta.exclusive_1 @ .1%", "lwta.exclusive_2 @ .1%"),
    ),
    Claim(
        "LWTA's units tell the tasks apart, ReLU's fire for both",
        "a layer 1 unit is active on a share of each task's images: difference of the two over "
        "their sum, ReLU minus LWTA, 95 % interval",
        below(0),
        ends(f"{IN_FIGURES}:relu-lwta.selectivity_1", "+.3f"),
    ),
    Claim(
        "The same by another measure",
        "the difference itself, ReLU minus LWTA, 95 % interval",
        below(0),
        ends(f"{IN_FIGURES}:relu-lwta.gap_1", "+.3f"),
    ),
    *(
        Claim(
            SMALL, f"by the {which} measure", below(0), ends(f"{IN_SMALL}:relu-lwta.{name}", "+.3f")
        )
        for which, name in (("first", "selectivity_1"), ("other", "gap_1"))
    ),
    Claim(
        "Deeper LWTA layers are more segregated than the first",
        "bits about the task, layer 2 minus layer 1, 95 % interval",
        above(0),
        ends(f"{INSIDE}:lwta.information.layer2-layer1.after2", "+.4f"),
    ),
    Claim(
        "Asked: does firing half of its units save LWTA memory traffic beside ReLU?",
        "forward pass, silent units skipped, share that LWTA costs more, 95 % interval",
        lambda low, high: "no" if low > 0 else "yes" if high < 0 else "undecided",
        ends("movement:over_relu.lwta.forward", "+.3f"),
    ),
    Claim(
        "One seed, its figures and its animation take about 10 s",
        "seconds, on another machine and without training again for the animation",
        lambda seconds: reproduced(seconds < 12),
        ("speed:processes.all of one seed.seconds @ .1f",),
    ),
    Claim(
        "The animation is a file of about 220 KB",
        "thousands of bytes of `compete_to_compute.gif`; within a fifth",
        near(220, within=44),
        ("size:compete_to_compute.gif @ .0f",),
    ),
)


def claims_table(quantity: Callable[[str], Any]) -> str:
    """Every claim with what was measured and its verdict, in Markdown."""
    values = {
        claim: [quantity(place.partition(" @ ")[0]) for place in claim.places] for claim in CLAIMS
    }

    def found(claim: Claim) -> str:
        formats = [place.partition(" @ ")[2] for place in claim.places]
        is_interval = ".high @ " in claim.places[-1]
        return (" to " if is_interval else ", ").join(map(format, values[claim], formats))

    columns = (
        Column("claim", lambda claim: claim.text),
        Column("measured", lambda claim: claim.what),
        Column("found", found),
        Column("verdict", lambda claim: claim.rule(*values[claim])),
    )
    return markdown(columns, CLAIMS)
