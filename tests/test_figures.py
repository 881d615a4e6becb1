"""The figures, the animation, and the numbers that they carry."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import make_compete_to_compute_gif as animate
import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main

TINY = "--hidden 40 --train-per-class 60 --test-per-task 50 --epochs 2 --lr 0.1 --quiet".split()


def train(folder: Path, *more: str) -> list[str]:
    """The options that name the files of tiny networks, trained into a folder."""
    files = ["--snapshots", f"{folder}/s.npz"]
    main(["--out", f"{folder}/r.json", *files, *TINY, *more])
    return [*files, "--results", f"{folder}/r.json", "--out-dir", f"{folder}/viz"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what three tiny seeds left."""
    folder = tmp_path_factory.mktemp("saved")
    train(folder, "--n-seeds", "3")
    return folder


def test_every_figure_is_drawn_beside_its_snapshots_and_the_animation_ends_with_a_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = train(tmp_path, "--n-seeds", "3")
    monkeypatch.chdir(tmp_path)  # nothing may come into viz/ here, of another run
    visualize.main(files[:4])
    animate.main(files[:2])
    assert {path.name for path in tmp_path.iterdir()} >= {"s-figures", "s.gif"}
    assert not (tmp_path / "viz").exists()
    figures = "training_curves forgetting_bar W1_relu W1_lwta winner_freq seeds".split()
    assert {path.stem for path in (tmp_path / "s-figures").iterdir()} == {*figures}
    for path in (tmp_path / "s-figures").iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{path.name} is blank"
    with pytest.raises(InputError, match=r"name it NAME\.gif"):
        animate.main([*files[:2], "--out", "a.png"])
    assert (tmp_path / "s.gif").stat().st_size <= 400_000
    with Image.open(tmp_path / "s.gif") as image:
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
    visualize.main(train(tmp_path, "--epochs", "1", *more.split()))


def test_marks_stand_where_the_numbers_are(saved: Path) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    axes = Figure().subplots()
    visualize.mark_switches(axes, snapshots)
    relu = snapshots.runs[0]
    assert set(axes.lines[0].get_xdata()) == {relu.update[relu.task == 1].max()}
    bars = [bar.get_height() for bar in visualize.forgetting_bar(snapshots).axes[0].patches]
    rows = json.loads((saved / "r.json").read_text())["per_seed"]
    means = [
        np.mean(
            [r["accuracy_matrix"][at][0] for r in rows if (r["model"], r["status"]) == (m, "ok")]
        )
        for at in (1, 2)
        for m in ("relu", "lwta")
    ]
    assert bars == pytest.approx(means, rel=1e-6)
    axes = Figure().subplots()
    visualize.draw_use(axes, relu, 1)
    up, down = (shape.get_paths()[0].vertices[:, 1] for shape in axes.collections)
    first, last = relu.active[-1, 1]  # Task 1 up, the last task down
    assert (up.min(), up.max()) == (0, pytest.approx(first.max()))
    assert (down.min(), down.max()) == (pytest.approx(-last.max()), 0)
    plt.close("all")


def test_what_is_wrong_in_a_snapshot_file_is_named_in_one_line(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    good = (saved / "s.npz").read_bytes()
    with np.load(saved / "s.npz") as file:
        arrays = dict(file)
    for name, wrong in {
        "accuracy_relu": arrays["accuracy_relu"][:, :1],
        "active_lwta": arrays["active_lwta"].astype(int),
        "lwta": {"task_lwta": arrays["task_lwta"].clip(0, 1)},
        "tasks": {"config": np.array("{}")},
        "W1_init": np.zeros(0),
        "damaged": good[: len(good) // 2],
        "No such file": None,
    }.items():
        path.unlink(missing_ok=True)
        if isinstance(wrong, bytes):
            path.write_bytes(wrong)
        elif wrong is not None:
            np.savez(path, **{**arrays, **(wrong if isinstance(wrong, dict) else {name: wrong})})
        for script in (visualize, animate):
            with pytest.raises(InputError, match=f"^.*s.npz: .*{name}.*$"):
                script.main(["--snapshots", str(path)])


def test_a_run_that_diverged_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diverged"):
        visualize.main(train(tmp_path, "--n-seeds", "2", "--lr", "1000"))


def test_what_is_wrong_in_a_results_file_is_named(saved: Path, tmp_path: Path) -> None:
    for name, change in {
        "verdict": lambda r: r["aggregate"]["pairs"][0].pop("verdict"),
        "per_seed[1].forgetting": lambda r: r["per_seed"][1].update(forgetting="0.1"),
        "lwta.forgetting.mean": lambda r: r["aggregate"]["models"]["lwta"]["forgetting"].update(
            mean="0"
        ),
    }.items():
        results = json.loads((saved / "r.json").read_text())
        change(results)
        (tmp_path / "r.json").write_text(json.dumps(results))
        with pytest.raises(InputError) as caught:
            visualize.load_results(tmp_path / "r.json")
        assert name in str(caught.value)


def test_flipped_bits_and_edits_end_in_a_line_or_a_picture_never_in_a_traceback(
    saved: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    good = (saved / "s.npz").read_bytes()
    for _ in range(200):
        damaged = bytearray(good)
        damaged[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        (tmp_path / "s.npz").write_bytes(damaged)
        with suppress(InputError):
            visualize.load_snapshots(tmp_path / "s.npz")

    text = (saved / "r.json").read_text()
    for _ in range(200):
        part = results = json.loads(text)
        for _ in range(draw.randrange(5)):
            if isinstance(inner := part[draw.choice(keys(part))], dict | list) and inner:
                part = inner
        part[draw.choice(keys(part))] = draw.choice([None, "x", 3, [], {}, [1], {"a": 1}])
        (tmp_path / "r.json").write_text(json.dumps(results))
        with suppress(InputError):
            loaded = visualize.load_results(tmp_path / "r.json")
            assert loaded
            visualize.seeds_figure(loaded)
            plt.close("all")


def keys(part: dict[str, Any] | list[Any]) -> list[Any]:
    """Where one can go on in JSON."""
    return list(part) if isinstance(part, dict) else list(range(len(part)))


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
