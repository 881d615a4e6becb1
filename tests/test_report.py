"""The page of figures and tables: well formed, whole by itself, and right in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

import report_compete_to_compute as report
import study_open_questions as study
import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main, print_report

ROOT = Path(__file__).resolve().parents[1]
TINY = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 2 --quiet".split()
VOID = {"meta", "img", "br", "link", "input", "hr"}
LOADING = {"src", "srcset", "data", "poster", "background", "action", "formaction"}


class Page(HTMLParser):
    """Elements with their attributes and text; an element that is not closed in turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, list[str]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened, parts = self.open.pop()
        assert opened == tag
        self.texts.append((tag, "".join(parts)))

    def handle_data(self, data: str) -> None:
        for _, parts in self.open:
            parts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results and snapshots of three tiny seeds."""
    folder = tmp_path_factory.mktemp("saved")
    files = ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz")]
    main([*files, *TINY, "--n-seeds", "3", "--train-per-class", "100", "--epochs", "3"])
    return folder


def write(saved: Path, out: Path, results: str = "r.json") -> str:
    """The page made from saved files."""
    files = ["--snapshots", str(saved / "s.npz"), "--results", str(saved / results)]
    assert visualize.main([*files, "--out-dir", str(out), "--html"]) == 0
    return (out / "report.html").read_text(encoding="utf-8")


def write_without_figures(saved: Path, path: Path) -> None:
    """The same without the time that drawing takes."""
    snapshots = visualize.load_snapshots(saved / "s.npz")
    report.write_report(path, snapshots, visualize.load_sweep(saved / "r.json"), [])


@pytest.fixture(scope="module")
def whole(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page with everything: three seeds and the committed study."""
    return write(saved, tmp_path_factory.mktemp("whole"))


