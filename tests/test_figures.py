"""The figures, the animation, and the numbers that they carry."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import make_compete_to_compute_gif
import visualize_compete_to_compute as visualize
from compete_to_compute import InputError, main

TINY = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 2 --quiet".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results and snapshots of three tiny seeds."""
    folder = tmp_path_factory.mktemp("saved")
    files = ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz")]
    main([*files, *TINY, "--n-seeds", "3", "--lr", "0.1"])
    return folder


def draw(saved: Path, out: Path) -> int:
    """Run the visualisation on saved files."""
    files = ["--snapshots", str(saved / "s.npz"), "--results", str(saved / "r.json")]
    return visualize.main([*files, "--out-dir", str(out)])


def test_every_figure_is_drawn_from_the_saved_files_alone(saved: Path, tmp_path: Path) -> None:
    assert draw(saved, tmp_path) == 0
    names = {path.name for path in tmp_path.iterdir()}
    curves = {"training_curves.png", "forgetting_bar.png", "winner_freq.png", "seeds.png"}
    assert names == curves | {"W1_relu.png", "W1_lwta.png"}
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{path.name} is blank"


def test_the_switch_line_stands_where_task_1_was_last_tested(saved: Path) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    figure, axes = plt.subplots()
    visualize.mark_switches(axes, snapshots)
    (line,) = axes.lines
    task, update = snapshots.of("relu", "task"), snapshots.of("relu", "update")
    assert set(line.get_xdata()) == {update[task == 1].max()}
    plt.close(figure)


def test_the_bars_are_task_1_before_and_after_the_later_training(saved: Path) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    figure = visualize.forgetting_bar(snapshots)
    bars = [bar.get_height() for bar in figure.axes[0].patches]
    expected = []
    for model in ("relu", "lwta"):
        accuracy = snapshots.of(model, "accuracy")[:, 0]
        expected += [accuracy[2], accuracy[4]]  # two epochs a task
    assert bars == expected
    assert len({*expected}) > 2
    plt.close(figure)


def test_the_use_of_a_unit_goes_up_for_task_1_and_down_for_the_last(saved: Path) -> None:
    snapshots = visualize.load_snapshots(saved / "s.npz")
    figure = visualize.winner_frequency(snapshots)
    for axes, (layer, model) in zip(
        figure.axes, [(n, m) for n in (0, 1) for m in ("relu", "lwta")], strict=True
    ):
        first, last = snapshots.of(model, "active")[-1, layer]
        up, down = (shape.get_paths()[0].vertices[:, 1] for shape in axes.collections)
        assert (up.min(), up.max()) == (0, pytest.approx(first.max()))
        assert (down.min(), down.max()) == (pytest.approx(-last.max()), 0)
    plt.close(figure)


def test_the_animation_has_a_frame_per_evaluation_and_stays_small(
    saved: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.gif"
    files = ["--snapshots", str(saved / "s.npz"), "--out", str(out)]
    assert make_compete_to_compute_gif.main(files) == 0
    assert out.stat().st_size <= 400_000
    with Image.open(out) as image:
        assert image.size[0] == 750
        assert image.n_frames == 1 + 2 * 2
        image.seek(image.n_frames - 1)
        assert image.info["duration"] >= 2000, "no hold at the end"


@pytest.mark.parametrize("script", [visualize, make_compete_to_compute_gif])
def test_a_snapshot_file_that_is_missing_cut_short_or_foreign_is_refused(
    saved: Path, tmp_path: Path, script: object
) -> None:
    good = (saved / "s.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.npz").write_text("not a snapshot")
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("missing.npz", "short.npz", "text.npz", "foreign.npz", "array.npy"):
        with pytest.raises(InputError, match=name) as caught:
            script.main(["--snapshots", str(tmp_path / name)])
        assert "\n" not in str(caught.value)


def test_a_single_seed_gets_no_figure_of_seeds(saved: Path) -> None:
    results = visualize.load_sweep(saved / "r.json")
    results["per_seed"] = results["per_seed"][:2]
    assert visualize.seeds_figure(results) is None


def test_field_spread_is_zero_for_a_pixel_and_11_42_for_an_even_field() -> None:
    pixel = np.zeros((784, 1))
    pixel[200] = -3
    even = np.full((784, 1), 0.5)
    np.testing.assert_allclose(
        visualize.field_spread(np.hstack([pixel, even])), [0, 11.42], atol=0.01
    )


def test_field_spread_of_two_points_is_half_their_distance() -> None:
    field = np.zeros((28, 28))
    field[5, 10] = field[11, 18] = 1
    assert visualize.field_spread(field.reshape(784, 1))[0] == pytest.approx(5)


def test_selectivity_and_segregation() -> None:
    first, second = np.array([0.5, 0.2, 0.0, 0.3]), np.array([0.5, 0.0, 0.0, 0.1])
    np.testing.assert_allclose(visualize.selectivity(first, second), [0, 1, np.nan, 0.5])
    numbers = visualize.segregation(first, second)
    assert numbers == pytest.approx({"selectivity": 0.5, "gap": 0.1, "exclusive": 0.25})


def test_five_tasks_and_joint_training_are_drawn_too(tmp_path: Path) -> None:
    for number, more in enumerate((["--tasks", "01", "23", "45", "67", "89"], ["--joint"])):
        folder = tmp_path / str(number)
        files = ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz")]
        main([*files, *TINY, "--epochs", "1", *more])
        assert draw(folder, folder) == 0
        gif = ["--snapshots", str(folder / "s.npz"), "--out", str(folder / "a.gif")]
        assert make_compete_to_compute_gif.main(gif) == 0


def test_figures_of_another_run_do_not_take_the_place_of_the_usual_ones(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3.npz").write_bytes((saved / "s.npz").read_bytes())
    assert visualize.main(["--snapshots", "s3.npz"]) == 0
    assert make_compete_to_compute_gif.main(["--snapshots", "s3.npz"]) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"s3.npz", "s3-figures", "s3.gif"}
    (tmp_path / "viz").mkdir()
    (tmp_path / "s3.npz").rename("viz/snapshots.npz")
    assert visualize.main([]) == 0
    assert (tmp_path / "viz" / "training_curves.png").exists()
