"""The published protocol, and what each option may and may not change."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def train(config: Config, activation: str, mnist: Mnist, seed: int = 0) -> Run:
    return ctc.train_model(config, ACTIVATIONS[activation], seed, mnist)


def network_and_tasks(
    config: Config, mnist: Mnist, activation: str = "lwta", seed: int = 0
) -> tuple[MLP, list[Task]]:
    """A network before training, and what to train it on."""
    tasks, used = ctc.make_tasks(config, seed, mnist)
    first, *others = ctc.initial_weights(config, seed)
    return MLP([first[used], *others], ACTIVATIONS[activation], config.k), tasks


def bits(run: Run) -> tuple[str, dict[str, bytes]]:
    """All that a run leaves behind, wall-clock time apart, comparable bit by bit."""
    arrays = {name: array.tobytes() for name, array in run.snapshot.items()}
    return json.dumps([run.record, run.schedule]), arrays


# --- Tasks --------------------------------------------------------------------------------------


def published_draw(seed: int, mnist: Mnist) -> list[np.ndarray]:
    """DESIGN.md's words, one after the other: both tasks' training images, then the test images."""
    rng = np.random.default_rng(seed)
    tasks = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    drawn = []
    for digits in tasks:
        images = np.concatenate(
            [rng.choice(np.where(mnist.train_labels == d)[0], 500, replace=False) for d in digits]
        )
        rng.shuffle(images)
        drawn.append(images)
    for digits in tasks:
        candidates = np.array([i for i, d in enumerate(mnist.test_labels) if d in digits])
        drawn.append(candidates[rng.permutation(len(candidates))[:1000]])
    return drawn


@pytest.mark.parametrize(
    "config",
    [Config(), Config(permute=True, head="single", dropout=0.5, k=4, init_scale=0.2, joint=True)],
    ids=["default", "other options"],
)
def test_the_draw_is_the_published_one(config: Config, mnist: Mnist) -> None:
    for seed in (0, 3):
        (train1, test1), (train2, test2) = ctc.draw_images(config, seed, mnist)
        expected = published_draw(seed, mnist)
        for drawn, images in zip([train1, train2, test1, test2], expected, strict=True):
            np.testing.assert_array_equal(drawn, images)


def test_zero_draws_every_image(mnist: Mnist) -> None:
    config = Config(tasks=("31",), train_per_class=0, test_per_task=0)
    [(train_images, test_images)] = ctc.draw_images(config, 0, mnist)
    wanted = [np.flatnonzero(np.isin(n, [1, 3])) for n in (mnist.train_labels, mnist.test_labels)]
    np.testing.assert_array_equal(np.sort(train_images), wanted[0])
    np.testing.assert_array_equal(test_images, wanted[1])


@pytest.mark.parametrize("head", ["masked", "single"])
def test_task_inputs_are_the_drawn_images(head: str, mnist: Mnist) -> None:
    config = replace(TINY, head=head)
    tasks, used = ctc.make_tasks(config, 2, mnist)
    for task, (train, test) in zip(tasks, ctc.draw_images(config, 2, mnist), strict=True):
        for inputs, labels, images, digits in (
            (
                task.train_inputs,
                task.train_labels,
                mnist.train_images[train],
                mnist.train_labels[train],
            ),
            (task.test_inputs, task.test_labels, mnist.test_images[test], mnist.test_labels[test]),
        ):
            assert inputs.dtype == np.float32
            np.testing.assert_array_equal(inputs[:, :-1], images[:, used] / np.float32(255))
            np.testing.assert_array_equal(inputs[:, -1], 1)
            assert not images[:, ~used].any()
            np.testing.assert_array_equal(task.classes[labels], digits)
        assert len(task.classes) == (10 if head == "single" else 5)


def test_each_later_task_has_its_documented_pixel_order(mnist: Mnist) -> None:
    # Every image the same and no pixel blank, so that nothing but the order shows.
    image = (np.arange(784) % 255 + 1).astype(np.uint8)
    same = replace(
        mnist,
        train_images=np.broadcast_to(image, mnist.train_images.shape),
        test_images=np.broadcast_to(image, mnist.test_images.shape),
    )
    config = replace(TINY, tasks=("012", "012", "345"), permute=True)
    ctc.check_config(config, BOTH)  # permuted tasks may share digits
    rng = np.random.default_rng([3, 1])
    orders = [np.arange(784), rng.permutation(784), rng.permutation(784)]
    for task, order in zip(ctc.make_tasks(config, 3, same)[0], orders, strict=True):
        for inputs in (task.train_inputs, task.test_inputs):
            assert np.all(inputs[:, :-1] == image[order] / np.float32(255))


# --- The published run --------------------------------------------------------------------------


def naive_first_epoch(activation: str, mnist: Mnist) -> tuple[float, float, float]:
    """Task 1's first epoch at seed 0, as anyone would write it.

    Returns training loss, training accuracy and test accuracy.
    """
    train_images, _, test_images, _ = published_draw(0, mnist)
    X = mnist.train_images[train_images].astype(np.float32) / 255
    y = mnist.train_labels[train_images]
    rng = np.random.default_rng(1)
    W, b = [], []
    for n_in, n_out in pairwise([784, 400, 400, 10]):
        draw = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        W.append(draw.astype(np.float32))
        b.append(np.zeros(n_out, np.float32))
    vW, vb = [np.zeros_like(w) for w in W], [np.zeros_like(c) for c in b]

    def forward(x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        signals, gates = [x], []
        for layer in range(2):
            z = signals[-1] @ W[layer] + b[layer]
            if activation == "relu":
                gate = z > 0
            else:
                winner = z.reshape(-1, 200, 2).argmax(axis=2)
                gate = (winner[:, :, None] == [0, 1]).reshape(z.shape)
            signals.append(np.where(gate, z, 0).astype(np.float32))
            gates.append(gate)
        logits = signals[-1] @ W[2] + b[2]
        logits[:, 5:] = -np.inf
        return signals, gates, logits

    order = np.random.default_rng({"relu": 100, "lwta": 200}[activation]).permutation(2500)
    loss_sum, correct = 0.0, 0
    for first in range(0, 2500, 64):
        batch = order[first : first + 64]
        n = len(batch)
        signals, gates, logits = forward(X[batch])
        correct += np.sum(logits.argmax(axis=1) == y[batch])
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss_sum -= np.log(p[np.arange(n), y[batch]]).sum()
        delta = p
        delta[np.arange(n), y[batch]] -= 1
        delta /= n
        gradients = []
        for layer in (2, 1, 0):
            gradients.append((signals[layer].T @ delta, delta.sum(axis=0)))
            if layer:
                delta = (delta @ W[layer].T) * gates[layer - 1]
        for layer, (gW, gb) in zip((2, 1, 0), gradients, strict=True):
            vW[layer] = 0.9 * vW[layer] - 0.05 * (gW + 1e-4 * W[layer])
            vb[layer] = 0.9 * vb[layer] - 0.05 * gb
            W[layer] = W[layer] + vW[layer]
            b[layer] = b[layer] + vb[layer]
    _, _, logits = forward(mnist.test_images[test_images].astype(np.float32) / 255)
    accuracy = np.mean(logits.argmax(axis=1) == mnist.test_labels[test_images])
    return float(loss_sum / 2500), float(correct / 2500), float(accuracy)


@pytest.fixture(scope="module")
def seed_0(mnist: Mnist) -> dict[str, Run]:
    """The published run's seed 0: ReLU and LWTA at the defaults."""
    arguments = [(Config(), activation, 0, mnist) for activation in BOTH]
    runs = {run.record["model"]: run for run in ctc.side_by_side(ctc.train_model, arguments, 2)}
    return {activation.name: runs[activation.name] for activation in BOTH}


