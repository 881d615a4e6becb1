"""Put the numbers into the pages, and make tables and figures; nothing is trained.

    python3 -m study write

People write README.md and study/README.md; a number in their prose stands between anchors that a
reader does not see, `<!--=PLACE @ FORMAT-->` before it and `<!--/-->` behind it, and is put there
from the runs. PLACE is that of `analysis.quantity`, `why:NAME` of the small setting that is looked
into, `speed:NAME`, `movement:NAME`, or `size:FILE` in thousands of bytes; FORMAT is Python's. A
table goes between `<!--table TITLE-->` and `<!--/table-->`; one of chosen conditions has its rows
in the first anchor, behind the first column's head, a line `LABEL: FAMILY/CONDITION` each, without
FAMILY if it is that of the row above, and ends with `<!--/rows-->`. study/tables.md has every
table, and is written whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from compete.files import InputError, check_writable, write_or_stop
from compete.options import OneLineParser
from study import analysis, explanations, figures, movement, rule, speed
from study.claims import claims_table
from study.runs import FIGURES, RESULTS, STUDY
from visualize_compete_to_compute import save_figure

PAGES = (STUDY.parent / "README.md", STUDY / "README.md")
TABLES = STUDY / "tables.md"
NUMBER = re.compile(r"<!--=(?P<place>[^>]+?)(?: @ (?P<format>[^ >]+))?-->.*?<!--/-->", re.DOTALL)
TABLE = re.compile(r"<!--table (?P<title>.+?)-->\n.*?<!--/table-->", re.DOTALL)
ROWS = re.compile(
    r"(?P<start><!--rows (?P<head>.+?)\n(?P<rows>.+?)\n-->\n).*?<!--/rows-->", re.DOTALL
)


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
    try:
        if source == "size":
            return (STUDY.parent / name).stat().st_size / 1000
        if source in ("speed", "movement"):
            return measured(source)[name]
        if source == "why":
            return analysis.quantity(f"mechanism/{explanations.SMALL}:{name}")
    except (OSError, KeyError):
        raise InputError(f"{place}: there is no such quantity") from None
    return analysis.quantity(place)


@cache
def tables() -> dict[str, str]:
    """Every table in Markdown, by its title."""
    return {
        "claims": claims_table(quantity),
        **analysis.tables(),
        **rule.tables(),
        **analysis.inside_tables(),
        **explanations.tables(),
        **movement.tables(saved("movement")),
        **speed.tables(saved("speed")),
    }


def rows_of(match: re.Match[str]) -> list[tuple[str, str]]:
    """Label and place of each row of a table of chosen conditions."""
    rows, family = [], ""
    for line in match["rows"].splitlines():
        text, _, place = line.partition(": ")
        named, _, condition = place.partition("/")
        family = named or family
        rows.append((text, f"{family}/{condition}"))
    return rows


def filled(page: str) -> str:
    """A page with its numbers and tables as the results have them now."""

    def put_number(match: re.Match[str]) -> str:
        start = match[0].partition("-->")[0] + "-->"
        return f"{start}{format(quantity(match['place']), match['format'] or '')}<!--/-->"

    def put_table(match: re.Match[str]) -> str:
        if match["title"] not in tables():
            raise InputError(f"{match['title']}: there is no such table")
        return f"<!--table {match['title']}-->\n{tables()[match['title']]}\n<!--/table-->"

    def put_rows(match: re.Match[str]) -> str:
        table = analysis.chosen_rows(match["head"], rows_of(match))
        return f"{match['start']}{table}\n<!--/rows-->"

    return ROWS.sub(put_rows, TABLE.sub(put_table, NUMBER.sub(put_number, page)))


def contents() -> dict[Path, str]:
    """The pages, and study/tables.md, as they are to be."""
    sections = [f"## {title}\n\n{table}\n" for title, table in tables().items()]
    title = "# Every table\n\nMade by `python3 -m study write`.\n"
    pages = {page: filled(page.read_text(encoding="utf-8")) for page in PAGES}
    return {**pages, TABLES: "\n".join([title, *sections])}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, the tables and the figures; the exit status."""
    OneLineParser(description="Numbers, tables and figures; trains nothing.").parse_args(arguments)
    written = contents()
    for path in written:
        check_writable(path)
    for path, text in written.items():
        write_or_stop(path, text.encode())
        print(f"Wrote {path}")
    prose = "\n".join(written[page] for page in PAGES)
    places = {match["place"].rpartition(":")[0] for match in NUMBER.finditer(prose)}
    places |= {place for match in ROWS.finditer(prose) for _, place in rows_of(match)}
    FIGURES.mkdir(exist_ok=True)
    drawn = {**figures.draw_all(places), "movement": movement.movement_figure(saved("movement"))}
    for name, figure in drawn.items():
        save_figure(figure, FIGURES / f"{name}.png")
    return 0
