"""The published protocol, and what each option may and may not change."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute as ctc
from compete_to_compute import (
    ACTIVATIONS,
    METRICS,
    MLP,
    Config,
    Mnist,
    Moment,
    Run,
    Task,
    train_phases,
)

# Enough to learn something from, and trained in some 20 ms; five updates an epoch.
TINY = Config(hidden=32, train_per_class=30, test_per_task=100, epochs=2, batch=32)
BOTH = [ACTIVATIONS["relu"], ACTIVATIONS["lwta"]]


def train(config: Config, activation: str, mnist: Mnist) -> Run:
    return ctc.train_model(config, ACTIVATIONS[activation], 0, mnist)


def network_and_tasks(
    config: Config, mnist: Mnist, activation: str = "lwta"
) -> tuple[MLP, list[Task]]:
    """The network of seed 0 before training, and what to train it on."""
    tasks, used = ctc.make_tasks(config, 0, mnist)
    first, *others = ctc.initial_weights(config, 0)
    return MLP([first[used], *others], ACTIVATIONS[activation], config.k), tasks


# --- Tasks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "config"),
    [
        (0, Config()),
        (3, Config(permute=True, head="single", dropout=0.5, k=4, init_scale=0.2, joint=True)),
    ],
)
def test_the_draw_is_the_published_one(seed: int, config: Config, mnist: Mnist) -> None:
    """Training images of both tasks, digit by digit, then the test images."""
    rng = np.random.default_rng(seed)
    drawn = ctc.draw_images(config, seed, mnist)
    for digits, (training, _) in zip([range(5), range(5, 10)], drawn, strict=True):
        images = [np.where(mnist.train_labels == digit)[0] for digit in digits]
        chosen = np.concatenate([rng.choice(own, 500, replace=False) for own in images])
        rng.shuffle(chosen)
        np.testing.assert_array_equal(training, chosen)
    for digits, (_, testing) in zip([range(5), range(5, 10)], drawn, strict=True):
        images = np.array([i for i, digit in enumerate(mnist.test_labels) if digit in digits])
        np.testing.assert_array_equal(testing, images[rng.permutation(len(images))[:1000]])


def test_zero_draws_every_image(mnist: Mnist) -> None:
    config = Config(tasks=("31",), train_per_class=0, test_per_task=0)
    [(training, testing)] = ctc.draw_images(config, 0, mnist)
    every = [np.flatnonzero(np.isin(n, [1, 3])) for n in (mnist.train_labels, mnist.test_labels)]
    np.testing.assert_array_equal(np.sort(training), every[0])
    np.testing.assert_array_equal(testing, every[1])


@pytest.mark.parametrize("head", ["masked", "single"])
def test_task_inputs_are_the_drawn_images_in_the_documented_order(head: str, mnist: Mnist) -> None:
    config = replace(TINY, head=head, tasks=("012", "012", "345"), permute=True)
    ctc.check_config(config, BOTH)  # permuted tasks may share digits
    tasks, used = ctc.make_tasks(config, 2, mnist)
    rng = np.random.default_rng([2, 1])
    orders = [np.arange(784), rng.permutation(784), rng.permutation(784)]
    drawn = ctc.draw_images(config, 2, mnist)
    for task, order, (train, test) in zip(tasks, orders, drawn, strict=True):
        images = np.concatenate([mnist.train_images[train], mnist.test_images[test]])[:, order]
        inputs = np.concatenate([task.train_inputs, task.test_inputs])
        assert inputs.dtype == np.float32
        np.testing.assert_array_equal(inputs[:, :-1], images[:, used] / np.float32(255))
        np.testing.assert_array_equal(inputs[:, -1], 1)
        assert not images[:, ~used].any()
        digits = np.concatenate([mnist.train_labels[train], mnist.test_labels[test]])
        labels = np.concatenate([task.train_labels, task.test_labels])
        np.testing.assert_array_equal(task.classes[labels], digits)
        assert len(task.classes) == (10 if head == "single" else 3)


# --- The published run, and bits ----------------------------------------------------------------


# SHA-256 of what each set of options gave, of rows of `per_seed` and `schedule`, by BLAS kernel.
BITS = json.loads(Path(__file__).with_name("bits.json").read_text())
SMALL = replace(TINY, hidden=40, train_per_class=60, test_per_task=200)
OPTION_SETS = {
    "default": Config(),
    "paired, k 4, depth 3": replace(SMALL, paired=True, k=4, depth=3),
    "frozen head to a target loss": replace(SMALL, head="frozen", target_loss=0.3, epochs=20),
    "five tasks": replace(SMALL, tasks=("01", "23", "45", "67", "89")),
    "dropout": replace(SMALL, dropout=0.3, input_dropout=0.2),
    "permuted": replace(SMALL, permute=True, head="single", restart_momentum=True, lr=0.02),
    "joint": replace(SMALL, joint=True, init_scale=0.5, momentum=0.5, weight_decay=0.01),
}


def train_option_sets(mnist: Mnist) -> None:
    """Print the kernel, the hash of each set of options, and the schedules of the default."""
    hashes, schedules = {}, {}
    for name, config in OPTION_SETS.items():
        models = ("relu", "lwta") if name == "default" else ACTIVATIONS
        runs = {model: train(config, model, mnist) for model in models}
        rows = [{k: v for k, v in r.record.items() if k != "blas_kernel"} for r in runs.values()]
        content = json.dumps([rows, [row for run in runs.values() for row in run.schedule]])
        hashes[name] = hashlib.sha256(content.encode()).hexdigest()
        schedules[name] = {model: run.schedule for model, run in runs.items()}
    kernel = ctc.blas()["blas_kernel"]
    print(json.dumps({"kernel": kernel, "sha256": hashes, "seed 0": schedules["default"]}))


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """What `train_option_sets` finds with the BLAS kernel that was recorded.

    OpenBLAS takes it from a variable as it is loaded; any x86 processor of some ten years has it.
    """
    folders = os.pathsep.join(str(Path(file).parent) for file in (__file__, ctc.__file__))
    variables = {"PYTHONPATH": folders, "OPENBLAS_CORETYPE": next(iter(BITS))}
    code = "import test_protocol as t; t.train_option_sets(t.ctc.load_mnist())"
    command, environment = [sys.executable, "-c", code], {**os.environ, **variables}
    return json.loads(
        subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    )


def test_bits_are_the_recorded_ones(trained: dict[str, Any]) -> None:
    recorded = BITS.get(trained["kernel"], {})
    if recorded.get("numpy") != int(np.__version__.split(".")[0]):
        pytest.skip("recorded with another BLAS kernel or numpy")
    assert trained["sha256"] == recorded["sha256"]


# Published test accuracy on both tasks, after each epoch of Task 1 and after Task 2.
TASK_1 = {
    "relu": [(0.956, 0.143), (0.961, 0.125), (0.971, 0.112), (0.968, 0.112), (0.974, 0.119)],
    "lwta": [(0.963, 0.217), (0.971, 0.147), (0.975, 0.171), (0.973, 0.155), (0.973, 0.162)],
}
AFTER_TASK_2 = {"relu": (0.902, 0.957), "lwta": (0.951, 0.951)}


def test_seed_0_agrees_with_the_published_run(trained: dict[str, Any]) -> None:
    for model, schedule in trained["seed 0"].items():
        steps = [(row["task"], row["epoch"]) for row in schedule]
        assert steps == [(task, epoch) for task in (1, 2) for epoch in range(1, 6)]
        accuracies = [row["test_accuracy"] for row in schedule]
        np.testing.assert_allclose(accuracies[:5], TASK_1[model], atol=0.002)
        # What differs in the last bits between BLAS kernels has grown: to .006 on OpenBLAS's.
        np.testing.assert_allclose(accuracies[-1], AFTER_TASK_2[model], atol=0.03)


def test_training_can_start_from_other_weights(mnist: Mnist) -> None:
    start = [2 * weights for weights in ctc.initial_weights(TINY, 0)]
    run = ctc.train_run(TINY, ACTIVATIONS["lwta"], 0, None, start)
    assert run.record == train(replace(TINY, init_scale=2.0), "lwta", mnist).record
    assert (run.schedule, run.snapshot) == ([], {})


# --- Following training -------------------------------------------------------------------------


def test_moments_come_in_order_and_are_one_object(mnist: Mnist) -> None:
    expected = []
    for task, done in ((1, 0), (2, 10)):
        expected.append(("start", task, 0, done, 0, False, False))
        for epoch in (1, 2):
            steps = range(5 * epoch - 4, 5 * epoch + 1)
            expected += [("update", task, epoch, done + n, n, False, False) for n in steps]
            expected.append(("epoch", task, epoch, done + 5 * epoch, 5 * epoch, epoch == 2, True))
    config = replace(TINY, target_loss=1e-9)
    names = ("stage", "task", "epoch", "update", "task_update", "task_over")
    moments, seen = set(), []
    for now in train_phases(*network_and_tasks(config, mnist), config, 0):
        moments.add(id(now))
        has_losses = math.isfinite(now.train_loss) and math.isfinite(now.train_accuracy)
        seen.append((*(getattr(now, name) for name in names), has_losses))
        assert (now.lr, now.target_reached) == (config.lr, False)
    assert seen == expected
    assert len(moments) == 1


def test_the_training_figures_are_of_each_image_before_its_update(mnist: Mnist) -> None:
    config = replace(TINY, lr=1e-12, epochs=1)  # so that no update changes anything
    network, tasks = network_and_tasks(config, mnist)
    for now in train_phases(network, tasks, config, 0):
        if now.stage == "epoch":
            task = tasks[now.task - 1]
            logits = network.forward(task.train_inputs, task.classes)
            loss, accuracy = ctc.loss_and_accuracy(logits, task.train_labels)
            assert now.train_loss == pytest.approx(loss, rel=1e-5)
            assert now.train_accuracy == pytest.approx(accuracy, abs=0.01)


def test_evaluating_more_often_changes_no_bit_and_only_adds_tests(mnist: Mnist) -> None:
    plain = train(TINY, "lwta", mnist)
    often = train(replace(TINY, evaluate_every=3), "lwta", mnist)
    assert (often.record, often.schedule) == (plain.record, plain.schedule)
    for name in ("W1", "active"):
        np.testing.assert_array_equal(often.snapshot[name], plain.snapshot[name])
    # Update 15 ends an epoch, and is listed once, with its training loss.
    updates = often.snapshot["update"]
    assert list(updates) == [0, 3, 5, 6, 9, 10, 12, 15, 18, 20]
    np.testing.assert_array_equal(often.snapshot["task"], [0] + [1] * 5 + [2] * 4)
    assert list(updates[np.isfinite(often.snapshot["train_loss"])]) == [5, 10, 15, 20]

    network, tasks = network_and_tasks(TINY, mnist)
    accuracies, active = {}, np.zeros((3, 2, 2, 32), np.float32)
    for now in train_phases(network, tasks, TINY, 0):
        accuracies[now.update] = ctc.evaluate(network, tasks)
        if now.is_checkpoint:
            ctc.evaluate(network, tasks, active[now.task if now.update else 0])
    assert often.snapshot["accuracy"].tolist() == [accuracies[update] for update in updates]
    assert often.record["accuracy_matrix"] == [accuracies[update] for update in (0, 10, 20)]
    np.testing.assert_array_equal(often.snapshot["active"], active)


def test_a_caller_may_change_the_rate_and_stop(mnist: Mnist) -> None:
    slow = replace(TINY, lr=0.01)
    network, tasks = network_and_tasks(TINY, mnist)
    expected, _ = network_and_tasks(slow, mnist)
    for now, _ in zip(
        train_phases(network, tasks, TINY, 0), train_phases(expected, tasks, slow, 0), strict=True
    ):
        now.lr = 0.01
        np.testing.assert_array_equal(network.parameters, expected.parameters)
        if now.update == 7:
            break
    assert now.update == 7


@pytest.mark.parametrize(
    ("options", "carried"),
    [({}, True), ({"head": "frozen"}, False), ({"restart_momentum": True}, False)],
)
def test_momentum_at_the_task_switch(options: dict[str, Any], carried: bool, mnist: Mnist) -> None:
    config = replace(TINY, **options)
    network, tasks = network_and_tasks(config, mnist)
    moments = train_phases(network, tasks, config, 0)
    moving = [bool(network.velocity.any()) for now in moments if now.stage == "start"]
    assert moving == [False, carried]


@pytest.mark.parametrize(("target", "reached"), [(0.3, True), (1e-9, False)])
def test_a_task_ends_at_the_first_epoch_that_reaches_the_target_or_at_the_last(
    target: float, reached: bool, mnist: Mnist
) -> None:
    run = train(replace(TINY, epochs=20, target_loss=target), "relu", mnist)
    assert run.record["target_reached"] == [reached] * 2
    for task, epochs in enumerate(run.record["epochs"], start=1):
        losses = [row["train_loss"] for row in run.schedule if row["task"] == task]
        assert len(losses) == epochs
        assert min(losses[:-1]) > target
        assert (losses[-1] <= target, epochs < 20) == (reached, reached)


# --- Batches and dropout ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"paired": True}, {"dropout": 0.5}, {"input_dropout": 0.5}, {"permute": True}),
        *({"head": "single"}, {"head": "frozen"}, {"init_scale": 0.2}),
    ],
    ids=str,
)
def test_batches_are_the_documented_permutations(options: dict[str, Any], mnist: Mnist) -> None:
    config = replace(TINY, **options)
    network, tasks = network_and_tasks(config, mnist)
    rng = np.random.default_rng(100 if config.paired else 200)
    order = np.empty(0, int)
    for now in train_phases(network, tasks, config, 0):
        if now.stage == "update":
            if not len(order):  # the stream runs on from task to task
                order = rng.permutation(150)
            batch, order = order[:32], order[32:]
            images = tasks[now.task - 1].train_inputs[batch, :-1]
            inputs = network.workspace(len(batch)).inputs[:, :-1]
            factors = np.unique(inputs[images > 0] / images[images > 0])
            np.testing.assert_array_equal(factors, [0, 2] if config.input_dropout else [1])
            assert not inputs[images == 0].any()
    assert (now.update, len(order)) == (20, 0)


@pytest.mark.parametrize(("hidden", "pixels"), [(0.5, 0), (0, 0.25), (0.5, 0.25)])
def test_dropout_draws_from_streams_of_its_own(hidden: float, pixels: float, mnist: Mnist) -> None:
    config = replace(TINY, hidden=30, dropout=hidden, input_dropout=pixels)
    network, tasks = network_and_tasks(config, mnist, "sigmoid")
    before = tasks[0].train_inputs.copy()
    images = before[np.random.default_rng(300).permutation(150)[:32], :-1]
    next(now for now in train_phases(network, tasks, config, 0) if now.update)
    np.testing.assert_array_equal(tasks[0].train_inputs, before)

    work = network.workspace(32)
    kept = np.random.default_rng([0, 3]).random(images.shape, np.float32) >= pixels
    np.testing.assert_allclose(work.inputs[:, :-1], images * kept / (1 - pixels), rtol=1e-6)
    np.testing.assert_array_equal(work.inputs[:, -1], 1)
    rng = np.random.default_rng([0, 2])
    for activations, gate in zip(work.hidden, work.gates, strict=True):
        kept = rng.random(gate.shape, np.float32) >= hidden
        h = activations[:-1] * (1 - hidden)  # sigmoid of what was kept, which is never 0
        np.testing.assert_array_equal(h > 0, kept)
        np.testing.assert_allclose(gate, h * (1 - h) / (1 - hidden), rtol=1e-5)
        np.testing.assert_array_equal(activations[-1], 1)


# --- Heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "decay", "moving"),  # the output rows that change in Task 1, and in Task 2
    [
        ("masked", 0, [range(5), range(10)]),  # momentum goes on
        ("masked", 0.1, [range(10), range(10)]),
        ("frozen", 0.1, [range(5), range(5, 10)]),
        ("single", 0, [range(10), range(10)]),
    ],
)
def test_each_head_moves_its_output_rows(
    head: str, decay: float, moving: list[range], mnist: Mnist
) -> None:
    config = replace(TINY, weight_decay=decay, head=head)
    network, tasks = network_and_tasks(config, mnist)
    output = network.weights[-1]
    before, moved = output.copy(), []
    for now in train_phases(network, tasks, config, 0):
        if now.task_over:
            moved.append(np.flatnonzero(np.any(output != before, axis=1)).tolist())
            before = output.copy()
    assert moved == [[*rows] for rows in moving]


def test_joint_training_is_one_phase_that_cannot_forget(mnist: Mnist) -> None:
    joint = replace(TINY, joint=True, epochs=6)
    phase = ctc.join_tasks(ctc.make_tasks(joint, 0, mnist)[0])
    digits = phase.classes[phase.train_labels]
    assert np.bincount(digits).tolist() == [30] * 10
    own = (np.arange(10)[:, None] < 5) == (digits < 5)  # each image sees its own task's classes
    np.testing.assert_array_equal(phase.train_mask, np.where(own, 0, -np.inf))
    record = train(joint, "relu", mnist).record
    # With a frozen head the same, since there is no other task to keep aside.
    assert record == train(replace(joint, head="frozen"), "relu", mnist).record
    assert (len(record["accuracy_matrix"]), record["epochs"], record["status"]) == (2, [6], "ok")
    assert record["average_accuracy"] == np.mean(record["accuracy_matrix"][-1])
    assert [record[metric] for metric in METRICS if metric != "average_accuracy"] == [None] * 3


# --- Tests and records --------------------------------------------------------------------------


def test_evaluation_in_pieces_is_evaluation_at_once(mnist: Mnist) -> None:
    n = ctc.TEST_BATCH + 200
    network, tasks = network_and_tasks(replace(TINY, test_per_task=n), mnist)
    active = np.zeros((2, 2, 32))
    accuracies = ctc.evaluate(network, tasks, active)
    one_image = 1.01 / n  # the last bit may turn one close call
    for number, task in enumerate(tasks):
        logits = network.forward(task.test_inputs, task.classes)
        correct = np.mean(logits.argmax(axis=0) == task.test_labels)
        assert accuracies[number] == pytest.approx(correct, abs=one_image)
        for layer, gate in enumerate(network.workspace(n).gates):
            np.testing.assert_allclose(active[layer, number], gate.mean(axis=1), atol=one_image)
    np.testing.assert_allclose(active.reshape(2, 2, 16, 2).sum(axis=3), 1)  # a winner a block


def test_metrics_of_three_tasks_by_hand() -> None:
    matrix = np.array(
        [
            [0.20, 0.50, 0.30],  # before training
            [0.90, 0.40, 0.20],
            [0.95, 0.80, 0.35],  # Task 1 gained from Task 2: what is forgotten counts from here
            [0.70, 0.75, 0.90],
        ]
    )
    assert ctc.sequential_metrics(matrix) == pytest.approx(
        {
            "forgetting": (0.25 + 0.05) / 2,
            "backward_transfer": (-0.20 - 0.05) / 2,
            "forward_transfer": (-0.10 + 0.05) / 2,
        }
    )


def test_a_record_holds_the_metrics_of_its_matrix(mnist: Mnist) -> None:
    record = train(replace(TINY, epochs=6), "lwta", mnist).record
    R = np.array(record["accuracy_matrix"])
    assert R.shape == (3, 2)
    assert record["forgetting"] == -record["backward_transfer"] == R[1, 0] - R[2, 0]
    assert record["forward_transfer"] == R[1, 1] - R[0, 1]
    assert record["average_accuracy"] == R[2].mean()
    assert (record["status"], record["failure"]) == ("ok", None)
    alone = train(replace(TINY, tasks=("01",)), "relu", mnist).record
    assert alone["average_accuracy"] == alone["accuracy_matrix"][1][0] > 0.9
    assert [alone[metric] for metric in METRICS if metric != "average_accuracy"] == [None] * 3


@pytest.mark.parametrize(
    ("breaking", "failure"),  # the first and the last update of Task 2's second epoch
    [(16, "training loss in task 2, epoch 2"), (20, "test accuracy in task 2, epoch 2")],
)
def test_a_run_that_diverges_keeps_what_it_had_finished_and_has_no_metrics(
    breaking: int, failure: str, monkeypatch: pytest.MonkeyPatch, mnist: Mnist
) -> None:
    def breaks(network: MLP, *rest: Any) -> Iterator[Moment]:
        for now in train_phases(network, *rest):
            yield now
            if now.update == breaking:
                network.parameters[:] = np.nan

    monkeypatch.setattr(ctc, "train_phases", breaks)
    run = train(TINY, "relu", mnist)
    assert run.record["status"] == "diverged"
    assert failure in run.record["failure"]
    assert [run.record[metric] for metric in METRICS] == [None] * 4
    assert len(run.record["accuracy_matrix"]) == 2
    assert [(row["task"], row["epoch"]) for row in run.schedule] == [(1, 1), (1, 2), (2, 1)]
