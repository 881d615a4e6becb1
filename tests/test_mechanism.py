"""What is done while networks train, and the measures of what happens inside them."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compete.runs import RunFile
from compete_to_compute import ACTIVATIONS, Config, Mnist, Task, evaluate, prepare, train_model
from study import analysis, explanations, measures, mechanism, networks
from study.analysis import Result
from study.families import IN_FIGURES, INSIDE, Condition, Family, finished_in
from study.networks import Network
from study.runs import MECHANISM, PAIR, STUDY

SMALL = {"hidden": 40, "train_per_class": 60, "test_per_task": 150, "epochs": 5}
DIGITS = np.arange(600) % 10


@cache
def trained(model: str, besides: tuple = (), **changed: Any) -> dict[str, Any]:
    """What a small run's row has beside its identity."""
    condition = Condition("small", {**SMALL, **changed}, besides=dict(besides))
    return mechanism.train_inside(*condition.plan(model)[0].arguments)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("relu", {"head": "frozen", "target_loss": 0.3, "epochs": 20}),
        ("lwta", {"restart_momentum": True, "dropout": 0.2, "input_dropout": 0.1}),
    ],
)
def test_a_followed_run_is_the_plain_run_bit_by_bit(
    changed: dict, model: str, mnist: Mnist
) -> None:
    plain = train_model(Config(paired=True, **{**SMALL, **changed}), ACTIVATIONS[model], 0, mnist)
    followed = trained(model, **changed)
    assert plain.record["status"] == "ok"
    assert {name: followed[name] for name in plain.record} == plain.record


def test_rows_of_task_2_begin_anew_and_of_the_same_scale_change_nothing() -> None:
    plain, same, larger = (
        trained("lwta", besides=besides, weight_decay=0.0)["accuracy_matrix"]
        for besides in ((), (("second_rows", 1.0),), (("second_rows", 5.0),))
    )
    assert plain == same, "nothing has trained them yet"
    assert plain[:2] == larger[:2]
    assert plain[2] != larger[2]


def test_a_random_winner_is_one_unit_a_block_whatever_its_pre_activation() -> None:
    k = 4
    z = np.random.default_rng(0).standard_normal((8 * k, 500))
    before, gate = z.copy(), np.empty_like(z)
    networks.random_winner(z, gate, k, np.random.default_rng(1))
    assert (gate.reshape(8, k, -1).sum(axis=1) == 1).all()
    assert (z == before * gate).all()
    is_largest = before.reshape(8, k, -1).argmax(axis=1) == gate.reshape(8, k, -1).argmax(axis=1)
    assert is_largest.mean() == pytest.approx(1 / k, abs=0.04)


def test_winners_are_kept_and_shifted_biases_hold_the_share_of_active_units() -> None:
    fixed, kept, lwta = (trained(model)["measures"] for model in ("fixed", "kept", "lwta"))
    before, after1, after2 = (f"overlap_tasks.{m}" for m in ("before", "after1", "after2"))
    assert fixed[before] == fixed[after1] == fixed[after2] == lwta[before]
    assert kept[before] == lwta[before] != lwta[after1]
    assert kept[after1] == kept[after2] == lwta[after1] != lwta[after2]
    assert trained("kept")["accuracy_matrix"][2] != trained("lwta")["accuracy_matrix"][2]
    relu, shifted = (trained(model, epochs=20)["measures"] for model in ("relu", "shifted"))
    assert shifted["activity.after2"] == pytest.approx([0.5, 0.5], abs=0.05)
    assert relu["activity.after2"][0] < shifted["activity.after2"][0] - 0.02


def test_a_run_that_dies_or_diverges_is_a_row_too() -> None:
    dead = trained("relu", lr=2.0, momentum=0.95, epochs=2)
    diverged = trained("lwta", lr=0.5, momentum=0.97)
    assert (dead["status"], diverged["status"]) == ("untrained", "diverged")
    assert dead["measures"]["overlap_chance.after2"][0] == 0
    assert diverged["measures"] == {}