@pytest.mark.parametrize("activation", ["relu", "lwta"])
def test_first_epoch_agrees_with_a_naive_implementation(
    activation: str, seed_0: dict[str, Run], mnist: Mnist
) -> None:
    loss, train_accuracy, accuracy = naive_first_epoch(activation, mnist)
    row = seed_0[activation].schedule[0]
    assert (row["model"], row["task"], row["epoch"]) == (activation, 1, 1)
    assert row["train_loss"] == pytest.approx(loss, rel=1e-3)
    assert row["train_accuracy"] == pytest.approx(train_accuracy, abs=0.002)
    assert row["test_accuracy"][0] == pytest.approx(accuracy, abs=0.002)


def test_seeds_0_to_9_agree_with_the_published_run(seed_0: dict[str, Run]) -> None:
    task_1_of_seed_0 = {
        "relu": [(0.956, 0.143), (0.961, 0.125), (0.971, 0.112), (0.968, 0.112), (0.974, 0.119)],
        "lwta": [(0.963, 0.217), (0.971, 0.147), (0.975, 0.171), (0.973, 0.155), (0.973, 0.162)],
    }
    arguments = [(Config(), activation, seed, None) for seed in range(1, 10) for activation in BOTH]
    runs = [*seed_0.values(), *ctc.side_by_side(ctc.train_run, arguments, 2)]
    for model, forgetting in (("relu", 0.045), ("lwta", 0.043)):
        rows = seed_0[model].schedule[:5]
        assert [(row["task"], row["epoch"]) for row in rows] == [(1, e) for e in range(1, 6)]
        figures = [row["test_accuracy"] for row in rows]
        np.testing.assert_allclose(figures, task_1_of_seed_0[model], atol=0.002)
        records = [run.record for run in runs if run.record["model"] == model]
        assert sorted(record["seed"] for record in records) == [*range(10)]
        assert {record["status"] for record in records} == {"ok"}
        mean = np.mean([record["forgetting"] for record in records])
        assert mean == pytest.approx(forgetting, abs=0.02)


