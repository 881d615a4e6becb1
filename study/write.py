"""Put the numbers into the pages, and make tables and figures; nothing is trained.

    python3 -m study write

People write README.md and study/README.md; a number in their prose stands between anchors that a
reader does not see, `<!--=PLACE @ FORMAT-->` before it and `<!--/-->` behind it, and is put there
from the runs. PLACE is that of `analysis.quantity` or `mechanism_analysis.quantity`, or
`speed:NAME` or `movement:NAME`; FORMAT is Python's. Tables go between `<!--table TITLE-->` and
`<!--/table-->`.
study/tables.md has every table, and is written whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from compete_to_compute import InputError, OneLineParser, check_writable, write_or_stop
from study import (
    analysis,
    figures,
    mechanism_analysis,
    mechanism_figures,
    movement,
    peers,
    rule,
    speed,
)
from study.runs import FIGURES, RESULTS, STUDY
from study.tables import Column, markdown
from visualize_compete_to_compute import save_figure

PAGES = (STUDY.parent / "README.md", STUDY / "README.md")
TABLES = STUDY / "tables.md"
NUMBER = re.compile(r"<!--=(?P<place>[^>]+?)(?: @ (?P<format>[^ >]+))?-->.*?<!--/-->", re.DOTALL)
TABLE = re.compile(r"<!--table (?P<title>.+?)-->\n.*?<!--/table-->", re.DOTALL)


@dataclass(frozen=True)
class Claim:
    """A statement of the source, the quantity that speaks to it, and the rule for its verdict.

    `rule` turns the quantities at `places` into a word; `digits` is their format in the table.
    """

    text: str
    places: tuple[str, ...]
    digits: str
    rule: Callable[..., str]
    file: str


def holds(condition: bool) -> str:
    """The word for a claim that does or does not hold."""
    return "reproduced" if condition else "not reproduced"


def lwta_is_ahead(difference: float, verdict: str) -> str:
    """The word for a claim that LWTA forgets less, from the verdict of the one rule."""
    return "supported" if verdict.startswith("LWTA") else "not supported"


SEED_0 = "published/published:records"
FIELDS = "mechanism/what the figures show"
CLAIMS = (
    Claim(
        "Seed 0: ReLU forgets 0.072 and LWTA 0.022, a third",
        (f"{SEED_0}.relu.0.forgetting", f"{SEED_0}.lwta.0.forgetting"),
        ".3f",
        lambda relu, lwta: f"{holds(relu > 2 * lwta)}, and one seed cannot tell",
        "conditions.csv",
    ),
    Claim(
        "LWTA forgets less on average, with the published batches",
        ("published/published:difference", "published/published:verdict"),
        "+.3f",
        lwta_is_ahead,
        "conditions.csv",
    ),
    Claim(
        "Task 1 is learned to 97 % and Task 2 to 95 %",
        ("published/published:lwta.learned", "published/published:lwta.last_task"),
        ".3f",
        lambda first, second: holds(abs(first - 0.97) < 0.015 and abs(second - 0.95) < 0.015),
        "conditions.csv",
    ),
    Claim(
        "At the paper's scale and length, 800x3 and 50 epochs, the gap is consistent",
        (
            "scale/hidden 800, depth 3, epochs 50:difference",
            "scale/hidden 800, depth 3, epochs 50:verdict",
        ),
        "+.3f",
        lwta_is_ahead,
        "conditions.csv",
    ),
    Claim(
        "Blocks of 4 are noisier than blocks of 2: ratio of the spreads",
        (
            "block/k 4, equal units:change.spread_ratio.low",
            "block/k 4, equal units:change.spread_ratio.high",
        ),
        ".2f",
        lambda low, high: "supported" if low > 1 else "not supported",
        "conditions.csv",
    ),
)


def claims_table() -> str:
    """Every claim with what was measured and its verdict."""
    values = {claim: [quantity(place) for place in claim.places] for claim in CLAIMS}
    columns = (
        Column("the source says", lambda claim: claim.text),
        Column(
            "measured",
            lambda claim: ", ".join(
                v if isinstance(v, str) else format(v, claim.digits) for v in values[claim]
            ),
        ),
        Column("verdict", lambda claim: claim.rule(*values[claim])),
        Column("runs in", lambda claim: f"`results/{claim.file}`"),
    )
    return markdown(columns, CLAIMS)


@cache
def saved(name: str) -> dict[str, Any]:
    """A small file of results; `InputError` if it is missing or damaged."""
    path = RESULTS / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run its command first") from None


@cache
def measured(name: str) -> dict[str, float]:
    """The quantities of speed or of movement, by name."""
    return {"speed": speed, "movement": movement}[name].quantities(saved(name))


def quantity(place: str) -> Any:
    """The number or word at a place; `InputError` where there is none."""
    source, _, name = place.partition(":")
    if source in ("speed", "movement"):
        if name not in measured(source):
            raise InputError(f"{place}: there is no such quantity")
        return measured(source)[name]
    is_mechanism = source.partition("/")[0] == "mechanism"
    return (mechanism_analysis if is_mechanism else analysis).quantity(place)


@cache
def tables() -> dict[str, str]:
    """Every table in Markdown, by its title."""
    return {
        "claims": claims_table(),
        **analysis.tables(),
        **rule.tables(),
        **mechanism_analysis.tables(),
        **movement.tables(saved("movement")),
        **speed.tables(saved("speed")),
        **peers.tables(saved("speed")),
    }


def filled(page: str) -> str:
    """A page with its numbers and tables as the results have them now."""

    def put_number(match: re.Match[str]) -> str:
        start = match[0].partition("-->")[0] + "-->"
        return f"{start}{format(quantity(match['place']), match['format'] or '')}<!--/-->"

    def put_table(match: re.Match[str]) -> str:
        if match["title"] not in tables():
            raise InputError(f"{match['title']}: there is no such table")
        return f"<!--table {match['title']}-->\n{tables()[match['title']]}\n<!--/table-->"

    return TABLE.sub(put_table, NUMBER.sub(put_number, page))


def all_tables() -> str:
    """The contents of study/tables.md."""
    sections = [f"## {title}\n\n{table}\n" for title, table in tables().items()]
    return "\n".join(["# Every table\n\nMade by `python3 -m study write`.\n", *sections])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, the tables and the figures; the exit status."""
    parser = OneLineParser(
        prog="python3 -m study write", description="Numbers, tables and figures; trains nothing."
    )
    parser.parse_args(arguments)
    contents: dict[Path, str] = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES}
    contents[TABLES] = all_tables()
    for path in contents:
        check_writable(path)
    for path, text in contents.items():
        write_or_stop(path, text.encode())
        print(f"Wrote {path}")
    FIGURES.mkdir(exist_ok=True)
    figures.draw_all()
    mechanism_figures.draw_all()
    save_figure(movement.movement_figure(saved("movement")), FIGURES / "movement.png")
    return 0
