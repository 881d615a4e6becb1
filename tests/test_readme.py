"""The README's numbers are those of the committed results."""

from __future__ import annotations

import json
import re

import pytest

from write_readme_tables import PAGES, ROOT, fill

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
    quoted = {"0.03", "0.9", "11.42"}  # a target loss, and two definitions
    assert set(re.findall(r"\d+\.\d+", prose)) <= quoted