# --- Determinism --------------------------------------------------------------------------------

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


@pytest.mark.parametrize("name", OPTION_SETS)
def test_the_bits_are_the_recorded_ones(
    name: str, mnist: Mnist, request: pytest.FixtureRequest
) -> None:
    recorded = BITS.get(str(ctc.blas()["blas_kernel"]), {})
    if recorded.get("numpy") != int(np.__version__.split(".")[0]):
        pytest.skip("recorded with another BLAS kernel or numpy")
    if name == "default":
        runs = [*request.getfixturevalue("seed_0").values()]
    else:
        runs = [train(OPTION_SETS[name], model, mnist) for model in ("relu", "lwta", "sigmoid")]
    for run in runs:
        del run.record["blas_kernel"]
    content = [[run.record for run in runs], [row for run in runs for row in run.schedule]]
    assert hashlib.sha256(json.dumps(content).encode()).hexdigest() == recorded["sha256"][name]


def test_same_bits_where_numpy_was_imported_first(mnist: Mnist) -> None:
    program = """
import numpy, pickle, sys
import compete_to_compute as ctc
import threadpoolctl
config, activation = pickle.load(sys.stdin.buffer)
run = ctc.train_model(config, activation, 0, ctc.load_mnist())
threads = [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
sys.stdout.buffer.write(pickle.dumps((run, threads)))
"""
    # Importing the module set these here: without them numpy's BLAS starts with every core.
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_THREADS")}
    environment["PYTHONPATH"] = str(Path(ctc.__file__).parent)
    answer = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((TINY, ACTIVATIONS["lwta"])),
        capture_output=True,
        check=True,
        env=environment,
    )
    run, threads = pickle.loads(answer.stdout)
    assert set(threads) == {1}
    assert bits(run) == bits(train(TINY, "lwta", mnist))
    assert bits(run) != bits(train(TINY, "lwta", mnist, seed=1))


