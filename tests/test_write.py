"""The pages' numbers are those of the committed runs, and stand nowhere but between anchors."""

from __future__ import annotations

import re

import pytest

from compete_to_compute import InputError
from study.write import NUMBER, PAGES, ROWS, TABLE, filled

TEXTS = {page.parent.name: page.read_text(encoding="utf-8") for page in PAGES}


def test_numbers_and_tables_in_the_pages_are_put_there_from_the_runs() -> None:
    for page in TEXTS.values():
        emptied = re.sub(r"(<!--=[^>]+-->).*?<!--/-->", r"\1<!--/-->", page)
        emptied = re.sub(
            r"(<!--table .+?-->\n).*?<!--/table-->", r"\1<!--/table-->", emptied, flags=re.S
        )
        emptied = ROWS.sub(r"\g<start><!--/rows-->", emptied)
        assert filled(emptied) == page


@pytest.mark.parametrize("place", ["speed:no_such_number", "size:no_such_file"])
def test_a_place_without_a_number_is_named(place: str) -> None:
    with pytest.raises(InputError, match=place):
        filled(f"<!--={place}-->1<!--/-->")


@pytest.mark.parametrize("page", TEXTS)
def test_measured_numbers_stand_only_between_anchors(page: str) -> None:
    prose = ROWS.sub("", TABLE.sub("", NUMBER.sub("", TEXTS[page])))
    # Settings, the margin, published figures, and the spread of an even field.
    quoted = {"0.003", "0.01", "0.02", "0.03", "0.1", "0.2", "0.3", "0.4", "1.0", "0.95", "0.010"}
    quoted |= {"16.6", "6.1", "57.8", "0.04", "0.05", "0.5", "0.9", "1.4", "11.42"}
    assert set(re.findall(r"\d+\.\d+", prose)) <= quoted
