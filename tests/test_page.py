"""The page of --html: well formed, complete by itself, and with the terminal's numbers."""

from __future__ import annotations

import base64
import json
import sys
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

import visualize_compete_to_compute as visualize
from compete.files import InputError
from compete.report import print_report
from compete_to_compute import main

TINY = "--hidden 20 --train-per-class 100 --test-per-task 50 --n-seeds 3 --jobs 1 --quiet".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    main(["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", *TINY])
    return folder


@pytest.fixture(autouse=True)
def only_seeds_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("training_curves", "forgetting_bar", "receptive_fields", "winner_frequency"):
        empty = Figure(figsize=(1, 1))
        empty.suptitle("not drawn here")
        monkeypatch.setattr(visualize, name, lambda *_, empty=empty: empty)


def write(saved: Path, *more: str) -> dict[str, list[str]]:
    """The texts by tag of a page that is well formed, loads and runs nothing, and leads nowhere."""
    visualize.main(["--snapshots", f"{saved}/s.npz", "--out-dir", "a & b", "--html", *more])
    text = Path("a & b/report.html").read_text(encoding="utf-8")
    assert len(text) < 1_500_000
    assert "default-src 'none'" in text
    page, texts = ElementTree.fromstring(text), defaultdict(list)
    for element in page.iter():
        texts[element.tag].append("".join(element.itertext()))
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(texts)
    assert [tag for tag in texts if tag in ("h1", "h2", "h3")][:2] == ["h1", "h2"]
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len({*ids})
    for link in page.iter("a"):
        assert link.get("href")[1:] in ids or link.get("href").startswith("http")
    for image in page.iter("img"):
        assert len(image.get("alt")) >= 10
        data = image.get("src").removeprefix("data:image/png;base64,")
        Image.open(BytesIO(base64.b64decode(data, validate=True))).load()
    return texts


def test_what_the_run_printed_and_the_committed_report_are_one_page(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = json.loads((saved / "r.json").read_text())
    results["per_seed"][0] |= {"status": "untrained", "failure": "accuracy <b>low</b> & flat"}
    Path("r.json").write_text(json.dumps(results))
    texts = write(saved, "--results", "r.json")
    capsys.readouterr()
    print_report(results)
    assert texts["pre"][0] == capsys.readouterr().out
    assert "ReLU untrained: accuracy <b>low</b> & flat." in texts["pre"][0]
    made = texts["td"][: texts["td"].index("git commit")]
    assert {"hidden", "20", "processor"} <= {*made}
    assert "lr" not in made, "a setting that is the default"
    assert (texts["h2"][0], len(texts["h2"]), len(texts["img"]) > 6) == ("This run", 2, True)


def test_snapshots_alone_are_enough_and_results_of_another_run_are_left_out(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = json.loads((saved / "r.json").read_text())
    results["config"]["momentum"] = 0.5
    Path("r.json").write_text(json.dumps(results))
    monkeypatch.setattr(visualize, "STUDY_REPORT", Path("nowhere"))
    for more in ([], ["--results", "r.json"]):
        texts = write(saved, *more)
        assert (texts["h2"], len(texts["img"]), texts["pre"]) == (["This run"], 5, [])
        assert "There is no results file of this run." in texts["p"]
    monkeypatch.setitem(sys.modules, "markdown", None)
    with pytest.raises(InputError, match="python3 -m pip install markdown"):
        write(saved, "--out-dir", "never")
    assert not Path("never").exists()
