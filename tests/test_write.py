"""The pages' numbers are those of the committed runs, and stand nowhere but between anchors."""

from __future__ import annotations

import re

import pytest

from compete_to_compute import InputError
from study.write import NUMBER, PAGES, TABLE, filled

TEXTS = {page.parent.name: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_is_what_the_runs_give(page: str) -> None:
    assert filled(TEXTS[page]) == TEXTS[page]


def test_a_changed_number_is_put_right() -> None:
    page = next(text for text in TEXTS.values() if NUMBER.search(text))
    place = NUMBER.search(page)
    assert place
    changed = place[0].partition("-->")[0] + "-->0.123<!--/-->"
    assert filled(changed) == place[0]


def test_a_place_without_a_number_is_named() -> None:
    with pytest.raises(InputError, match="published/published:no_such_number"):
        filled("<!--=published/published:no_such_number-->1<!--/-->")


@pytest.mark.parametrize("page", TEXTS)
def test_measured_numbers_stand_only_between_anchors(page: str) -> None:
    prose = TABLE.sub("", NUMBER.sub("", TEXTS[page]))
    # Settings, the margin, published figures, and the spread of an even field.
    quoted = {"0.01", "0.02", "0.03", "0.1", "0.2", "0.4", "1.0", "0.95", "0.010", "16.6", "6.1"}
    quoted |= {"0.05", "0.5", "0.9", "11.42"}
    assert set(re.findall(r"\d+\.\d+", prose)) <= quoted
