"""The README's numbers are those of the committed results."""

from __future__ import annotations

import json
import re

import pytest

import write_readme_tables
from compete_to_compute import InputError
from write_readme_tables import PAGES, ROOT, fill, judge

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
STUDIES = sorted((ROOT / "study").glob("*.json"))


@pytest.mark.parametrize("page", PAGES)
def test_every_table_is_what_its_study_file_gives(page: str) -> None:
    assert fill(page, TEXTS[page]) == TEXTS[page]


def test_a_changed_number_would_be_noticed() -> None:
    start = README.index("<!-- ten_seeds -->")
    digit = re.compile(r"0\.\d").search(README, start)
    assert digit
    changed = README[: digit.end() - 1] + "x" + README[digit.end() :]
    assert fill("README.md", changed) == README


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_is_strict_json_with_its_origin(path: object) -> None:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    found = json.loads(path.read_text(), parse_constant=refuse)
    assert found["schema"] == 1
    assert found["environment"]["git_commit"]
    assert found.get("command", "--out study/ten_seeds.json") in README
    assert found.get("peers", {}).get("command", "") in README


@pytest.mark.parametrize("page", PAGES)
def test_measured_numbers_stand_only_in_the_tables(page: str) -> None:
    prose = TEXTS[page]
    for name in PAGES[page]:
        prose = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", "", prose, flags=re.DOTALL)
    # A target loss, the published settings, and a definition.
    quoted = {"0.03", "0.05", "0.9", "0.0001", "11.42"}
    assert set(re.findall(r"\d+\.\d+", prose)) <= quoted


def test_a_verdict_needs_all_of_its_intervals() -> None:
    above, below, around = [0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1]
    assert judge({"a": above, "b": above}, "more", "less") == "more"
    assert judge({"a": below, "b": below}, "more", "less") == "less"
    assert judge({"a": around, "b": around}, "more", "less", "neither") == "neither"
    mixed = judge({"a": above, "b": around, "c": below}, "more", "less", null="one")
    assert (
        mixed == "not shown; the unadjusted interval is above one only in a and below one only in c"
    )
    assert judge({"a": None}, "more", "less") == "no pairs"


def test_a_result_that_is_missing_is_said_and_no_page_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> str:
        raise KeyError("lr 0.02")

    last = list(PAGES)[-1]
    monkeypatch.setitem(PAGES[last], list(PAGES[last])[-1], missing)
    monkeypatch.setattr(write_readme_tables, "write_or_stop", None)
    with pytest.raises(InputError, match=r"lr 0\.02.*run its command first"):
        write_readme_tables.main([])