def test_training_can_start_from_other_weights(mnist: Mnist) -> None:
    start = [2 * weights for weights in ctc.initial_weights(TINY, 0)]
    given_start = ctc.train_run(TINY, ACTIVATIONS["lwta"], 0, None, start)
    scaled = train(replace(TINY, init_scale=2.0), "lwta", mnist)
    assert given_start.record == scaled.record
    assert (given_start.schedule, given_start.snapshot) == ([], {})


# --- Following training -------------------------------------------------------------------------


def test_moments_come_in_order_and_are_one_object(mnist: Mnist) -> None:
    expected = []
    for task in (1, 2):
        expected.append(("start", task, 0, 10 * task - 10, 0, False))
        for epoch in (1, 2):
            steps = range(5 * epoch - 4, 5 * epoch + 1)
            expected += [("update", task, epoch, 10 * task - 10 + n, n, False) for n in steps]
            expected.append(
                ("epoch", task, epoch, 10 * task - 10 + steps[-1], steps[-1], epoch == 2)
            )
    moments, seen = set(), []
    config = replace(TINY, target_loss=1e-9)
    for now in train_phases(*network_and_tasks(config, mnist), config, 0):
        moments.add(id(now))
        seen.append((now.stage, now.task, now.epoch, now.update, now.task_update, now.task_over))
        assert math.isfinite(now.train_loss) == (now.stage == "epoch")
        assert math.isfinite(now.train_accuracy) == (now.stage == "epoch")
        assert (now.lr, now.target_reached) == (config.lr, False)
    assert seen == expected
    assert len(moments) == 1


def test_testing_at_every_moment_changes_no_bit(mnist: Mnist) -> None:
    plain, tasks = network_and_tasks(TINY, mnist)
    tested, _ = network_and_tasks(TINY, mnist)
    for _ in train_phases(plain, tasks, TINY, 0):
        pass
    for _ in train_phases(tested, tasks, TINY, 0):
        ctc.evaluate(tested, tasks, np.zeros((2, 2, 32)))
    np.testing.assert_array_equal(tested.parameters, plain.parameters)
    np.testing.assert_array_equal(tested.velocity, plain.velocity)


def test_a_caller_may_change_the_rate_and_stop(mnist: Mnist) -> None:
    slow = replace(TINY, lr=0.01)
    network, tasks = network_and_tasks(TINY, mnist)
    expected, _ = network_and_tasks(slow, mnist)
    reference = train_phases(expected, tasks, slow, 0)
    for now in train_phases(network, tasks, TINY, 0):
        if now.stage == "start":
            now.lr = 0.01
        next(reference)
        np.testing.assert_array_equal(network.parameters, expected.parameters)
        if now.update == 7:
            break
    else:
        pytest.fail("seven updates did not come")
    stopped = network.parameters.copy()
    next(reference)
    assert not np.array_equal(stopped, expected.parameters)
    np.testing.assert_array_equal(network.parameters, stopped)


@pytest.mark.parametrize(
    ("options", "carried"),
    [({}, True), ({"head": "frozen"}, False), ({"restart_momentum": True}, False)],
)
def test_momentum_at_the_task_switch(options: dict[str, Any], carried: bool, mnist: Mnist) -> None:
    config = replace(TINY, **options)
    network, tasks = network_and_tasks(config, mnist)
    moving = []
    for now in train_phases(network, tasks, config, 0):
        if now.stage == "start":
            moving.append(bool(network.velocity.any()))
    assert moving == [False, carried]


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
    network, tasks = network_and_tasks(config, mnist, seed=4)
    rng = np.random.default_rng(4 + (100 if config.paired else 200))
    order = np.empty(0, int)
    for now in train_phases(network, tasks, config, 4):
        if now.stage == "update":
            if not len(order):  # the stream runs on from task to task
                order = rng.permutation(150)
            batch, order = order[:32], order[32:]
            inputs, expected = (
                network.workspace(len(batch)).inputs,
                tasks[now.task - 1].train_inputs[batch],
            )
            lit = expected > 0
            factors = np.unique(inputs[lit] / expected[lit])
            np.testing.assert_array_equal(factors, [0, 2] if config.input_dropout else [1])
            assert not inputs[~lit].any()
    assert not len(order)
    assert now.update == 20


