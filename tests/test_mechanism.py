"""The measures of what happens inside the networks, and that measuring changes nothing."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import study_mechanism as mechanism
from compete_to_compute import (
    ACTIVATIONS,
    MLP,
    Config,
    InputError,
    Mnist,
    cross_entropy_gradient,
    initial_weights,
    make_tasks,
    train_model,
)

SMALL = {"hidden": 40, "train_per_class": 60, "test_per_task": 150, "epochs": 5}
OPTIONS = argparse.Namespace(n_seeds=2, jobs=1, data_dir=None, finished_only=False)


@pytest.mark.parametrize("model", ["relu", "lwta"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"restart_momentum": True, "weight_decay": 0.0},
        {"head": "frozen", "target_loss": 0.3, "epochs": 20},
        {"dropout": 0.2, "input_dropout": 0.1},
    ],
    ids=["default", "restarted", "frozen", "dropout"],
)
def test_a_followed_run_is_the_plain_run_bit_by_bit(
    changes: dict, model: str, mnist: Mnist
) -> None:
    case = mechanism.Case({**SMALL, **changes})
    plain = train_model(case.config(model), ACTIVATIONS[model], 3, mnist).record
    followed = mechanism.train_observed(case, model, 3, None).record
    assert followed["status"] == "ok"
    assert {name: followed[name] for name in ("accuracy_matrix", "epochs", "forgetting")} == {
        name: plain[name] for name in ("accuracy_matrix", "epochs", "forgetting")
    }
    assert followed["trajectory"][0] == [0, *plain["accuracy_matrix"][1]]


def test_what_a_case_does_differently_is_done_in_task_2_alone(mnist: Mnist) -> None:
    def matrix(**more: object) -> list:
        case = mechanism.Case(SMALL, **more)
        return mechanism.train_observed(case, "relu", 0, None).record["accuracy_matrix"]

    plain, ramp, slow = matrix(), matrix(ramp=10), matrix(second_lr=1e-6)
    assert plain[:2] == ramp[:2] == slow[:2]
    assert plain[2] != ramp[2]
    assert slow[2][1] < plain[2][1] - 0.2, "what is left of momentum teaches little"


def test_the_learning_rate_ramps_over_the_first_updates_of_task_2() -> None:
    case, config = mechanism.Case(ramp=4), Config(lr=0.1)
    rates = [mechanism.learning_rate(case, config, 2, update) for update in range(1, 7)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert mechanism.learning_rate(case, config, 1, 1) == 0.1


@pytest.mark.parametrize("k", [2, 4])
def test_a_random_winner_is_one_unit_a_block_whatever_its_pre_activation(k: int) -> None:
    z = np.random.default_rng(0).standard_normal((8 * k, 500))
    before, gate = z.copy(), np.empty_like(z)
    mechanism.random_winner(z, gate, k, np.random.default_rng(1))
    assert (gate.reshape(8, k, -1).sum(axis=1) == 1).all()
    assert (z == before * gate).all()
    largest = before.reshape(8, k, -1).argmax(axis=1) == gate.reshape(8, k, -1).argmax(axis=1)
    assert largest.mean() == pytest.approx(1 / k, abs=0.04)


def test_shifted_biases_hold_the_share_of_active_units(mnist: Mnist) -> None:
    case = mechanism.Case({**SMALL, "epochs": 30})
    record, plain = (
        mechanism.train_observed(case, model, 0, None).record for model in ("shifted", "relu")
    )
    for layer in (0, 1):
        assert record["layers"][2][layer]["activity"] == pytest.approx(0.5, abs=0.05)
    first = [of["layers"][2][0]["activity"] for of in (plain, record)]
    assert first[0] < first[1] - 0.02


def test_fixed_winners_are_those_of_the_initial_weights_however_long_it_trains(
    mnist: Mnist,
) -> None:
    record = mechanism.train_observed(mechanism.Case(SMALL), "fixed", 0, None).record
    untrained, *later = record["layers"]
    assert later == [untrained, untrained]
    assert [of["gates"] for of in record["changed"]] == [0, 0]
    assert record["status"] == "ok"
    lwta = mechanism.train_observed(mechanism.Case(SMALL), "lwta", 0, None).record
    assert lwta["layers"][0] == untrained
    assert lwta["layers"][2] != untrained


def test_winners_kept_at_the_switch_compete_until_then_and_never_after(mnist: Mnist) -> None:
    kept, lwta = (
        mechanism.train_observed(mechanism.Case(SMALL), model, 0, None).record
        for model in ("kept", "lwta")
    )
    assert kept["accuracy_matrix"][:2] == lwta["accuracy_matrix"][:2]
    assert kept["accuracy_matrix"][2] != lwta["accuracy_matrix"][2]
    assert kept["layers"][:2] == lwta["layers"][:2]
    assert kept["layers"][2] == kept["layers"][1], "Task 2 moved no winner"
    for name in ("before", "after Task 1"):
        assert kept["probe"][name] == lwta["probe"][name], "measured with the winners of that time"
    assert kept["switch"] == lwta["switch"]


DIGITS = np.arange(600) % 10


def test_measures_of_units_that_belong_to_one_task_each() -> None:
    task_of = (DIGITS >= 5).astype(int)
    own = np.stack([task_of == 0, task_of == 1] * 5)
    found = mechanism.layer_measures(own, task_of, DIGITS)
    assert found["activity"] == 0.5
    assert (found["gap"], found["information"]) == pytest.approx((1, 1))
    # Another half of the digits has 3 to 2 or 4 to 1 of a task's: 100 and 25 of the 125.
    assert found["gap_chance"] == pytest.approx((100 * 0.2 + 25 * 0.6) / 125)
    assert (found["overlap_class"], found["overlap_task"], found["overlap_tasks"]) == (1, 1, 0)


def test_units_that_know_single_digits_tell_the_tasks_apart_by_chance_alone() -> None:
    gates = np.stack([digit == DIGITS for digit in range(10)])
    found = mechanism.layer_measures(gates, (DIGITS >= 5).astype(int), DIGITS)
    assert found["gap"] == pytest.approx(0.2)
    assert found["gap_chance"] == pytest.approx(found["gap"])
    assert found["information_chance"] == pytest.approx(found["information"])
    assert len(mechanism.other_parts(DIGITS)) == 125


def test_overlap_of_independent_units_is_what_independence_gives() -> None:
    gates = np.random.default_rng(0).random((400, 600)) < 0.3
    found = mechanism.layer_measures(gates, (DIGITS >= 5).astype(int), DIGITS)
    for name in ("overlap_class", "overlap_task", "overlap_tasks"):
        assert found[name] == pytest.approx(found["overlap_chance"], rel=0.02)
    # Independent units at p: p^2 / (2p - p^2) = .3 / 1.7.
    assert found["overlap_chance"] == pytest.approx(0.3 / 1.7, rel=0.01)


def test_changed_gates_and_weights_on_worked_examples() -> None:
    before = np.array([[1, 1], [0, 0], [1, 0], [0, 1]], bool)  # two blocks, two images
    after = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)  # a winner changed on the second
    found = mechanism.changed_gates(before, after)
    assert found["gates"] == 0.25  # one block of four
    assert found["silenced"] == pytest.approx((0 + 1 / 2) / 2)

    normal = np.random.default_rng(0).standard_normal((500, 400))
    nothing = np.zeros_like(normal)
    assert mechanism.changed_weights(nothing, normal)["carrying"] == pytest.approx(0.445, abs=0.003)
    half = np.concatenate([nothing, nothing + 1])
    found = mechanism.changed_weights(np.zeros_like(half), half)
    assert found["untouched"] == 0.5
    assert found["carrying"] == pytest.approx(0.45, abs=0.001)


def network_of(config: Config, seed: int, mnist: Mnist, dtype: type = np.float32) -> tuple:
    tasks, live = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed)
    network = MLP([start[0][live], *start[1:]], ACTIVATIONS["lwta"], 2, dtype)
    return network, tasks


def test_the_probe_reads_what_the_head_has_lost_and_not_what_the_features_have(
    mnist: Mnist,
) -> None:
    config = Config(**{**SMALL, "train_per_class": 200})
    network, tasks = network_of(config, 0, mnist)
    random_features = mechanism.probe_accuracy(network, tasks[0])
    assert random_features > 0.65
    network.weights[-1][:] = 0  # a lost head
    assert mechanism.probe_accuracy(network, tasks[0]) == random_features
    network.weights[1][:, :-1] = 0  # lost features
    assert mechanism.probe_accuracy(network, tasks[0]) < 0.4


def test_sharpness_is_the_largest_eigenvalue_of_the_gauss_newton_matrix(mnist: Mnist) -> None:
    config = Config(hidden=4, depth=2, train_per_class=10, test_per_task=20)
    tasks, _ = make_tasks(config, 0, mnist)
    task = tasks[1]
    # Few pixels, so that the whole matrix can be had.
    kept = np.argsort(task.train_inputs[:, :-1].var(axis=0))[-6:]
    inputs = np.append(task.train_inputs[:, kept], np.ones((len(task.train_inputs), 1)), axis=1)
    task = replace(task, train_inputs=inputs)
    rng = np.random.default_rng(2)
    layers = [rng.standard_normal(shape) for shape in ((6, 4), (4, 4), (4, 10))]
    network = MLP(layers, ACTIVATIONS["lwta"], 2, np.float64)
    start = network.parameters.copy()

    def logits_at(parameters: np.ndarray) -> np.ndarray:
        network.parameters[:] = parameters
        return network.forward(inputs, task.classes)

    steps = 1e-6 * np.eye(len(start))
    jacobian = np.array([logits_at(start + s) - logits_at(start - s) for s in steps]) / 2e-6
    logits = logits_at(start)
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    matrix = sum(
        jacobian[:, :, i] @ (np.diag(p[:, i]) - np.outer(p[:, i], p[:, i])) @ jacobian[:, :, i].T
        for i in range(len(inputs))
    ) / len(inputs)
    network.backward(inputs, task.classes, cross_entropy_gradient(logits, task.train_labels))
    expected = np.linalg.norm(network.gradient)
    largest, norm = mechanism.sharpness(network, task)
    assert largest == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-3)
    assert norm == pytest.approx(expected)
    assert (network.parameters == start).all()


def test_what_is_lost_at_a_level_is_read_where_the_level_is_first_reached() -> None:
    trajectory = [[0, 0.9, 0.1], [2, 0.8, 0.6], [4, 0.85, 0.55], [6, 0.7, 0.9]]
    assert mechanism.lost_at(trajectory, 0.35) == pytest.approx(0.05)
    assert mechanism.lost_at(trajectory, 0.6) == pytest.approx(0.1)
    assert mechanism.lost_at(trajectory, 0.725) == pytest.approx(0.9 - 0.775)
    assert mechanism.lost_at(trajectory, 0.95) is None


def test_a_change_is_taken_over_the_seeds_that_both_cases_have() -> None:
    def records(relu: list, lwta: list) -> list[dict]:
        return [
            {
                "model": model,
                "seed": seed,
                "status": "ok" if f < 0.9 else "diverged",
                "forgetting": f,
            }
            for model, of in (("relu", relu), ("lwta", lwta))
            for seed, f in enumerate(of)
        ]

    found = mechanism.change(
        records([0.3, 0.4, 0.5], [0.1, 0.1, 0.95]), records([0.1] * 3, [0.1] * 3)
    )
    assert (found["relu"]["n"], found["relu"]["mean"]) == (3, pytest.approx(0.3))
    assert (found["lwta"]["n"], found["lwta"]["mean"]) == (2, 0)
    assert (found["relu minus lwta"]["n"], found["relu minus lwta"]["mean"]) == (
        *(2, pytest.approx(0.25)),
    )


def test_the_correlation_is_spearman_s_and_its_interval_that_of_ranks() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 20, 40).astype(float)  # with ties
    y = x + rng.normal(0, 8, 40)
    y[0] = 1e6
    found = mechanism.correlation(x, y)
    assert found["r"] == pytest.approx(spearmanr(x, y).statistic)
    half = 1.959964 * np.sqrt((1 + found["r"] ** 2 / 2) / 37)
    bounds = np.arctanh(found["r"]) + np.array([-half, half])
    assert np.arctanh(found["ci95"]) == pytest.approx(bounds)
    assert mechanism.correlation(x, x)["r"] == pytest.approx(1)


def test_cases_resume_and_end_in_results_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanism, "STUDY", tmp_path)
    short = {**SMALL, "epochs": 3}
    cases = {
        "default": mechanism.Case(short, models=tuple(mechanism.LABELS), seeds=3),
        "four layers": mechanism.Case({**short, "depth": 3}, seeds=3),
        "LWTA with 200 units": mechanism.Case(short, of_model={"lwta": {"hidden": 20}}, seeds=3),
        "lr 0.05, momentum 0": mechanism.Case({**short, "momentum": 0.5}, seeds=3),
        "lr 0.05, slower": mechanism.Case(short, seeds=3, ramp=5, against="default"),
    }
    monkeypatch.setattr(mechanism, "CASES", cases)
    assert mechanism.main(["--n-seeds", "2", "--jobs", "2"]) == 0

    def train_nothing(*_: object) -> None:
        raise AssertionError("everything is in the journals")

    saved = json.loads((tmp_path / "mechanism.json").read_text())
    monkeypatch.setattr(mechanism, "train_observed", train_nothing)
    names = list(mechanism.FIGURES)
    monkeypatch.setattr(mechanism, "FIGURES", {})  # once is enough to see that they are drawn
    assert mechanism.main(["--n-seeds", "2"]) == 0
    assert json.loads((tmp_path / "mechanism.json").read_text())["cases"] == saved["cases"]
    default = saved["cases"][0]
    assert default["seeds_run"] == 2
    assert default["seeds_planned"] == 3
    assert set(default["relu_minus"]) == set(mechanism.LABELS) - {"relu"}
    assert saved["cases"][-1]["change"]["relu minus lwta"]["n"] == 2
    for name in names:
        assert (tmp_path / name).stat().st_size > 10_000


def test_unknown_cases_are_refused() -> None:
    with pytest.raises(InputError, match="nonsense"):
        mechanism.main(["nonsense"])
    with pytest.raises(InputError, match="--jobs"):
        mechanism.main(["--jobs", "0"])


def test_one_finished_run_makes_results_and_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mechanism, "STUDY", tmp_path)
    case = mechanism.Case(SMALL, models=("relu",), seeds=1)
    mechanism.train_case("default", case, OPTIONS)
    monkeypatch.setattr(mechanism, "CASES", {"default": replace(case, models=("relu", "lwta"))})
    assert mechanism.main(["--finished-only"]) == 0
    assert "no figures" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.png"))
    assert json.loads((tmp_path / "mechanism.json").read_text())["cases"][0]["seeds_run"] == 1


@pytest.mark.parametrize("name", mechanism.CASES)
def test_the_study_s_networks_start_task_2_as_they_are_compared(name: str) -> None:
    runs = mechanism.finished_records(name, mechanism.CASES[name])
    assert len({run["blas_kernel"] for run in runs}) == 1, "bits differ between kernels"
    learned = {(run["model"], run["seed"]): run["accuracy_matrix"][:2] for run in runs}
    for seed in mechanism.planned_seeds(mechanism.CASES[name]):
        if ("kept", seed) in learned:
            assert learned["kept", seed] == learned["lwta", seed]


def test_a_journal_names_the_whole_configuration() -> None:
    case = mechanism.CASES["default"]
    before = mechanism.journal_of("default", case).identity
    assert before["config"]["lr"] == Config().lr
    other = mechanism.journal_of("default", replace(case, changes={"lr": 0.01})).identity
    assert other != before
