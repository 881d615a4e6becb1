"""The page of --html: well formed, complete by itself, and with the terminal's numbers."""

from __future__ import annotations

import base64
import json
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main, print_report

TINY = "--hidden 20 --train-per-class 100 --test-per-task 50 --epochs 3 --quiet".split()
STUDY = """\
# What the study says

<!-- a table -->
| condition | difference |
| --- | --- |
| Default | <!--default-->+0.004<!--/--> |

<!--n-->5<!--/--> seeds: see [below](#a-question), [all](tables.md) and [here](../README.md#x).

## A question

![A grey square](figures/grey.png)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results and snapshots of three tiny seeds."""
    folder = tmp_path_factory.mktemp("saved")
    main(["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", *TINY, "--n-seeds", "3"])
    return folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study with a report of its own."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "README.md").write_text(STUDY)
    Image.new("RGBA", (60, 40), "grey").save(tmp_path / "figures" / "grey.png")
    monkeypatch.setattr(visualize, "STUDY_REPORT", tmp_path / "README.md")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the run's figures only that of its seeds is drawn."""
    for name in ("training_curves", "forgetting_bar", "receptive_fields", "winner_frequency"):
        empty = Figure(figsize=(1, 1))
        empty.suptitle("not drawn here")
        monkeypatch.setattr(visualize, name, lambda *_, empty=empty: empty)


def write(saved: Path, out: Path, results: dict[str, Any] | None = None) -> ElementTree.Element:
    """The page made from saved files: it is well formed, loads nothing and runs nothing."""
    path = saved / "r.json" if results is None else out / "r.json"
    if results:
        path.write_text(json.dumps(results))
    files = ["--snapshots", f"{saved}/s.npz", *(["--results", str(path)] if path.exists() else [])]
    visualize.main([*files, "--out-dir", str(out), "--html"])
    text = (out / "report.html").read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert "default-src 'none'" in text
    page = ElementTree.fromstring(text)
    tags = [element.tag for element in page.iter()]
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(tags)
    assert [tag for tag in tags if re.fullmatch("h[1-6]", tag)][:2] == ["h1", "h2"]
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len({*ids})
    for link in page.iter("a"):
        assert link.get("href")[1:] in ids or link.get("href").startswith("http")
    for image in page.iter("img"):
        assert len(image.get("alt")) >= 10
        head, _, data = image.get("src").partition(",")
        assert head == "data:image/png;base64"
        Image.open(BytesIO(base64.b64decode(data, validate=True))).load()
    return page


def texts(page: ElementTree.Element, tag: str) -> list[str]:
    """The text of each element with this tag."""
    return ["".join(element.itertext()) for element in page.iter(tag)]


def test_the_run_and_the_committed_report_are_one_page(saved: Path, tmp_path: Path) -> None:
    page = write(saved, tmp_path)
    assert (texts(page, "h2")[0], len(texts(page, "h2"))) == ("This run", 2)
    assert len([*page.iter("img")]) > 6


@pytest.mark.usefixtures("small")
def test_the_page_has_what_the_run_printed_and_the_report_without_its_marks(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write(saved, tmp_path)
    capsys.readouterr()
    print_report(json.loads((saved / "r.json").read_text()))
    assert texts(page, "pre") == [capsys.readouterr().out]
    assert {"hidden", "20", "processor", "+0.004"} <= {*texts(page, "td")}
    assert "lr" not in texts(page, "td"), "a setting that is the default"
    assert "5 seeds: see below, all and here." in texts(page, "p")


def test_without_markdown_one_line_says_how_to_get_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "markdown", None)
    with pytest.raises(InputError, match="python3 -m pip install markdown"):
        write(saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("small")
def test_snapshots_alone_are_enough(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no results.json
    visualize.STUDY_REPORT.unlink()
    page = write(saved, tmp_path, results={})
    assert texts(page, "h2") == ["This run"]
    assert len([*page.iter("img")]) == 5
    with pytest.raises(InputError, match="there is no such file"):
        visualize.main(["--snapshots", f"{saved}/s.npz", "--results", "nothing.json"])


@pytest.mark.usefixtures("small")
def test_results_of_another_run_are_left_out_and_a_failed_run_is_named(
    saved: Path, tmp_path: Path
) -> None:
    results = json.loads((saved / "r.json").read_text())
    results["per_seed"][0] |= {"status": "untrained", "failure": "accuracy <b>low</b> & flat"}
    page = write(saved, tmp_path, results)
    assert "ReLU untrained: accuracy <b>low</b> & flat." in texts(page, "pre")[0]
    results["config"]["momentum"] = 0.5
    page = write(saved, tmp_path, results)
    assert "There is no results file of this run." in texts(page, "p")
    assert not any("untrained" in text for text in texts(page, "pre"))
