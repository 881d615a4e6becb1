"""The other libraries do the same training, and one that is not installed is skipped and said."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import peers
import write_readme_tables
from compete_to_compute import ACTIVATIONS, Config, Mnist, make_tasks, train_model

SMALL = {"hidden": 40, "train_per_class": 50, "test_per_task": 200, "epochs": 2}


@pytest.mark.parametrize("model", peers.MODELS)
def test_peers_are_given_what_our_training_draws(model: str, mnist: Mnist) -> None:
    config = Config(**SMALL)
    work = peers.draw_work(config, model, 3, mnist)
    tasks, live = make_tasks(config, 3, mnist)
    for task, (images, labels), (tests, test_labels), mask in zip(
        tasks, work.train, work.test, work.masks, strict=True
    ):
        assert images.dtype == np.float32
        assert np.array_equal(images[:, live], task.train_inputs[:, :-1])
        assert not images[:, ~live].any()
        assert np.array_equal(labels, task.classes[task.train_labels])
        assert np.array_equal(tests[:, live], task.test_inputs[:, :-1])
        assert np.array_equal(test_labels, task.classes[task.test_labels])
        assert np.flatnonzero(mask == 0).tolist() == task.classes.tolist()
    batches = np.random.default_rng(3 + ACTIVATIONS[model].batch_stream)
    for order in [order for task in work.orders for order in task]:
        assert np.array_equal(order, batches.permutation(250))


# torch.compile takes up to a minute; peers.py saves how far it agrees with each measurement.
@pytest.mark.parametrize("library", ["PyTorch", "JAX"])
@pytest.mark.parametrize(("model", "batch"), [("relu", 64), ("lwta", 50)])  # 50 divides the images
def test_task_1_accuracies_agree_with_ours(
    library: str, model: str, batch: int, mnist: Mnist
) -> None:
    pytest.importorskip(peers.PEERS[library].module, reason=f"{library} is not installed")
    config = Config(**SMALL, batch=batch)
    work = peers.draw_work(config, model, 0, mnist)
    train = peers.PEERS[library].prepare(config, model, work)
    found = np.array([train(work), train(work)])  # the second starts anew
    ours = train_model(config, ACTIVATIONS[model], 0, mnist).snapshot["accuracy"]
    assert found.shape == (2, *ours.shape)
    assert np.array_equal(found[0], found[1])
    assert ours[2, 0] > 0.7
    assert peers.task1_difference(found, ours[None]) < 0.011  # two of 200 images
    assert np.abs(found - ours).max() < 0.05


def test_sklearn_learns_task_1_as_well_as_we_do(mnist: Mnist) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    config = Config(**{**SMALL, "train_per_class": 200, "epochs": 3})
    work = peers.draw_work(config, "relu", 0, mnist)
    found = np.array(peers.prepare_sklearn(config, "relu", work)(work))
    ours = train_model(config, ACTIVATIONS["relu"], 0, mnist).snapshot["accuracy"]
    assert found.shape == ours.shape
    assert abs(found[3, 0] - ours[3, 0]) < 0.05  # its initial weights are its own
    assert found[3, 1] == 0  # no mask: it has seen no digit of Task 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's memory")
def test_missing_library_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("torch", "jax", "sklearn") else found(name),
    )
    small = Config(**{**SMALL, "epochs": 1})
    monkeypatch.setattr(peers, "SIZES", {"default": small})
    monkeypatch.setattr(peers, "CASES", (("default", 1),))
    monkeypatch.setattr(peers, "available_cores", lambda: 1)
    out = tmp_path / "benchmark.json"
    out.write_text(json.dumps({"schema": 1, "training": "kept"}))
    assert peers.main(["--rounds", "1", "--out", str(out)]) == 0

    printed = capsys.readouterr().out
    for name, package in (("PyTorch", "torch"), ("JAX", "jax"), ("scikit-learn", "scikit-learn")):
        assert f"{name}: skipped, {package} is not installed" in printed
    report = json.loads(out.read_text())
    assert (report["schema"], report["training"]) == (1, "kept")
    assert {*report["peers"]["skipped"]} == {*peers.PEERS} - {peers.FLOOR}
    (case,) = report["peers"]["cases"].values()
    ours = case["libraries"][peers.OURS]
    assert ours["relu"]["over_ours"]["median"] == 1
    assert ours["process_s"]["median"] > ours["relu"]["train_s"]["median"] > 0
    assert ours["peak_mb"]["median"] > 10
    assert case["libraries"][peers.FLOOR]["relu"]["over_ours"]["median"] > 0

    monkeypatch.setattr(write_readme_tables, "study", lambda name: report)
    table = write_readme_tables.peers()
    assert "JAX was skipped: jax is not installed." in table
    assert re.search(rf"\| {peers.OURS} \| \d+\.\d\d s, 1\.00 \(1\.00 to 1\.00\) \|", table)
    assert re.search(rf"\| {peers.FLOOR} \| \d+\.\d\d / - / - \|", table)
    assert "Ours is behind nowhere" in table
    relu = case["libraries"]["JAX"] = {"relu": {"train_s": peers.spread([1.0])}}
    relu["relu"]["over_ours"] = peers.spread([0.5, 0.9, 1.1])
    here = "JAX, ReLU training, default, 1 seed, 1 thread"
    behind = f"Ours is behind in the median, not in every round: {here}: 0.90 (0.50 to 1.10)."
    assert behind in write_readme_tables.peers()
    relu["relu"]["over_ours"] = peers.spread([0.5, 0.8, 0.9])
    behind = f"Ours is behind in every round: {here}: 0.80 (0.50 to 0.90)."
    assert behind in write_readme_tables.peers()
    del report["peers"]
    assert write_readme_tables.peers() == "Not measured yet: `python3 peers.py` does it."


def test_two_processes_share_the_seeds_or_the_models_of_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def record(library: str, size: str, *share: object) -> dict[str, float]:
        calls.append(share[:3])
        return {"peak_mb": float(share[2][0])}

    monkeypatch.setattr(peers, "run_library", record)
    found = peers.run_side_by_side("JAX", "default", [0, 1, 2], [4, 5], str(tmp_path))
    assert found["peak_mb"] == 5
    assert sorted(calls, key=str) == [(peers.MODELS, [0, 2], [4]), (peers.MODELS, [1], [5])]
    calls.clear()
    peers.run_side_by_side("JAX", "default", [7], [4, 5], str(tmp_path))
    assert sorted(calls, key=str) == [(("lwta",), [7], [5]), (("relu",), [7], [4])]