@pytest.mark.parametrize(("hidden", "pixels"), [(0.5, 0), (0, 0.25), (0.5, 0.25)])
def test_dropout_draws_from_streams_of_its_own(hidden: float, pixels: float, mnist: Mnist) -> None:
    config = replace(TINY, hidden=30, dropout=hidden, input_dropout=pixels)
    network, tasks = network_and_tasks(config, mnist, "sigmoid")
    images = tasks[0].train_inputs[np.random.default_rng(300).permutation(150)[:32]]
    before = tasks[0].train_inputs.copy()
    next(now for now in train_phases(network, tasks, config, 0) if now.update)

    def factors(rng: np.random.Generator, rate: float, shape: tuple[int, int]) -> np.ndarray:
        return (rng.random(shape, np.float32) >= rate) / (1 - rate)

    work = network.workspace(32)
    factor = factors(np.random.default_rng([0, 3]), pixels, images[:, :-1].shape)
    np.testing.assert_allclose(work.inputs[:, :-1], images[:, :-1] * factor, rtol=1e-6)
    np.testing.assert_array_equal(work.inputs[:, -1], 1)
    np.testing.assert_array_equal(tasks[0].train_inputs, before)
    rng = np.random.default_rng([0, 2])
    for activations, gate in zip(work.hidden, work.gates, strict=True):
        factor = factors(rng, hidden, gate.shape)
        h = activations[:-1] * (1 - hidden)  # sigmoid of what was kept, which is never 0
        np.testing.assert_array_equal(h == 0, factor == 0)
        np.testing.assert_allclose(gate, h * (1 - h) * factor, rtol=1e-5)
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


def test_masked_rows_move_by_decay_and_momentum_alone(mnist: Mnist) -> None:
    config = replace(TINY, weight_decay=0.1)
    network, tasks = network_and_tasks(config, mnist)
    for now in train_phases(network, tasks, config, 0):
        if (now.task, now.task_update) == (2, 1):
            break
        W = network.weights[-1][:5].copy()
        v = ctc.layer_views(network.velocity, [w.shape for w in network.weights])[-1][:5].copy()
    decay = config.lr * config.weight_decay * W
    decay[:, -1] = 0  # the biases
    np.testing.assert_allclose(network.weights[-1][:5], W + 0.9 * v - decay, rtol=1e-5, atol=1e-7)


def test_single_head_answers_with_any_digit(mnist: Mnist) -> None:
    """Without a mask a network that only ever saw Task 1 gives none of Task 2's digits."""
    matrix = train(replace(TINY, head="single", epochs=4), "relu", mnist).record["accuracy_matrix"]
    assert matrix[1][0] > 0.6
    assert matrix[1][1] == 0


def test_joint_training_is_one_phase_that_cannot_forget(
    monkeypatch: pytest.MonkeyPatch, mnist: Mnist
) -> None:
    trained: list[Task] = []

    def spy(network: MLP, phases: Sequence[Task], config: Config, seed: int) -> Iterator[Moment]:
        trained.extend(phases)
        return train_phases(network, phases, config, seed)

    monkeypatch.setattr(ctc, "train_phases", spy)
    masked, frozen = (
        train(replace(TINY, joint=True, epochs=6, head=head), "relu", mnist)
        for head in ("masked", "frozen")
    )
    assert bits(masked) == bits(frozen)  # there is no other task to keep aside
    phase, _ = trained
    digits = phase.classes[phase.train_labels]
    assert np.bincount(digits).tolist() == [30] * 10
    own = (np.arange(10)[:, None] < 5) == (digits < 5)
    np.testing.assert_array_equal(phase.train_mask, np.where(own, 0, -np.inf))
    record = masked.record
    assert (len(record["accuracy_matrix"]), record["epochs"], record["status"]) == (2, [6], "ok")
    assert record["average_accuracy"] == np.mean(record["accuracy_matrix"][-1])
    for metric in ("forgetting", "backward_transfer", "forward_transfer"):
        assert record[metric] is None