def test_workers_that_train_load_no_plotting_library() -> None:
    check = "import sys, study.mechanism; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=STUDY.parent).returncode == 0


def test_a_stopped_study_goes_on_and_what_is_there_makes_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = RunFile(tmp_path / "mechanism.jsonl")
    plain = Condition("plain", SMALL, seeds=2, activations=(*PAIR, "random"))
    seen = Condition("seen", {**SMALL, "paired": False}, seeds=1, besides=IN_FIGURES)
    for module in (mechanism, analysis):
        monkeypatch.setattr(module, "MECHANISM", file)
        monkeypatch.setattr(module, "INSIDE", Family("?", (plain, seen), exploratory=True))
    monkeypatch.setattr(analysis, "inside", cache(analysis.inside.__wrapped__))
    mechanism.main(["plain", "--n-seeds", "1", "--jobs", "1"])
    assert "plain: 3 of 6 runs, 0 failed" in capsys.readouterr().out
    mechanism.main(["--jobs", "1"])
    assert len(file.rows()) == 8
    assert {"change_spread", "selectivity_2"} <= file.rows()[-1]["measures"].keys()
    both = [analysis.quantity(f"mechanism/plain:{model}.lost.offsets") for model in PAIR]
    gap = analysis.inside()["plain"].numbers["relu-lwta"]["lost.offsets"]
    assert (gap["n"], gap["mean"]) == (2, pytest.approx(both[0] - both[1]))
    assert "random winner" in analysis.inside_tables()["mechanism: networks"]


# --- Measures -------------------------------------------------------------------------------------


def test_a_layer_s_measures_on_worked_examples() -> None:
    layer = measures.measured_gates(np.stack([DIGITS < 5, DIGITS >= 5] * 5), DIGITS)  # of one task
    assert (layer["activity"], layer["gap"], layer["information"]) == pytest.approx((0.5, 1, 1))
    # Another half of the digits has 3 to 2 or 4 to 1 of a task's: 100 and 25 of the 125.
    assert layer["gap_chance"] == pytest.approx((100 * 0.2 + 25 * 0.6) / 125)
    assert layer["overlap_tasks"] == 0
    layer = measures.measured_gates(np.stack([digit == DIGITS for digit in range(10)]), DIGITS)
    assert (layer["gap"], layer["gap_chance"]) == pytest.approx((0.2, 0.2)), "each knows a digit"
    assert layer["information_chance"] == pytest.approx(layer["information"])
    layer = measures.measured_gates(np.random.default_rng(0).random((400, 600)) < 0.3, DIGITS)
    for name in ("tasks", "chance"):  # of independent units: p^2 / (2p - p^2)
        assert layer[f"overlap_{name}"] == pytest.approx(0.3 / 1.7, rel=0.02)


def test_effective_rank_and_cosine_on_worked_examples() -> None:
    assert measures.effective_rank(np.eye(5, 9)) == pytest.approx(5)
    assert measures.effective_rank(np.outer(np.arange(5), np.ones(9))) == pytest.approx(1)
    assert np.isnan(measures.effective_rank(np.zeros((3, 4))))
    assert measures.cosine(np.array([[1, 0], [0, 3], [-2, 0], [0, 0]])) == pytest.approx(1 / 3)


def untrained(mnist: Mnist, **changed: Any) -> tuple[Network, Task]:
    """A network before training, and its first task."""
    prepared = prepare(Config(**{**SMALL, **changed}), ACTIVATIONS["lwta"], 0, mnist)
    return networks.copy_of(prepared.network), prepared.tasks[0]


