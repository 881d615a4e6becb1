"""The page of --html: well formed, complete by itself, and with the terminal's numbers."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main, print_report

ROOT = Path(__file__).resolve().parents[1]
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

    # python3 -m study
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results, snapshots and figures of three tiny seeds."""
    folder = tmp_path_factory.mktemp("saved")
    main(["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", *TINY, "--n-seeds", "3"])
    return folder


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study with a report of its own; the figures of the run are not drawn."""
    (tmp_path / "study" / "figures").mkdir(parents=True)
    (tmp_path / "study" / "README.md").write_text(STUDY)
    Image.new("RGBA", (60, 40), "grey").save(tmp_path / "study" / "figures" / "grey.png")
    monkeypatch.setattr(visualize, "STUDY_REPORT", tmp_path / "study" / "README.md")
    for name in ("training_curves", "forgetting_bar", "receptive_fields", "winner_frequency"):
        monkeypatch.setattr(visualize, name, lambda *_: None)
    return tmp_path / "study"


def write(saved: Path, out: Path, results: Path | None = None) -> ElementTree.Element:
    """The page made from saved files: it is well formed, loads nothing and runs nothing."""
    files = ["--snapshots", f"{saved}/s.npz", "--results", str(results or saved / "r.json")]
    visualize.main([*files, "--out-dir", str(out), "--html"])
    return check_page(out / "report.html")


def check_page(path: Path) -> ElementTree.Element:
    assert path.stat().st_size < visualize.LARGEST_PAGE
    text = path.read_text(encoding="utf-8")
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
    assert texts(page, "h2")[0] == "This run"
    assert len(texts(page, "h2")) == 2
    assert len([*page.iter("img")]) > 6


def test_of_the_report_comments_go_and_links_to_other_files_become_text(
    saved: Path, study: Path, tmp_path: Path
) -> None:
    page = write(saved, tmp_path)
    assert "+0.004" in texts(page, "td")
    assert "5 seeds: see below, all and here." in texts(page, "p")
    assert "#a-question" in {link.get("href") for link in page.iter("a")}


def test_the_numbers_are_those_of_the_terminal(
    saved: Path, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = write(saved, tmp_path)
    capsys.readouterr()
    print_report(json.loads((saved / "r.json").read_text()))
    printed = capsys.readouterr().out
    headline = printed.partition("Seed 0")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(headline) == 4
    rows = {"".join(row.split()) for row in texts(page, "tr")}
    assert {"".join(line.split()) for line in headline} <= rows
    patterns = r"Verdict: (.*)\.", r"test p = (\S+)", r"mean (\S+),", r"minus.*\n.*interval (.+)"
    numbers = {re.search(pattern, printed)[1] for pattern in patterns}
    assert numbers | {"--train-per-class"} <= {*texts(page, "td")}
    assert "--lr" not in texts(page, "td"), "a setting that is the default"


def test_a_page_that_would_be_too_large_gets_fewer_colours(
    saved: Path, study: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 750, 750), np.uint8)
    for name, pixels in zip("ab", noise, strict=True):
        Image.fromarray(pixels).save(study / "figures" / f"{name}.png")
    (study / "README.md").write_text("![first noise](figures/a.png) ![more noise](figures/b.png)")
    write(saved, tmp_path)


def test_without_markdown_one_line_says_how_to_get_it(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "markdown", None)
    with pytest.raises(InputError, match="python3 -m pip install markdown"):
        write(saved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_snapshots_alone_are_enough(saved: Path, tmp_path: Path) -> None:
    for name in ("visualize_compete_to_compute.py", "compete_to_compute.py", "fetch_mnist.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "viz").mkdir()
    shutil.copy(saved / "s.npz", tmp_path / "viz" / "snapshots.npz")
    command = [sys.executable, "visualize_compete_to_compute.py", "--html"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    page = check_page(tmp_path / "viz" / "report.html")
    assert texts(page, "h2") == ["This run"]
    assert len([*page.iter("img")]) == 5
    assert "Forgetting" in texts(page, "td")


def test_results_of_another_run_are_left_out(saved: Path, study: Path, tmp_path: Path) -> None:
    results = json.loads((saved / "r.json").read_text())
    results["config"]["momentum"] = 0.5
    (tmp_path / "r.json").write_text(json.dumps(results))
    page = write(saved, tmp_path, tmp_path / "r.json")
    assert any(text.startswith("There is no results file") for text in texts(page, "p"))
    assert "All seeds of this run" not in texts(page, "h3")


def test_a_failed_run_is_named_beside_its_numbers(saved: Path, study: Path, tmp_path: Path) -> None:
    results = json.loads((saved / "r.json").read_text())
    results["per_seed"][0] |= {"status": "untrained", "failure": "accuracy <b>low</b> & flat"}
    (tmp_path / "r.json").write_text(json.dumps(results))
    page = write(saved, tmp_path, tmp_path / "r.json")
    assert "ReLU untrained: accuracy <b>low</b> & flat." in texts(page, "p")


def test_an_image_that_cannot_be_shown_is_one_line(saved: Path, study: Path) -> None:
    (study / "figures" / "grey.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"grey\.png") as caught:
        write(saved, study / "out")
    assert "\n" not in str(caught.value)
    assert not (study / "out" / "report.html").exists()
