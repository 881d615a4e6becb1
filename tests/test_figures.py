"""The figures, the animation, and the numbers that they carry."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import make_compete_to_compute_gif as animate
import visualize_compete_to_compute as visualize
from compete import pictures
from compete.files import InputError
from compete_to_compute import main

TINY = "--hidden 40 --train-per-class 150 --test-per-task 50 --lr 0.1 --jobs 1 --quiet".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    files = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz"]
    main([*files, *TINY, "--n-seeds", "3", "--epochs", "2"])
    return folder


@pytest.fixture
def arrays(saved: Path) -> dict[str, np.ndarray]:
    with np.load(saved / "s.npz") as file:
        return dict(file)


def test_every_figure_is_drawn_beside_its_snapshots_and_the_animation_ends_with_a_hold(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(saved)  # nothing may come into viz/ here, of another run
    visualize.main(["--snapshots", "s.npz", "--results", "r.json"])
    animate.main(["--snapshots", "s.npz"])
    assert not {Path("viz"), Path("compete_to_compute.gif")} & {*Path().iterdir()}
    figures = "training_curves forgetting_bar W1_relu W1_lwta winner_freq seeds".split()
    assert {path.name for path in Path("s-figures").iterdir()} == {f"{f}.png" for f in figures}
    with Image.open("s.gif") as image:
        assert (image.size[0], image.n_frames) == (750, 1 + 2 * 2)
        image.seek(image.n_frames - 1)
        assert image.info["duration"] >= 2000


@pytest.mark.parametrize(
    "more",
    [
        "--activations relu lwta sigmoid --tasks 01 23 45 67 89 --n-seeds 2",
        "--joint --depth 3",
        "--tasks 0123456789 --activations sigmoid",
    ],
)
def test_no_word_leaves_its_figure(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_words(figure: plt.Figure, path: Path) -> None:
        figure.draw_without_rendering()
        texts = [*figure.texts, *(t for legend in figure.legends for t in legend.texts)]
        for axes in figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in texts:
            box = text.get_window_extent()
            inside = np.all(box.min > -3) and np.all(box.max < figure.bbox.max + 3)
            assert inside or not text.get_text(), f"{path.name}: {text.get_text()!r} is cut"
        plt.close(figure)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(visualize, "save_figure", check_words)
    main([*TINY, "--epochs", "1", *more.split()])
    visualize.main([])


def test_marks_stand_where_the_numbers_are(saved: Path, arrays: dict[str, np.ndarray]) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    switches, use, *_ = plt.figure().subplots(2)
    visualize.mark_switches(switches, snapshots)
    update, task = arrays["curve_relu"][0, :, :2].T
    assert set(switches.lines[0].get_xdata()) == {update[task == 1].max()}
    bars = [bar.get_height() for bar in visualize.forgetting_bar(snapshots).axes[0].patches]
    rows = json.loads((saved / "r.json").read_text())["per_seed"]
    matrices = [[r["accuracy_matrix"] for r in rows if r["model"] == m] for m in ("relu", "lwta")]
    means = [np.mean(matrix, axis=0)[at, 0] for matrix in matrices for at in (1, 2)]
    assert bars == pytest.approx(means, rel=1e-6)
    visualize.draw_use(use, snapshots.runs[0], 1)
    up, down = (shape.get_paths()[0].vertices[:, 1] for shape in use.collections)
    first, last = arrays["active_relu"][-1, 1]  # Task 1 up, the last task down
    assert (up.min(), up.max()) == (0, pytest.approx(first.max()))
    assert (down.min(), down.max()) == (pytest.approx(-last.max()), 0)


def test_a_headline_that_failed_is_in_no_mean_unless_it_is_alone(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    def kept(status: str, seeds: int = 3) -> list[float]:
        changed = {"status_relu": np.array(status), "curve_relu": arrays["curve_relu"][:seeds]}
        np.savez(tmp_path / "s.npz", **(arrays | changed))
        return list(visualize.load_snapshots(tmp_path / "s.npz").runs[0].kept[:, 1])

    at_the_end = list(arrays["curve_relu"][:, -1, 2])
    assert (kept("ok"), kept("untrained")) == (at_the_end, at_the_end[1:])
    assert kept("untrained", seeds=1) == at_the_end[:1]
    with pytest.raises(InputError, match="relu diverged"):
        kept("diverged")


def test_whatever_is_wrong_in_a_file_is_named_in_one_line(
    arrays: dict[str, np.ndarray], saved: Path, tmp_path: Path
) -> None:
    path, results = tmp_path / "s.npz", tmp_path / "r.json"

    def refuse(reason: str, *more: str, script: Any = visualize) -> None:
        with pytest.raises(InputError, match=rf"^[^\n]*{reason}[^\n]*; [^\n]*$"):
            script.main(["--snapshots", str(path), *more])

    refuse("s.npz: No such file", script=animate)
    path.write_bytes((saved / "s.npz").read_bytes()[:-1000])
    refuse("s.npz: damaged", script=animate)
    for name, value in arrays.items():
        wrong = [value[None], value.ravel()[:0], value.astype(object).astype("S")]
        if value.dtype.kind == "f":
            cut = value[:, :1] if name.startswith("curve") else value[..., 1:]
            wrong += [cut, np.full_like(value, np.nan)]
        for changed in ({}, *({name: array} for array in wrong)):
            np.savez(path, **{n: v for n, v in arrays.items() if n != name}, **changed)
            refuse("no snapshots" if name == "config" else name)

    np.savez(path, config=np.array('{"tasks": ["01", "23"], "hidden": "40"}'))
    refuse("hidden must be")
    shutil.copy(saved / "s.npz", path)
    refuse("a.png: the animation is a GIF", "--out", "a.png", script=animate)
    refuse("r.json: No such file", "--results", str(results))
    text = (saved / "r.json").read_text()
    results.write_text(text.replace('"verdict"', '"said"'))
    refuse("r.json: not a results file .*verdict", "--results", str(results))
    draw, drawn = random.Random(0), 0
    for _ in range(50):  # one value anywhere is another: a line or a picture, no traceback
        part = whole = json.loads(text)
        while isinstance(part, dict | list) and part:
            inside, key = part, draw.choice([*part] if isinstance(part, dict) else range(len(part)))
            part = part[key] if draw.random() < 0.7 else None
        inside[key] = draw.choice([None, "x", 3, [], {}, [1], {"a": 1}])
        results.write_text(json.dumps(whole))
        with suppress(InputError):
            plt.close(visualize.seeds_figure(visualize.load_results(results)))
            drawn += 1
    assert drawn > 10


def test_spread_and_segregation() -> None:
    weights = np.zeros((3, 28, 28))  # one pixel; evenly; two pixels, ten apart
    weights[0, 7, 4], weights[1] = -3, 0.5
    weights[2, 5, 10] = weights[2, 11, 18] = 1
    spread = pictures.field_spread(weights.reshape(3, 784).T)
    assert spread == pytest.approx([0, 11.42, 5], abs=0.01)
    first, second = np.array([0.5, 0.2, 0.0, 0.3]), np.array([0.5, 0.0, 0.0, 0.1])
    numbers = pictures.segregation(first, second)
    assert numbers == pytest.approx({"selectivity": 0.5, "gap": 0.1, "exclusive": 0.25})


def test_a_script_copied_alone_needs_the_repository(tmp_path: Path) -> None:
    for script in (visualize, animate):
        copy = [sys.executable, shutil.copy(script.__file__, tmp_path)]
        result = subprocess.run(copy, cwd=tmp_path, capture_output=True, text=True)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "take the whole repository" in result.stderr
