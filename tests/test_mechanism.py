"""The measures of what happens inside the networks, and that measuring changes nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compete_to_compute import (
    ACTIVATIONS,
    Config,
    InputError,
    Mnist,
    Task,
    evaluate,
    initial_weights,
    make_tasks,
    train_model,
)
from study import explanations, measures, mechanism, mechanism_figures
from study import mechanism_analysis as analysis
from study.mechanism import FollowedCondition, Network
from study.runs import PAIR, GzipTable, key

SMALL = {"hidden": 40, "train_per_class": 60, "test_per_task": 150, "epochs": 5}
DIGITS = np.arange(600) % 10


@cache
def trained(model: str, seed: int = 0, besides: tuple = (), **changed: Any) -> dict[str, Any]:
    """A row of the table, of a small run."""
    condition = FollowedCondition("small", {**SMALL, **changed}, besides=dict(besides))
    return mechanism.train_followed(condition, model, seed, None)


# --- Training -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        ("relu", {}),
        ("relu", {"head": "frozen", "target_loss": 0.3, "epochs": 20}),
        ("lwta", {"restart_momentum": True, "dropout": 0.2, "input_dropout": 0.1}),
    ],
)
def test_a_followed_run_is_the_plain_run_bit_by_bit(
    changed: dict, model: str, mnist: Mnist
) -> None:
    config = Config(paired=True, **{**SMALL, **changed})
    plain = train_model(config, ACTIVATIONS[model], 0, mnist).record
    row = trained(model, **changed)
    assert row["status"] == "ok"
    for name in ("accuracy_matrix", "epochs", "target_reached"):
        assert row[name] == plain[name]
    assert row["trajectory"][0] == [0, *plain["accuracy_matrix"][1]]


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
    mechanism.random_winner(z, gate, k, np.random.default_rng(1))
    assert (gate.reshape(8, k, -1).sum(axis=1) == 1).all()
    assert (z == before * gate).all()
    is_largest = before.reshape(8, k, -1).argmax(axis=1) == gate.reshape(8, k, -1).argmax(axis=1)
    assert is_largest.mean() == pytest.approx(1 / k, abs=0.04)


def test_shifted_biases_hold_the_share_of_active_units() -> None:
    relu, shifted = (trained(model, epochs=20)["layers"][2] for model in ("relu", "shifted"))
    assert [layer["activity"] for layer in shifted] == pytest.approx([0.5, 0.5], abs=0.05)
    assert relu[0]["activity"] < shifted[0]["activity"] - 0.02


def test_winners_are_kept_for_good_or_from_the_switch_on() -> None:
    fixed, kept, lwta = map(trained, ("fixed", "kept", "lwta"))
    assert fixed["layers"] == [lwta["layers"][0]] * 3
    assert kept["layers"] == [*lwta["layers"][:2], lwta["layers"][1]]
    assert lwta["layers"][2] != lwta["layers"][1] != lwta["layers"][0]
    assert kept["accuracy_matrix"][2] != lwta["accuracy_matrix"][2]
    assert kept["probe"]["after Task 1"] == lwta["probe"]["after Task 1"]


def test_a_run_that_dies_or_diverges_is_a_row_too() -> None:
    dead = trained("relu", lr=2.0, momentum=0.95, epochs=2)
    diverged = trained("lwta", lr=0.5, momentum=0.97)
    assert dead["layers"][2][0]["overlap_chance"] == 0
    assert (dead["status"], diverged["status"]) == ("untrained", "diverged")
    assert "layers" not in diverged


# --- Measures -------------------------------------------------------------------------------------


def layer_measures(gates: np.ndarray) -> dict[str, float]:
    return measures.measured_gates(gates, DIGITS)


def test_a_layer_s_measures_on_worked_examples() -> None:
    layer = layer_measures(np.stack([DIGITS < 5, DIGITS >= 5] * 5))  # a unit belongs to one task
    assert (layer["activity"], layer["gap"], layer["information"]) == pytest.approx((0.5, 1, 1))
    # Another half of the digits has 3 to 2 or 4 to 1 of a task's: 100 and 25 of the 125.
    assert layer["gap_chance"] == pytest.approx((100 * 0.2 + 25 * 0.6) / 125)
    assert layer["overlap_tasks"] == 0

    layer = layer_measures(np.stack([digit == DIGITS for digit in range(10)]))
    assert (layer["gap"], layer["gap_chance"]) == pytest.approx((0.2, 0.2)), "each knows a digit"
    assert layer["information_chance"] == pytest.approx(layer["information"])

    layer = layer_measures(np.random.default_rng(0).random((400, 600)) < 0.3)  # independent
    for name in ("tasks", "chance"):
        assert layer[f"overlap_{name}"] == pytest.approx(0.3 / 1.7, rel=0.02)  # p^2 / (2p - p^2)


def test_moved_weights_on_a_worked_example() -> None:
    assert measures.moved_weights(np.eye(4), np.eye(4) * 3) == pytest.approx(
        {"moved": 2, "moved_rank": 4}
    )


def test_effective_rank_and_cosine_on_worked_examples() -> None:
    assert measures.effective_rank(np.eye(5, 9)) == pytest.approx(5)
    assert measures.effective_rank(np.outer(np.arange(5), np.ones(9))) == pytest.approx(1)
    assert np.isnan(measures.effective_rank(np.zeros((3, 4))))
    assert measures.cosine(np.array([[1, 0], [0, 3], [-2, 0], [0, 0]])) == pytest.approx(1 / 3)


def untrained(mnist: Mnist, **changed: Any) -> tuple[Network, list[Task]]:
    """A network before training, and its tasks."""
    config = Config(**{**SMALL, **changed})
    tasks, used = make_tasks(config, 0, mnist)
    first, *others = initial_weights(config, 0)
    return Network([first[used], *others], ACTIVATIONS["lwta"], 2), tasks


def test_the_tangent_trace_is_the_mean_squared_gradient_of_a_logit(mnist: Mnist) -> None:
    network, (task, _) = untrained(mnist, test_per_task=3)
    squares = []
    for image in task.test_inputs:
        for row in range(5):
            network.forward(image[None], task.classes)
            network.backward(image[None], task.classes, np.eye(5, dtype=np.float32)[:, [row]])
            squares.append(float((network.gradient.astype(float) ** 2).sum()))
    trace = measures.start_measures(network, task)["tangent_trace"]
    assert trace == pytest.approx(np.mean(squares), rel=1e-5)


def test_exchanged_heads_find_what_only_the_head_has_lost(mnist: Mnist) -> None:
    network, (task, _) = untrained(mnist)
    head = measures.ridge(
        measures.last_features(network, task.train_inputs, task.classes),
        np.eye(5)[task.train_labels],
        1e-3,
    )
    network.weights[-1][task.classes] = head.T * 10
    moved = network.copy()
    moved.weights[-1][task.classes[0], -1] += 100  # all is class 0
    found = measures.exchanged_heads(network, moved, task)
    (knew,) = evaluate(network, [task])
    assert knew > 0.6
    assert found["old_head"] == knew, "features are the same"
    assert found["new_head"] == pytest.approx(0.2, abs=0.05), "the new head is lost on the old too"
    assert found["offsets"] == pytest.approx(knew, abs=0.05)


def test_the_probe_reads_what_the_head_has_lost_not_what_the_features_have(mnist: Mnist) -> None:
    network, tasks = untrained(mnist, train_per_class=200)
    random_features = measures.probe_accuracy(network, tasks[0])
    assert random_features > 0.65
    network.weights[-1][:] = 0  # a lost head
    assert measures.probe_accuracy(network, tasks[0]) == random_features
    assert 0.4 < measures.five_shot_accuracy(network, tasks[0]) < random_features
    network.weights[1][:, :-1] = 0  # lost features
    assert measures.probe_accuracy(network, tasks[0]) < 0.4


# --- Numbers, tables, figures ---------------------------------------------------------------------


def test_what_is_lost_at_a_level_is_read_where_the_level_is_first_reached() -> None:
    trajectory = [[0, 0.9, 0.1], [2, 0.8, 0.6], [4, 0.85, 0.55], [6, 0.7, 0.9]]
    lost = [analysis.lost_at(trajectory, level) for level in (0.35, 0.6, 0.725)]
    assert lost == pytest.approx([0.05, 0.1, 0.9 - 0.775])
    assert analysis.lost_at(trajectory, 0.95) is None


def test_differences_are_over_the_seeds_that_both_have_and_of_what_most_of_them_have() -> None:
    first = {seed: {"a": seed / 10, "lost": 1.0} for seed in range(6)}
    second = {seed: {"a": 0.1} | ({"lost": 0.5} if seed < 4 else {}) for seed in range(1, 6)}
    a = analysis.summaries(analysis.minus(first, second))["a"]
    assert (a["n"], a["mean"]) == (5, pytest.approx(0.2))
    assert "lost" not in analysis.summaries(analysis.minus(first, second)), "3 of 5 have it"


def test_a_stopped_study_goes_on_and_what_is_there_makes_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short, table = {**SMALL, "epochs": 2}, GzipTable(tmp_path / "mechanism.jsonl.gz")
    conditions = (
        FollowedCondition("plain", short, seeds=3, activations=(*PAIR, "random")),
        FollowedCondition("rows", short, seeds=3, besides={"second_rows": 0.7}),
        FollowedCondition("seen", {**short, "paired": False}, besides=mechanism.IN_FIGURES),
    )
    for module in (mechanism, analysis):
        monkeypatch.setattr(module, "MECHANISM", table)
        monkeypatch.setattr(module, "CONDITIONS", {c.label: c for c in conditions})
    for name in ("runs", "analyse"):  # nothing remembered from another table, nor for another
        monkeypatch.setattr(analysis, name, cache(getattr(analysis, name).__wrapped__))
    assert mechanism.main(["plain", "--n-seeds", "1", "--jobs", "1"]) == 0
    assert capsys.readouterr().out == "plain: 3 of 9 runs, 0 failed\n"
    before = table.read()
    assert mechanism.main(["--n-seeds", "2", "--jobs", "1"]) == 0
    assert table.read()[:3] == before
    assert len({str(key(row)) for row in table.read()}) == len(table.read()) == 14
    assert {"change_spread", "selectivity_2"} <= table.read()[-1]["seen"].keys()

    both = [analysis.quantity(f"mechanism/rows:{model}.forgetting") for model in PAIR]
    gap = analysis.analyse()["rows"]["relu-lwta"]["forgetting"]
    assert (gap["n"], gap["mean"]) == (2, pytest.approx(both[0] - both[1]))
    assert analysis.quantity("mechanism/plain:failed.random") == 0
    assert "random winner" in analysis.tables()["mechanism: networks"]
    with pytest.raises(InputError, match="no such quantity"):
        analysis.quantity("mechanism/plain:relu.nothing")
    with pytest.raises(InputError, match="--dask"):
        mechanism.main(["--dask", "tcp://there:1"])


def test_every_figure_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def deeper(row: dict[str, Any]) -> dict[str, Any]:
        """The row of a network with each layer twice."""
        layers = [[*layers, *layers] for layers in row["layers"]]
        return {**row, "layers": layers}

    rows = {m: {s: deeper(trained(m, s)) for s in (0, 1)} for m in mechanism.MODELS}
    monkeypatch.setattr(analysis, "runs", lambda: dict.fromkeys(mechanism.CONDITIONS, rows))
    numbers = cache(analysis.analyse.__wrapped__)  # of these runs, and of no other test
    for module in (analysis, mechanism_figures):
        monkeypatch.setattr(module, "analyse", numbers)
    drawn = []
    monkeypatch.setattr(mechanism_figures, "save_figure", lambda *saved: drawn.append(saved))
    mechanism_figures.draw_all()
    assert len(drawn) == 2
    for figure, path in drawn:
        assert path.is_file(), "it is in the report under this name"
        assert all(axes.has_data() for axes in figure.axes)


def test_the_published_runs_of_a_condition_are_of_one_kernel_and_start_task_2_alike() -> None:
    for by_model in analysis.runs().values():
        assert len({row["kernel"] for rows in by_model.values() for row in rows.values()}) <= 1
        for seed, row in by_model.get("kept", {}).items():
            assert row["accuracy_matrix"][:2] == by_model["lwta"][seed]["accuracy_matrix"][:2]


def test_one_curve_and_correlation_on_made_up_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    # LWTA stands at other x than ReLU: on its curve, then .05 below it.
    measure = "rank.layer1.after1"

    def made_up(below: float) -> dict[str, Any]:
        noise = np.linspace(-0.1, 0.1, 9)

        def network(x: float, moved: float) -> dict[int, Any]:
            return {
                seed: {measure: x * np.exp(n), "forgetting": 0.5 - 0.1 * (np.log(x) + n) - moved}
                for seed, n in enumerate(noise)
            }

        return {
            str(x): {"relu": network(x, 0), "lwta": network(1.3 * x, below)} for x in (2, 4, 8, 16)
        }

    for below in (0.0, 0.05):
        made = made_up(below)
        monkeypatch.setattr(explanations, "cells", lambda made=made: list(made))
        monkeypatch.setattr(explanations, "cell", made.__getitem__)
        found = explanations.distance(measure)
        assert found["cells"] == 3, "the last lies beyond ReLU's curve"
        assert found["mean"] == pytest.approx(-below, abs=0.002)
    relu = made["2"]["relu"]
    relu[0]["forgetting"], relu[1]["forgetting"] = relu[1]["forgetting"], relu[0]["forgetting"]
    found = explanations.correlation(relu, measure)
    rho = -(1 - 6 * 2 / (9 * 80))  # two ranks of nine are exchanged
    assert found["mean"] == pytest.approx(rho)
    assert np.arctanh(found["ci95"]) - np.arctanh(rho) == pytest.approx(
        [-1.95996 / 6**0.5, 1.95996 / 6**0.5], abs=1e-4
    )