def test_the_tangent_trace_is_the_mean_squared_gradient_of_a_logit(mnist: Mnist) -> None:
    network, task = untrained(mnist, test_per_task=3)
    squares = []
    for image in task.test_inputs:
        for row in range(5):
            network.forward(image[None], task.classes)
            network.backward(image[None], task.classes, np.eye(5, dtype=np.float32)[:, [row]])
            squares.append(float((network.gradient.astype(float) ** 2).sum()))
    trace = measures.start_measures(network, task)["tangent_trace"]
    assert trace == pytest.approx(np.mean(squares), rel=1e-5)


def test_exchanged_heads_find_what_only_the_head_has_lost(mnist: Mnist) -> None:
    network, task = untrained(mnist)
    features = measures.last_features(network, task, task.train_inputs)
    head = measures.ridge(features, np.eye(5)[task.train_labels], 1e-3)
    network.weights[-1][task.classes] = head.T * 10
    moved = networks.copy_of(network)
    moved.weights[-1][task.classes[0], -1] += 100  # all is class 0
    found = measures.exchanged_heads(network, moved, task)
    (knew,) = evaluate(network, [task])
    assert knew > 0.6
    assert found["old_head"] == knew, "features are the same"
    assert found["new_head"] == pytest.approx(0.2, abs=0.05), "the new head is lost on the old too"
    assert found["offsets"] == pytest.approx(knew, abs=0.05)


def test_the_probe_reads_what_the_head_has_lost_not_what_the_features_have(mnist: Mnist) -> None:
    network, task = untrained(mnist, train_per_class=200)
    random_features = measures.probe_accuracy(network, task)
    assert random_features > 0.65
    network.weights[-1][:] = 0  # a lost head
    assert measures.probe_accuracy(network, task) == random_features
    assert 0.4 < measures.five_shot_accuracy(network, task) < random_features
    network.weights[1][:, :-1] = 0  # lost features
    assert measures.probe_accuracy(network, task) < 0.4


def test_what_is_lost_at_a_level_is_read_where_the_level_is_first_reached() -> None:
    tests = [[0.9, 0.1], [0.8, 0.6], [0.85, 0.55], [0.7, 0.9]]
    lost = [mechanism.lost_at(tests, level) for level in (0.35, 0.6, 0.725)]
    assert lost == pytest.approx([0.05, 0.1, 0.9 - 0.775])
    assert mechanism.lost_at(tests, 0.95) is None


def test_differences_are_over_the_seeds_that_both_have_and_of_what_most_of_them_have() -> None:
    first = {seed: {"a": seed / 10, "lost": 1.0} for seed in range(6)}
    second = {seed: {"a": 0.1} | ({"lost": 0.5} if seed < 4 else {}) for seed in range(1, 6)}
    found = analysis.summaries(analysis.minus(first, second))
    assert (found["a"]["n"], found["a"]["mean"]) == (5, pytest.approx(0.2))
    assert "lost" not in found, "3 of 5 have it"


def test_the_distance_from_one_curve_on_made_up_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    # LWTA stands at other x than ReLU: on its curve, then .05 below it.
    def network(x: float, moved: float) -> dict[int, Any]:
        return {0: {"x": x, "forgetting": 0.5 - 0.1 * np.log(x) - moved}}

    for below in (0.0, 0.05):
        cells = [Result("f", Condition(""), {}) for _ in range(4)]
        for x, cell in zip((2, 4, 8, 16), cells, strict=True):
            cell.measures = {"relu": network(x, 0), "lwta": network(1.3 * x, below)}
        monkeypatch.setattr(explanations, "two_layer_cells", lambda cells=cells: cells)
        away = explanations.distances("x")
        assert len(away) == 3, "the last lies beyond ReLU's curve"
        assert np.mean(away) == pytest.approx(-below, abs=0.002)


def test_the_committed_controls_start_task_2_as_lwta_does() -> None:
    there = finished_in(MECHANISM.rows())
    for rows in (condition.finished(there) for condition in INSIDE.conditions):
        for seed, row in rows.get("kept", {}).items():
            assert row["accuracy_matrix"][:2] == rows["lwta"][seed]["accuracy_matrix"][:2]