# --- Length of training, tests ------------------------------------------------------------------


def test_target_loss_ends_a_task_at_the_first_epoch_that_reaches_it(mnist: Mnist) -> None:
    target = 0.3
    run = train(replace(TINY, epochs=30, target_loss=target), "relu", mnist)
    assert all(1 < epochs < 30 for epochs in run.record["epochs"])
    assert run.record["target_reached"] == [True, True]
    for task, epochs in enumerate(run.record["epochs"], start=1):
        losses = [row["train_loss"] for row in run.schedule if row["task"] == task]
        assert len(losses) == epochs
        assert losses[-1] <= target < min(losses[:-1])


def test_epochs_cap_a_target_loss_out_of_reach(mnist: Mnist) -> None:
    run = train(replace(TINY, target_loss=1e-9), "relu", mnist)
    assert run.record["epochs"] == [2, 2]
    assert run.record.pop("target_reached") == [False, False]
    plain = train(TINY, "relu", mnist)
    assert plain.record.pop("target_reached") is None
    assert bits(run) == bits(plain)


def test_evaluating_more_often_only_adds_tests(mnist: Mnist) -> None:
    plain = train(TINY, "lwta", mnist)
    often = train(replace(TINY, evaluate_every=3), "lwta", mnist)
    assert (often.record, often.schedule) == (plain.record, plain.schedule)
    for name in ("W1", "active"):
        np.testing.assert_array_equal(often.snapshot[name], plain.snapshot[name])
    # Update 15 ends an epoch, and is listed once, with its training loss.
    updates = often.snapshot["update"]
    assert list(updates) == [0, 3, 5, 6, 9, 10, 12, 15, 18, 20]
    np.testing.assert_array_equal(often.snapshot["task"], [0] + [1] * 5 + [2] * 4)
    at_epochs = np.isin(updates, plain.snapshot["update"])
    for name in ("accuracy", "train_loss", "task"):
        np.testing.assert_array_equal(often.snapshot[name][at_epochs], plain.snapshot[name])
    losses = often.snapshot["train_loss"]
    assert list(updates[np.isfinite(losses)]) == [5, 10, 15, 20]


def test_evaluation_in_pieces_is_evaluation_at_once(mnist: Mnist) -> None:
    config = replace(TINY, test_per_task=ctc.TEST_BATCH + 200)
    network, tasks = network_and_tasks(config, mnist)
    active = np.zeros((2, 2, 32))
    accuracies = ctc.evaluate(network, tasks, active)
    one_image = 1.01 / 700  # the last bit may turn one close call
    for number, task in enumerate(tasks):
        logits = network.forward(task.test_inputs, task.classes)
        correct = np.mean(logits.argmax(axis=0) == task.test_labels)
        assert accuracies[number] == pytest.approx(correct, abs=one_image)
        for layer, gate in enumerate(network.workspace(700).gates):
            np.testing.assert_allclose(active[layer, number], gate.mean(axis=1), atol=one_image)
    np.testing.assert_allclose(active.reshape(2, 2, 16, 2).sum(axis=3), 1)  # a winner a block


def test_active_units_are_counted_before_training_and_after_each_task(mnist: Mnist) -> None:
    network, tasks = network_and_tasks(TINY, mnist)
    expected = np.zeros((3, 2, 2, 32), np.float32)
    for now in train_phases(network, tasks, TINY, 0):
        if now.update == 0 or now.task_over:
            ctc.evaluate(network, tasks, expected[now.task if now.update else 0])
    np.testing.assert_array_equal(train(TINY, "lwta", mnist).snapshot["active"], expected)
    assert not np.array_equal(expected[1], expected[2])


# --- Records ------------------------------------------------------------------------------------


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


