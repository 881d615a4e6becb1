"""What speed compares with is what it says, and the other libraries do the same training."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute as experiment
from compete_to_compute import ACTIVATIONS, Config, InputError, Mnist, Stopped
from study import peers, speed

SMALL = {"hidden": 40, "train_per_class": 50, "test_per_task": 200, "epochs": 2}


def test_the_floor_has_the_products_of_training_and_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(hidden=12, train_per_class=4, test_per_task=30, epochs=2, batch=8)
    products = Counter[tuple[int, int, int]]()
    matmul = np.matmul

    def record(a: np.ndarray, b: np.ndarray, **keywords: Any) -> np.ndarray:
        products[len(a), len(b), b.shape[1]] += 1
        return matmul(a, b, **keywords)

    monkeypatch.setattr(np, "matmul", record)
    speed.matrix_products(config)()
    expected = Counter[tuple[int, int, int]]()
    for n in [8, 8, 4] * 4 + [30] * 10:  # two tasks, two epochs; 5 times both tasks' test images
        expected += Counter([(12, 784, n), (12, 12, n), (10, 12, n)])
        if n != 30:
            expected += Counter([(10, n, 12), (12, n, 12), (12, n, 784), (12, 10, n), (12, 12, n)])
    assert products == expected


def test_a_process_that_fails_is_said_with_its_reason() -> None:
    with pytest.raises(Stopped, match="failed: ZeroDivisionError"):
        speed.run_process(["-c", "1 / 0"])


def test_a_damaged_report_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text('{"peers": ')
    with pytest.raises(InputError, match=r"speed\.json: cannot be read"):
        speed.main(["--out", str(path), "--rounds", "1"])
    assert path.read_text() == '{"peers": '


@pytest.mark.parametrize("model", peers.PAIR)
def test_libraries_are_given_what_our_training_draws(model: str, mnist: Mnist) -> None:
    config = Config(**SMALL)
    batches = np.random.default_rng(3 + ACTIVATIONS[model].batch_stream)
    tasks, used = experiment.make_tasks(config, 3, mnist)
    for task, given in zip(tasks, peers.draw_data(config, model, 3, mnist).tasks, strict=True):
        assert given.images.dtype == np.float32
        assert np.array_equal(given.images[:, used], task.train_inputs[:, :-1])
        assert not given.images[:, ~used].any()
        assert np.array_equal(given.labels, task.classes[task.train_labels])
        assert np.array_equal(given.test_images[:, used], task.test_inputs[:, :-1])
        assert np.array_equal(given.test_labels, task.classes[task.test_labels])
        assert np.flatnonzero(given.mask == 0).tolist() == task.classes.tolist()
        for order in given.orders:
            assert np.array_equal(order, batches.permutation(250))


# Compiling PyTorch takes up to a minute; how far it agrees is saved with each measurement.
@pytest.mark.parametrize("library", ["PyTorch", "JAX", "scikit-learn"])
@pytest.mark.parametrize(("model", "batch"), [("relu", 64), ("lwta", 50)])  # 50 divides the images
def test_libraries_learn_task_1_as_we_do(
    library: str, model: str, batch: int, mnist: Mnist
) -> None:
    pytest.importorskip(peers.LIBRARIES[library].module, reason=f"{library} is not installed")
    if model in peers.LIBRARIES[library].models:
        config = Config(**{**SMALL, "train_per_class": 200, "epochs": 3}, batch=batch)
        data = peers.draw_data(config, model, 0, mnist)
        train = peers.LIBRARIES[library].prepare(config, model, data)
        (_, first), (_, second) = train(data), train(data)
        assert np.array_equal(first, second, equal_nan=True)  # the second starts anew
        ours = experiment.train_model(config, ACTIVATIONS[model], 0, mnist).snapshot["accuracy"]
        # scikit-learn has initial weights of its own; for the others, two of 200 images.
        tolerance = 0.05 if library == "scikit-learn" else 0.011
        assert abs(first[3][0] - ours[3, 0]) < tolerance


def test_a_library_that_is_not_installed_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    missing = ("torch", "jax", "sklearn")
    monkeypatch.setattr(importlib.util, "find_spec", lambda m: None if m in missing else find(m))
    monkeypatch.setattr(speed, "SIZES", {"default": Config(**{**SMALL, "epochs": 1})})
    monkeypatch.setattr(peers, "WORKLOADS", [("default", 1, 1)])
    out = tmp_path / "speed.json"
    out.write_text(json.dumps({"schema": 1, "training": "kept"}))
    assert peers.main(["--rounds", "1", "--out", str(out)]) == 0
    assert "JAX: skipped, jax is not installed" in capsys.readouterr().out
    report = json.loads(out.read_text())
    (table, _) = peers.tables(report).values()
    assert table.count("| 1.00 (1.00 to 1.00) | ") == 5  # two models and the process; one and it
    assert (report["schema"], report["training"]) == (1, "kept")
    assert {*report["peers"]["skipped"]} == {*peers.LIBRARIES} - {*peers.OURS.values()}