def without_study(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(report, "STUDY", folder)
    monkeypatch.setattr(study, "STUDY", folder)


def test_the_page_is_well_formed_and_can_be_read_aloud(whole: str) -> None:
    page = Page(whole)
    assert whole.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.text("title")) == len(page.text("h1")) == 1
    assert any(of.get("name") == "viewport" for of in page.all("meta"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = Counter(of["id"] for _, of in page.elements if "id" in of)
    assert set(ids.values()) == {1}
    assert {of["href"] for of in page.all("a")} == {f"#{name}" for name in ids}
    assert len(page.all("table")) == len(page.text("caption")) > 5
    assert all(text.strip() for text in page.text("caption"))
    assert {of.get("scope") for of in page.all("th")} == {"row", "col"}


def test_every_figure_is_a_png_within_the_page_and_has_an_alternative_text(whole: str) -> None:
    images = Page(whole).all("img")
    shown = sum((study.STUDY / name).exists() for name in report.STUDY_FIGURES)
    assert len(images) == 6 + shown
    for image in images:
        assert len(image["alt"] or "") > 40
        head, _, data = (image["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        with Image.open(BytesIO(base64.b64decode(data, validate=True))) as png:
            png.load()
            assert [str(length) for length in png.size] == [image["width"], image["height"]]


def test_the_page_loads_nothing_and_runs_nothing(whole: str) -> None:
    page = Page(whole)
    forbidden = {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    assert forbidden.isdisjoint(tag for tag, _ in page.elements)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith("data:")
    assert "url(" not in whole
    assert "@import" not in whole


def test_the_numbers_are_those_of_the_terminal_report(
    saved: Path, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = visualize.load_sweep(saved / "r.json")
    assert {row["status"] for row in results["per_seed"]} == {"ok"}
    print_report(results)
    printed = capsys.readouterr().out
    page = Page(whole)
    rows = {"".join(row.split()) for row in page.text("tr")}
    cells = {*page.text("td"), *page.text("th")}
    headline = printed.partition("Seed 0")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(headline) == 4
    assert {"".join(line.split()) for line in headline} <= rows
    verdict = re.search(r"Verdict: (.*)\.", printed)[1]
    relu, lwta = re.search(r"Forgetting +(\d\.\d{3}) +(\d\.\d{3})", printed).groups()
    paragraphs = page.text("p")
    assert paragraphs[1:3] == [
        f"At seed 0, ReLU forgets {relu}, LWTA forgets {lwta}.",
        f"Over all seeds, ReLU against LWTA: {verdict}.",
    ]
    assert f"ReLU against LWTA: {verdict}." in paragraphs
    assert re.search(r"sign test (p = \d\.\d{3})", printed)[1] in cells
    for number in re.findall(r"difference (\S+), 95 % interval (.+)", printed)[0]:
        assert number in cells


def test_the_study_has_a_table_of_questions_and_the_tables_of_each_group(whole: str) -> None:
    page = Page(whole)
    for group in study.saved_groups():
        assert group["question"] in page.text("summary")
        assert study.outcome(group) in page.text("td")
        for row in group["conditions"]:
            pair = study.pair_of(row)
            assert row["label"] in page.text("th") or not pair["difference"]["n"]


def test_snapshots_alone_are_enough(saved: Path, tmp_path: Path) -> None:
    for name in ("visualize", "report"):
        shutil.copy(ROOT / f"{name}_compete_to_compute.py", tmp_path)
    shutil.copy(ROOT / "compete_to_compute.py", tmp_path)
    (tmp_path / "viz").mkdir()
    shutil.copy(saved / "s.npz", tmp_path / "viz" / "snapshots.npz")
    command = [sys.executable, "visualize_compete_to_compute.py", "--html"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    page = Page((tmp_path / "viz" / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("img")) == 5
    assert page.text("h2") == ["What was run", "What this seed shows", "The seed in figures"]
    assert "Forgetting" in page.text("th")


def test_the_headline_of_the_snapshots_is_that_of_the_results(saved: Path) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    results = visualize.load_sweep(saved / "r.json")
    records = [report.record_of(snapshots, model) for model in snapshots.models]
    rows = report.matching_rows(snapshots, results, records)
    assert rows is not None
    for record, row in zip(records, rows, strict=True):
        for name in ("accuracy_matrix", "forgetting", "average_accuracy"):
            assert record[name] == row[name]
    rows[1]["accuracy_matrix"][2][0] += 0.5  # one model of another run is enough
    assert report.matching_rows(snapshots, results, records) is None


def test_results_of_another_run_are_said_to_be_so(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_study(monkeypatch, tmp_path / "none")
    results = json.loads((saved / "r.json").read_text())
    results["config"]["momentum"] = 0.5
    (tmp_path / "r.json").write_text(json.dumps(results))
    shutil.copy(saved / "s.npz", tmp_path)
    paragraphs = Page(write(tmp_path, tmp_path / "out")).text("p")
    assert any("of another run" in text for text in paragraphs)
    assert "These seeds were run with other settings: --momentum 0.5." in paragraphs
    assert not any("Over all seeds" in text for text in paragraphs)


def test_a_failed_run_is_named_beside_its_numbers(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_study(monkeypatch, tmp_path / "none")
    results = json.loads((saved / "r.json").read_text())
    results["per_seed"][0] |= {"status": "untrained", "failure": "accuracy <b>low</b> & flat"}
    (tmp_path / "r.json").write_text(json.dumps(results))
    shutil.copy(saved / "s.npz", tmp_path)
    text = write(tmp_path, tmp_path / "out")
    paragraphs = Page(text).text("p")
    assert "ReLU untrained: accuracy <b>low</b> & flat." in paragraphs
    assert paragraphs[1].startswith("At seed 0, LWTA forgets ")
    assert "<b>" not in text


@pytest.mark.parametrize("more", ["--tasks 01 23 45 67 89", "--joint", "--tasks 0123456789"])
def test_other_protocols_have_a_page_too(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_study(monkeypatch, tmp_path / "none")
    files = ["--out", str(tmp_path / "r.json"), "--snapshots", str(tmp_path / "s.npz")]
    main([*files, *TINY, *more.split(), "--n-seeds", "2"])
    page = Page(write(tmp_path, tmp_path / "out"))
    assert "What all seeds show" in page.text("h2")


def test_what_cannot_be_read_or_written_is_one_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    without_study(monkeypatch, folder)
    (folder / "summary.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"summary\.png") as caught:
        write_without_figures(saved, tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
    (folder / "summary.png").unlink()
    for content in ("{", "{}", "[]"):
        (folder / "default.json").write_text(content)
        with pytest.raises(InputError, match="study") as caught:
            write_without_figures(saved, tmp_path / "report.html")
        assert "\n" not in str(caught.value)
    (tmp_path / "r.json").write_text('{"per_seed": [], "aggregate": {}}')
    shutil.copy(saved / "s.npz", tmp_path)
    with pytest.raises(InputError, match=r"r\.json") as caught:
        write(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match=r"report\.html"):
        write(saved, tmp_path / "taken")


# --- In a browser ---------------------------------------------------------------------------------

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
# The page stands in a frame of the width asked for; what the frame shows is logged to the console,
# so that a console without that line is known to be unheard. `details` are measured open.
FRAME = """<!DOCTYPE html><iframe style="width: {width}px; height: 800px; border: 0"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", async () => {{
  const page = frame.contentDocument, root = page.documentElement;
  const widths = [root.scrollWidth];
  page.querySelectorAll("details").forEach((box) => {{ box.open = true; }});
  widths.push(root.scrollWidth);
  await Promise.all([...page.images].map((image) => image.decode().catch(() => null)));
  const loaded = [...page.images].filter((image) => image.naturalWidth > 0).length;
  const ink = getComputedStyle(page.body).color;
  console.log("measured", widths.join(" "), root.clientWidth, loaded, ink);
}});
frame.srcdoc = "{page}";
</script>"""


def in_browser(page: str, width: int, dark: bool, folder: Path) -> tuple[list[str], str]:
    """The console's lines but for the measurement, and the measurement."""
    # In a JavaScript string: markup escaped, so that no tag of the page ends the script.
    quoted = json.dumps(page)[1:-1].replace("<", "\\u003c")
    (folder / "frame.html").write_text(FRAME.format(width=width, page=quoted), encoding="utf-8")
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
        *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,900"),
        *("--virtual-time-budget=20000", "--dump-dom", (folder / "frame.html").as_uri()),
    ]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=180)
    lines = re.findall(r":CONSOLE[^\]]*\] \"(.*)\", source:", result.stderr)
    measured = [line for line in lines if line.startswith("measured ")]
    assert len(measured) == 1, f"no measurement: {result.stderr[-2000:]}"
    return [line for line in lines if line not in measured], measured[0]


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_all_of_it_and_has_nothing_to_say(
    whole: str, width: int, dark: bool, tmp_path: Path
) -> None:
    console, measured = in_browser(whole, width, dark, tmp_path)
    _, closed, opened, inner, loaded, ink = measured.split(maxsplit=5)
    assert console == []
    assert int(closed) == int(opened) == int(inner) <= width
    assert int(loaded) == len(Page(whole).all("img"))
    red = int(re.match(r"rgb\((\d+),", ink)[1])
    assert (red > 128) == dark, "the ink is light on a dark page"


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_the_browser_test_would_see_what_is_wrong(tmp_path: Path) -> None:
    wide = '<div style="width: 900px">wide</div><img src="data:image/png;base64,AAAA" alt="">'
    broken = f"<!DOCTYPE html><body>{wide}<script>console.error('wrong')</script>"
    console, measured = in_browser(broken, 390, False, tmp_path)
    assert console == ["wrong"]
    _, closed, _, inner, loaded, _ = measured.split(maxsplit=5)
    assert int(closed) > 390 >= int(inner)
    assert loaded == "0"
