"""The pages, and study/tables.md, have the numbers of the committed runs."""

from __future__ import annotations

import re

import pytest

from compete.files import InputError
from study.write import NUMBER, PAGES, ROWS, TABLE, contents, filled

TEXTS = {page.parent.name: page.read_text(encoding="utf-8") for page in PAGES}


def test_pages_and_tables_are_what_is_written_from_the_runs() -> None:
    for path, text in contents().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: python3 -m study write"


@pytest.mark.parametrize("place", ["speed:no_such_number", "size:no_such_file"])
def test_a_place_without_a_number_is_named(place: str) -> None:
    with pytest.raises(InputError, match="no such quantity"):
        filled(f"<!--={place}-->1<!--/-->")


@pytest.mark.parametrize("page", TEXTS)
def test_measured_numbers_stand_only_between_anchors(page: str) -> None:
    prose = ROWS.sub("", TABLE.sub("", NUMBER.sub("", TEXTS[page])))
    # Settings, the margin, published figures, and the spread of an even field.
    quoted = {"0.003", "0.01", "0.02", "0.03", "0.1", "0.2", "0.3", "0.4", "1.0", "0.95", "0.010"}
    quoted |= {"16.6", "6.1", "57.8", "0.04", "0.05", "0.5", "0.9", "1.4", "11.42"}
    assert set(re.findall(r"\d+\.\d+", prose)) <= quoted
