"""The figures, the animation, and the numbers that they carry."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import make_compete_to_compute_gif
import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main

TINY = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 2 --quiet".split()


def train_and_draw(folder: Path, *more: str) -> None:
    """Results, snapshots, figures and animation of tiny networks."""
    snapshots, results = ["--snapshots", f"{folder}/s.npz"], f"{folder}/r.json"
    main(["--out", results, *snapshots, *TINY, *more])
    visualize.main([*snapshots, "--results", results, "--out-dir", f"{folder}/viz"])
    make_compete_to_compute_gif.main([*snapshots, "--out", f"{folder}/a.gif"])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what three tiny seeds left."""
    folder = tmp_path_factory.mktemp("drawn")
    train_and_draw(folder, "--n-seeds", "3", "--lr", "0.1")
    return folder


def test_every_figure_is_drawn_and_the_animation_ends_with_a_hold(drawn: Path) -> None:
    figures = "training_curves forgetting_bar W1_relu W1_lwta winner_freq seeds".split()
    assert {path.stem for path in (drawn / "viz").iterdir()} == {*figures}
    for path in (drawn / "viz").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{path.name} is blank"
    assert (drawn / "a.gif").stat().st_size <= 400_000
    with Image.open(drawn / "a.gif") as image:
        assert (image.size[0], image.n_frames) == (750, 1 + 2 * 2)
        image.seek(image.n_frames - 1)
        assert image.info["duration"] >= 2000


@pytest.mark.parametrize(
    "more",
    [
        "--activations relu lwta sigmoid --tasks 01 23 45 67 89 --n-seeds 2",
        "--activations lwta --permute --tasks 0123456789 0123456789",
        "--joint --depth 3",
        "--tasks 0123456789 --activations sigmoid",
    ],
)
def test_no_word_leaves_its_figure(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_words(figure: Figure, path: Path) -> None:
        figure.draw_without_rendering()
        texts = [*figure.texts, *(t for legend in figure.legends for t in legend.texts)]
        for axes in figure.axes:
            texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for text in texts:
            box = text.get_window_extent()
            inside = np.all(box.min > -3) and np.all(box.max < figure.bbox.max + 3)
            assert inside or not text.get_text(), f"{path.name}: {text.get_text()!r} is cut"
        plt.close(figure)

    monkeypatch.setattr(visualize, "save_figure", check_words)
    train_and_draw(tmp_path, "--epochs", "1", *more.split())


def test_marks_stand_where_the_numbers_are(drawn: Path) -> None:
    snapshots = visualize.load_snapshots(drawn / "s.npz")
    axes = Figure().subplots()
    visualize.mark_switches(axes, snapshots)
    relu = snapshots.runs[0]
    assert set(axes.lines[0].get_xdata()) == {relu.update[relu.task == 1].max()}
    bars = [bar.get_height() for bar in visualize.forgetting_bar(snapshots).axes[0].patches]
    # Two epochs a task: the third evaluation is after Task 1, the fifth at the end.
    assert bars == [run.accuracy[at, 0] for at in (2, 4) for run in snapshots.runs]
    assert len({*bars}) > 2
    panels = [(layer, run) for layer in (0, 1) for run in snapshots.runs]
    uses = visualize.winner_frequency(snapshots).axes
    for axes, (layer, run) in zip(uses, panels, strict=True):  # Task 1 up, the last task down
        first, last = run.active[-1, layer]
        up, down = (shape.get_paths()[0].vertices[:, 1] for shape in axes.collections)
        assert (up.min(), up.max()) == (0, pytest.approx(first.max()))
        assert (down.min(), down.max()) == (pytest.approx(-last.max()), 0)
    plt.close("all")


@pytest.mark.parametrize("script", [visualize, make_compete_to_compute_gif])
def test_a_snapshot_file_that_cannot_be_drawn_is_refused_in_one_line(
    drawn: Path, tmp_path: Path, script: object
) -> None:
    good = (drawn / "s.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.npz").write_text("not a snapshot")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with np.load(drawn / "s.npz") as file:
        arrays = dict(file)
    changed = {
        "accuracy_relu": arrays["accuracy_relu"][:, :1],
        "active_lwta": arrays["active_lwta"].astype(int),
        "task_lwta": np.where(arrays["task_lwta"] == 1, 0, arrays["task_lwta"]),
        "config": np.array("{}"),
    }
    for name, value in changed.items():
        np.savez(tmp_path / f"{name}.npz", **{**arrays, name: value})
    np.savez(tmp_path / "W1_init.npz", **{n: v for n, v in arrays.items() if n != "W1_init"})
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npz"]:
        with pytest.raises(InputError, match=path.name) as caught:
            script.main(["--snapshots", str(path)])
        message = str(caught.value).partition(path.name)[2]
        assert "\n" not in message
        assert path.stem in message or path.stem not in {*changed, "W1_init"}, "which field?"


def test_a_run_that_diverged_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        train_and_draw(tmp_path, "--n-seeds", "2", "--lr", "1000")


def test_what_is_wrong_in_a_results_file_is_named(drawn: Path, tmp_path: Path) -> None:
    for name, change in {
        "pairs[0].p_adjusted": lambda r: r["aggregate"]["pairs"][0].pop("p_adjusted"),
        "per_seed[1].forgetting": lambda r: r["per_seed"][1].update(forgetting="0.1"),
        "models.lwta.ok": lambda r: r["aggregate"]["models"]["lwta"].update(ok=None),
    }.items():
        results = json.loads((drawn / "r.json").read_text())
        change(results)
        (tmp_path / "r.json").write_text(json.dumps(results))
        with pytest.raises(InputError) as caught:
            visualize.load_results(tmp_path / "r.json")
        assert name in str(caught.value)


def test_spread_and_segregation() -> None:
    weights = np.zeros((3, 28, 28))
    weights[0, 7, 4] = -3  # one pixel
    weights[1] = 0.5  # evenly
    weights[2, 5, 10] = weights[2, 11, 18] = 1  # two pixels, ten apart
    spread = visualize.field_spread(weights.reshape(3, 784).T)
    np.testing.assert_allclose(spread, [0, 11.42, 5], atol=0.01)
    first, second = np.array([0.5, 0.2, 0.0, 0.3]), np.array([0.5, 0.0, 0.0, 0.1])
    numbers = visualize.segregation(first, second)
    assert numbers == pytest.approx({"selectivity": 0.5, "gap": 0.1, "exclusive": 0.25})


def test_figures_of_another_run_do_not_take_the_place_of_the_usual_ones(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for slow in ("receptive_fields", "winner_frequency", "forgetting_bar"):
        monkeypatch.setattr(visualize, slow, lambda *_: None)
    (tmp_path / "s3.npz").write_bytes((drawn / "s.npz").read_bytes())
    visualize.main(["--snapshots", "s3.npz"])
    make_compete_to_compute_gif.main(["--snapshots", "s3.npz"])
    assert {path.name for path in tmp_path.iterdir()} == {"s3.npz", "s3-figures", "s3.gif"}
    (tmp_path / "viz").mkdir()
    (tmp_path / "s3.npz").rename("viz/snapshots.npz")
    visualize.main([])
    assert (tmp_path / "viz" / "training_curves.png").exists()
    assert not (tmp_path / "viz" / "seeds.png").exists()  # there is no results.json