accuracies = st.lists(st.floats(0, 1), min_size=2, max_size=2)


@given(st.lists(accuracies, min_size=3, max_size=3))
def test_with_two_tasks_forgetting_is_minus_backward_transfer(rows: list[list[float]]) -> None:
    metrics = ctc.sequential_metrics(np.array(rows))
    assert metrics["forgetting"] == -metrics["backward_transfer"] == rows[1][0] - rows[2][0]


def test_record_holds_the_metrics_of_its_matrix(mnist: Mnist) -> None:
    record = train(replace(TINY, epochs=6), "lwta", mnist).record
    R = np.array(record["accuracy_matrix"])
    assert R.shape == (3, 2)
    assert record["forgetting"] == R[1, 0] - R[2, 0]
    assert record["forward_transfer"] == R[1, 1] - R[0, 1]
    assert record["average_accuracy"] == R[2].mean()
    assert (record["status"], record["failure"]) == ("ok", None)
    alone = train(replace(TINY, tasks=("01",)), "relu", mnist).record
    assert alone["average_accuracy"] == alone["accuracy_matrix"][1][0] > 0.9
    assert [alone[metric] for metric in METRICS if metric != "average_accuracy"] == [None] * 3


def test_a_run_that_never_learned_is_untrained(mnist: Mnist) -> None:
    record = train(replace(TINY, lr=1e-9), "relu", mnist).record
    assert record["status"] == "untrained"
    assert "task 1" in record["failure"]


@pytest.mark.parametrize("activation", ["relu", "lwta", "sigmoid"])
def test_a_diverged_run_says_where_and_has_no_metrics(activation: str, mnist: Mnist) -> None:
    record = train(replace(TINY, lr=1e30), activation, mnist).record
    assert record["status"] == "diverged"
    assert "task 1, epoch 1" in record["failure"]
    assert [record[metric] for metric in METRICS] == [None] * 4
    assert len(record["accuracy_matrix"]) == 1


@pytest.mark.parametrize(
    ("breaking", "failure"),  # the first and the last update of Task 2's second epoch
    [(16, "training loss in task 2, epoch 2"), (20, "test accuracy in task 2, epoch 2")],
)
def test_a_run_that_diverges_later_keeps_what_it_had_finished(
    breaking: int, failure: str, monkeypatch: pytest.MonkeyPatch, mnist: Mnist
) -> None:
    def breaks(network: MLP, *rest: Any) -> Iterator[Moment]:
        for now in train_phases(network, *rest):
            yield now
            if now.stage == "update" and now.update == breaking:
                network.parameters[:] = np.nan

    monkeypatch.setattr(ctc, "train_phases", breaks)
    run = train(TINY, "relu", mnist)
    assert run.record["status"] == "diverged"
    assert failure in run.record["failure"]
    assert [run.record[metric] for metric in METRICS] == [None] * 4
    assert len(run.record["accuracy_matrix"]) == 2
    assert [(row["task"], row["epoch"]) for row in run.schedule] == [(1, 1), (1, 2), (2, 1)]


def test_the_activation_of_contributing_md_is_under_ten_lines_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(ctc.__file__).with_name("CONTRIBUTING.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(lines.splitlines()) < 10
    monkeypatch.setattr(ctc, "ACTIVATIONS", dict(ACTIVATIONS))
    exec(lines, vars(ctc).copy())  # as if it stood in the file
    monkeypatch.chdir(tmp_path)
    small = "--hidden 32 --train-per-class 30 --test-per-task 100 --epochs 6 --batch 32"
    assert ctc.main([*small.split(), "--activations", "relu", "leaky"]) == 0
    rows = json.loads(Path("results.json").read_text())["per_seed"]
    assert [(row["model"], row["status"]) for row in rows] == [("relu", "ok"), ("leaky", "ok")]
    assert rows[1]["accuracy_matrix"][2][1] > 0.7
    assert rows[0]["accuracy_matrix"] != rows[1]["accuracy_matrix"]
