"""The published protocol, and what each option may and may not change."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compete_to_compute as ctc
from compete_to_compute import ACTIVATIONS, METRICS, MLP, Activation, Config, Mnist, Run, Task

# Enough to learn something from, and trained in some 20 ms.
TINY = Config(hidden=32, train_per_class=30, test_per_task=100, epochs=2, batch=32)
BOTH = [ACTIVATIONS["relu"], ACTIVATIONS["lwta"]]


def train(config: Config, activation: str, mnist: Mnist, seed: int = 0) -> Run:
    return ctc.train_model(config, ACTIVATIONS[activation], seed, mnist)


def bits(run: Run) -> tuple[str, dict[str, bytes]]:
    """All that a run leaves behind, wall-clock time apart, comparable bit by bit."""
    arrays = {name: array.tobytes() for name, array in run.snapshot.items()}
    return json.dumps([run.record, run.schedule]), arrays


# --- Draws --------------------------------------------------------------------------------------


def published_draw(seed: int, labels: np.ndarray, test_labels: np.ndarray) -> list[np.ndarray]:
    """DESIGN.md's words, one after the other: both tasks' training images, then the test images."""
    rng = np.random.default_rng(seed)
    tasks = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    drawn = []
    for digits in tasks:
        images = np.concatenate(
            [rng.choice(np.where(labels == d)[0], 500, replace=False) for d in digits]
        )
        rng.shuffle(images)
        drawn.append(images)
    for digits in tasks:
        candidates = np.array([i for i, d in enumerate(test_labels) if d in digits])
        drawn.append(candidates[rng.permutation(len(candidates))[:1000]])
    return drawn


@pytest.mark.parametrize("seed", [0, 3])
def test_the_draw_is_the_published_one(seed: int, mnist: Mnist) -> None:
    (train1, test1), (train2, test2) = ctc.draw_images(
        Config(), seed, mnist.train_labels, mnist.test_labels
    )
    expected = published_draw(seed, mnist.train_labels, mnist.test_labels)
    for drawn, images in zip([train1, train2, test1, test2], expected, strict=True):
        np.testing.assert_array_equal(drawn, images)


def test_each_task_holds_its_own_digits_in_equal_numbers(mnist: Mnist) -> None:
    draws = ctc.draw_images(Config(), 1, mnist.train_labels, mnist.test_labels)
    for (train_images, test_images), digits in zip(draws, ["01234", "56789"], strict=True):
        drawn, counts = np.unique(mnist.train_labels[train_images], return_counts=True)
        assert "".join(map(str, drawn)) == digits
        assert list(counts) == [500] * 5
        assert len(np.unique(train_images)) == 2500
        assert len(np.unique(test_images)) == 1000
        assert set(mnist.test_labels[test_images]) == set(map(int, digits))


def test_zero_draws_every_image(mnist: Mnist) -> None:
    config = Config(tasks=("31",), train_per_class=0, test_per_task=0)
    [(train_images, test_images)] = ctc.draw_images(
        config, 0, mnist.train_labels, mnist.test_labels
    )
    wanted = [1, 3]
    assert set(train_images) == set(np.flatnonzero(np.isin(mnist.train_labels, wanted)))
    np.testing.assert_array_equal(test_images, np.flatnonzero(np.isin(mnist.test_labels, wanted)))


def test_task_inputs_are_the_drawn_images(mnist: Mnist) -> None:
    tasks, live = ctc.make_tasks(TINY, 2, mnist)
    draws = ctc.draw_images(TINY, 2, mnist.train_labels, mnist.test_labels)
    for task, (train_images, test_images) in zip(tasks, draws, strict=True):
        for inputs, images in (
            (task.train_inputs, mnist.train_images[train_images]),
            (task.test_inputs, mnist.test_images[test_images]),
        ):
            assert inputs.dtype == np.float32
            np.testing.assert_array_equal(pixels(inputs, live), images / np.float32(255))
            np.testing.assert_array_equal(inputs[:, -1], 1)
        np.testing.assert_array_equal(
            task.classes[task.train_labels], mnist.train_labels[train_images]
        )
        np.testing.assert_array_equal(
            task.classes[task.test_labels], mnist.test_labels[test_images]
        )


def pixels(inputs: np.ndarray, live: np.ndarray) -> np.ndarray:
    """The 784 pixels of a task's inputs."""
    whole = np.zeros((len(inputs), 784), np.float32)
    whole[:, live] = inputs[:, :-1]
    return whole


# --- The published run --------------------------------------------------------------------------


def naive_first_epoch(activation: str, mnist: Mnist) -> tuple[float, float, float]:
    """Task 1's first epoch at seed 0, as anyone would write it.

    Returns training loss, training accuracy and test accuracy.
    """
    train_images, _, test_images, _ = published_draw(0, mnist.train_labels, mnist.test_labels)
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

    batches = np.random.default_rng({"relu": 100, "lwta": 200}[activation])
    order = batches.permutation(2500)
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


@pytest.mark.parametrize("activation", ["relu", "lwta"])
def test_first_epoch_agrees_with_a_naive_implementation(activation: str, mnist: Mnist) -> None:
    loss, train_accuracy, accuracy = naive_first_epoch(activation, mnist)
    row = train(Config(epochs=1), activation, mnist).schedule[0]
    assert (row["model"], row["task"], row["epoch"]) == (activation, 1, 1)
    assert row["train_loss"] == pytest.approx(loss, rel=1e-3)
    assert row["train_accuracy"] == pytest.approx(train_accuracy, abs=0.002)
    assert row["test_accuracy"][0] == pytest.approx(accuracy, abs=0.002)


def test_seeds_0_to_9_agree_with_the_published_run(mnist: Mnist) -> None:
    units = [(activation, seed) for seed in range(10) for activation in BOTH]
    runs = {
        (run.record["model"], run.record["seed"]): run
        for run in ctc.run_units(Config(), units, headline=0, jobs=2, data_dir=None)
    }
    task_1_of_seed_0 = {
        "relu": [(0.956, 0.143), (0.961, 0.125), (0.971, 0.112), (0.968, 0.112), (0.974, 0.119)],
        "lwta": [(0.963, 0.217), (0.971, 0.147), (0.975, 0.171), (0.973, 0.155), (0.973, 0.162)],
    }
    mean_forgetting = {"relu": 0.045, "lwta": 0.043}
    for model in ("relu", "lwta"):
        rows = runs[model, 0].schedule[:5]
        assert [(row["task"], row["epoch"]) for row in rows] == [(1, e) for e in range(1, 6)]
        np.testing.assert_allclose(
            [row["test_accuracy"] for row in rows], task_1_of_seed_0[model], atol=0.002
        )
        records = [runs[model, seed].record for seed in range(10)]
        assert [record["status"] for record in records] == ["ok"] * 10
        forgetting = np.mean([record["forgetting"] for record in records])
        assert forgetting == pytest.approx(mean_forgetting[model], abs=0.02)


# --- Determinism --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "executor",
    [lambda: ThreadPoolExecutor(2), lambda: ctc.local_executor(2, 3)],
    ids=["threads", "processes"],
)
def test_same_bits_in_threads_and_processes(executor: Callable[[], Executor], mnist: Mnist) -> None:
    expected = [bits(train(TINY, a.name, mnist)) for a in BOTH]
    with executor() as pool:
        futures = [pool.submit(ctc.run_unit, TINY, a, 0, None, True) for a in BOTH]
        assert [bits(future.result()) for future in futures] == expected


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


def test_another_seed_gives_another_run(mnist: Mnist) -> None:
    assert bits(train(TINY, "relu", mnist, 0)) != bits(train(TINY, "relu", mnist, 1))


# --- Batches ------------------------------------------------------------------------------------


@dataclass
class Step:
    """What a training step was given."""

    task: Task
    batch: np.ndarray
    moving: bool  # momentum is not zero


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every training step from here on."""
    seen: list[Step] = []
    train_batch = ctc.train_batch

    def spy(network: MLP, task: Task, batch: np.ndarray, *rest: Any) -> np.ndarray:
        seen.append(Step(task, batch.copy(), bool(network.velocity.any())))
        return train_batch(network, task, batch, *rest)

    monkeypatch.setattr(ctc, "train_batch", spy)
    return seen


def test_batches_are_the_documented_permutations(steps: list[Step], mnist: Mnist) -> None:
    train(TINY, "lwta", mnist, seed=4)
    rng = np.random.default_rng(4 + 200)
    for epoch in range(4):  # the stream runs on from task to task
        own = steps[5 * epoch : 5 * epoch + 5]
        assert [len(step.batch) for step in own] == [32, 32, 32, 32, 22]
        np.testing.assert_array_equal(
            np.concatenate([step.batch for step in own]), rng.permutation(150)
        )
    assert len(steps) == 20


def test_paired_activations_see_the_same_batches(mnist: Mnist) -> None:
    twins = [Activation("twin", "twin", ctc.lwta, stream) for stream in (100, 200)]
    for paired in (True, False):
        first, second = (
            bits(ctc.train_model(replace(TINY, paired=paired), twin, 0, mnist)) for twin in twins
        )
        assert (first == second) == paired


@pytest.mark.parametrize(
    "switched", [{"dropout": 0.5}, {"input_dropout": 0.2}, {"permute": True}, {"head": "single"}]
)
def test_an_option_changes_no_other_draw(
    switched: dict[str, Any], steps: list[Step], mnist: Mnist
) -> None:
    plain = train(TINY, "relu", mnist)
    before = steps.copy()
    steps.clear()
    run = train(replace(TINY, **switched), "relu", mnist)
    assert len(before) == len(steps)
    for one, other in zip(before, steps, strict=True):
        np.testing.assert_array_equal(one.batch, other.batch)
        np.testing.assert_array_equal(
            one.task.classes[one.task.train_labels], other.task.classes[other.task.train_labels]
        )
    np.testing.assert_array_equal(plain.snapshot["W1_init"], run.snapshot["W1_init"])
    assert bits(plain) != bits(run)


# --- Heads, momentum and the task switch --------------------------------------------------------


def network_of_two_tasks(config: Config, mnist: Mnist) -> tuple[MLP, list[Task]]:
    tasks, live = ctc.make_tasks(config, 0, mnist)
    first, *others = ctc.initial_weights(config, 0)
    return MLP([first[live], *others], ACTIVATIONS["lwta"], config.k), tasks


def take_steps(network: MLP, task: Task, config: Config, steps: int) -> None:
    for _ in range(steps):
        dropout = [np.random.default_rng(stream) for stream in (0, 1)]
        ctc.train_batch(network, task, np.arange(20), config, dropout)


def test_masked_head_decay_and_momentum_move_inactive_columns(mnist: Mnist) -> None:
    config = replace(TINY, weight_decay=0.1)
    network, tasks = network_of_two_tasks(config, mnist)
    take_steps(network, tasks[0], config, 3)
    W = network.weights[-1][:5].copy()
    v = ctc.layer_views(network.velocity, [w.shape for w in network.weights])[-1][:5].copy()
    take_steps(network, tasks[1], config, 1)

    decay = config.lr * config.weight_decay * W
    decay[:, -1] = 0  # the biases
    moved = W + 0.9 * v - decay
    np.testing.assert_allclose(network.weights[-1][:5], moved, rtol=1e-5, atol=1e-7)
    assert np.all(network.weights[-1][:5] != W)


def test_frozen_head_leaves_inactive_columns_alone(mnist: Mnist) -> None:
    config = replace(TINY, weight_decay=0.1, head="frozen")
    network, tasks = network_of_two_tasks(config, mnist)
    for trained, held in ((0, slice(5, 10)), (1, slice(0, 5))):
        before = network.weights[-1].copy()
        take_steps(network, tasks[trained], config, 3)
        assert network.weights[-1][held].tobytes() == before[held].tobytes()
        trains = np.setdiff1d(np.arange(10), np.arange(10)[held])
        assert np.all(np.any(network.weights[-1][trains] != before[trains], axis=1))


def test_single_head_trains_all_ten_classes(mnist: Mnist) -> None:
    for head, rows in (("masked", range(5)), ("single", range(10))):
        config = replace(TINY, weight_decay=0, head=head)
        network, tasks = network_of_two_tasks(config, mnist)
        before = network.weights[-1].copy()
        take_steps(network, tasks[0], config, 1)
        changed = np.flatnonzero(np.any(network.weights[-1] != before, axis=1))
        np.testing.assert_array_equal(changed, rows)


def test_single_head_answers_with_any_digit(mnist: Mnist) -> None:
    """Without a mask a network that only ever saw Task 1 gives none of Task 2's digits."""
    matrix = train(replace(TINY, head="single", epochs=4), "relu", mnist).record["accuracy_matrix"]
    assert matrix[1][0] > 0.6
    assert matrix[1][1] == 0


@pytest.mark.parametrize(
    ("options", "carried"),
    [({}, True), ({"head": "frozen"}, False), ({"restart_momentum": True}, False)],
)
def test_momentum_at_the_task_switch(
    options: dict[str, Any], carried: bool, steps: list[Step], mnist: Mnist
) -> None:
    train(replace(TINY, **options), "lwta", mnist)
    first_of_task = [steps[0].moving, steps[10].moving]
    assert first_of_task == [False, carried]
    assert all(step.moving for i, step in enumerate(steps) if i not in (0, 10))


def test_dropped_pixels_are_scaled_and_the_bias_is_kept(mnist: Mnist) -> None:
    config = replace(TINY, input_dropout=0.5)
    network, tasks = network_of_two_tasks(config, mnist)
    whole = tasks[0].train_inputs[:20].copy()
    take_steps(network, tasks[0], config, 1)
    inputs = network.workspace(20).inputs
    np.testing.assert_array_equal(inputs[:, -1], 1)
    lit = whole[:, :-1] > 0
    factors = inputs[:, :-1][lit] / whole[:, :-1][lit]
    assert set(np.unique(factors)) == {0, 2}
    assert 0.9 < factors.mean() < 1.1
    np.testing.assert_array_equal(tasks[0].train_inputs[:20], whole)


def test_dropped_units_have_no_gate_and_the_others_a_scaled_one(mnist: Mnist) -> None:
    config = replace(TINY, dropout=0.75)
    network, tasks = network_of_two_tasks(config, mnist)
    take_steps(network, tasks[0], config, 1)
    for gate in network.workspace(20).gates:
        assert set(np.unique(gate)) == {0, 4}
        # Half the units lost, and three in four of the winners were dropped: 80 of 640 are left.
        assert 50 < np.count_nonzero(gate) < 110


# --- Permuted pixels ----------------------------------------------------------------------------


def test_each_later_task_and_seed_has_one_pixel_order_of_its_own(mnist: Mnist) -> None:
    # Every image the same and no pixel dead, so that nothing but the order shows.
    image = (np.arange(784) % 255 + 1).astype(np.uint8)
    same = replace(
        mnist,
        train_images=np.broadcast_to(image, mnist.train_images.shape),
        test_images=np.broadcast_to(image, mnist.test_images.shape),
    )
    orders = set()
    for seed in (0, 1):
        tasks, _ = ctc.make_tasks(replace(TINY, tasks=("01", "23", "45"), permute=True), seed, same)
        for number, task in enumerate(tasks):
            seen = np.concatenate([task.train_inputs, task.test_inputs])[:, :-1]
            assert np.all(seen == seen[0])
            if number == 0:
                np.testing.assert_array_equal(seen[0], image / np.float32(255))
            else:
                np.testing.assert_array_equal(np.sort(seen[0]), np.sort(image / np.float32(255)))
                orders.add(seen[0].tobytes())
    assert len(orders) == 4


def test_permuted_tasks_may_share_digits(mnist: Mnist) -> None:
    config = replace(TINY, tasks=("012", "012"), permute=True)
    ctc.check_config(config, BOTH)
    assert len(train(config, "relu", mnist).record["accuracy_matrix"]) == 3


# --- Length of training, evaluations, joint training --------------------------------------------


def test_target_loss_ends_a_task_at_the_first_epoch_that_reaches_it(mnist: Mnist) -> None:
    target = 0.3
    run = train(replace(TINY, epochs=30, target_loss=target), "relu", mnist)
    assert all(1 < epochs < 30 for epochs in run.record["epochs"])
    for task, epochs in enumerate(run.record["epochs"], start=1):
        losses = [row["train_loss"] for row in run.schedule if row["task"] == task]
        assert len(losses) == epochs
        assert losses[-1] <= target
        assert min(losses[:-1]) > target


def test_epochs_cap_a_target_loss_out_of_reach(mnist: Mnist) -> None:
    run = train(replace(TINY, target_loss=1e-9), "relu", mnist)
    assert run.record["epochs"] == [2, 2]
    assert run.record.pop("target_reached") == [False, False]
    plain = train(TINY, "relu", mnist)
    assert plain.record.pop("target_reached") is None
    assert bits(run) == bits(plain)


def test_evaluating_more_often_changes_no_bit_of_training(mnist: Mnist) -> None:
    plain = train(TINY, "lwta", mnist)
    often = train(replace(TINY, evaluate_every=3), "lwta", mnist)
    assert often.record == plain.record
    assert often.schedule == plain.schedule
    for name in ("W1", "active"):
        np.testing.assert_array_equal(often.snapshot[name], plain.snapshot[name])
    # Five updates an epoch; update 15 ends one, and is listed once, with its training loss.
    updates = often.snapshot["update"]
    assert list(updates) == [0, 3, 5, 6, 9, 10, 12, 15, 18, 20]
    np.testing.assert_array_equal(often.snapshot["task"], [0] + [1] * 5 + [2] * 4)
    at_epochs = np.isin(updates, plain.snapshot["update"])
    for name in ("accuracy", "train_loss", "task"):
        np.testing.assert_array_equal(often.snapshot[name][at_epochs], plain.snapshot[name])
    losses = often.snapshot["train_loss"]
    assert list(updates[np.isfinite(losses)]) == [5, 10, 15, 20]


def test_evaluation_in_pieces_is_evaluation_at_once(mnist: Mnist) -> None:
    config = replace(TINY, test_per_task=700, depth=2)  # 700 images are a whole piece and a part
    network, tasks = network_of_two_tasks(config, mnist)
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
    network, tasks = network_of_two_tasks(TINY, mnist)
    before, after = np.zeros((2, 2, 2, 32), np.float32)
    ctc.evaluate(network, tasks, before)
    history = ctc.History(np.zeros((3, 2, 2, 32), np.float32))
    ctc.train_phases(network, tasks, tasks, TINY, 0, history)
    ctc.evaluate(network, tasks, after)
    np.testing.assert_array_equal(history.active[[0, 2]], [before, after])
    assert not np.array_equal(history.active[1], after)
    np.testing.assert_array_equal(train(TINY, "lwta", mnist).snapshot["active"], history.active)


def test_joint_training_is_one_phase_that_cannot_forget(mnist: Mnist) -> None:
    record = train(replace(TINY, joint=True, epochs=6), "relu", mnist).record
    assert len(record["accuracy_matrix"]) == 2
    assert record["epochs"] == [6]
    assert record["status"] == "ok"
    assert record["average_accuracy"] == np.mean(record["accuracy_matrix"][-1])
    for metric in ("forgetting", "backward_transfer", "forward_transfer"):
        assert record[metric] is None


def test_joint_training_masks_each_image_to_its_own_task(steps: list[Step], mnist: Mnist) -> None:
    train(replace(TINY, joint=True), "relu", mnist)
    task = steps[0].task
    assert len(task.train_labels) == 300
    own = (np.arange(10)[:, None] < 5) == (task.classes[task.train_labels] < 5)
    np.testing.assert_array_equal(task.train_mask, np.where(own, 0, -np.inf))
    assert sorted(np.concatenate([step.batch for step in steps[:10]])) == list(range(300))


def test_joint_training_freezes_no_output(mnist: Mnist) -> None:
    masked, frozen = (
        train(replace(TINY, joint=True, head=head), "relu", mnist) for head in ("masked", "frozen")
    )
    assert bits(masked) == bits(frozen)


# --- Metrics and failures -----------------------------------------------------------------------


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


def test_a_single_task_can_neither_forget_nor_transfer(mnist: Mnist) -> None:
    record = train(replace(TINY, tasks=("01",)), "relu", mnist).record
    assert record["average_accuracy"] == record["accuracy_matrix"][1][0] > 0.9
    for metric in ("forgetting", "backward_transfer", "forward_transfer"):
        assert record[metric] is None


def test_record_of_two_tasks_holds_its_metrics(mnist: Mnist) -> None:
    record = train(replace(TINY, epochs=6), "lwta", mnist).record
    R = np.array(record["accuracy_matrix"])
    assert R.shape == (3, 2)
    assert record["forgetting"] == R[1, 0] - R[2, 0]
    assert record["forward_transfer"] == R[1, 1] - R[0, 1]
    assert record["average_accuracy"] == R[2].mean()
    assert (record["status"], record["failure"]) == ("ok", None)


def test_a_new_activation_is_a_few_lines(mnist: Mnist) -> None:
    def tanh(z: np.ndarray, gate: np.ndarray, k: int) -> None:
        np.tanh(z, out=z)
        np.subtract(1, z * z, out=gate)

    activation = Activation("tanh", "tanh", tanh, batch_stream=400)
    run = ctc.train_model(replace(TINY, epochs=6), activation, 0, mnist)
    assert (run.record["model"], run.record["status"]) == ("tanh", "ok")
    assert run.schedule[5]["train_accuracy"] > 0.85


@pytest.mark.parametrize("activation", ["relu", "lwta", "sigmoid"])
def test_a_diverged_run_says_where_and_has_no_metrics(activation: str, mnist: Mnist) -> None:
    record = train(replace(TINY, lr=1e30), activation, mnist).record
    assert record["status"] == "diverged"
    assert "task 1, epoch 1" in record["failure"]
    assert [record[metric] for metric in METRICS] == [None] * 4
    assert len(record["accuracy_matrix"]) == 1


@pytest.mark.parametrize(
    ("breaking", "failure"),  # the first and the last update of Task 2's second epoch
    [(15, "training loss in task 2, epoch 2"), (19, "test accuracy in task 2, epoch 2")],
)
def test_a_run_that_diverges_later_keeps_what_it_had_finished(
    breaking: int, failure: str, monkeypatch: pytest.MonkeyPatch, mnist: Mnist
) -> None:
    train_batch = ctc.train_batch
    updates = count()

    def breaks(network: MLP, *rest: Any) -> np.ndarray:
        logits = train_batch(network, *rest)
        if next(updates) == breaking:
            network.parameters[:] = np.nan
        return logits

    monkeypatch.setattr(ctc, "train_batch", breaks)
    run = train(TINY, "relu", mnist)
    assert run.record["status"] == "diverged"
    assert failure in run.record["failure"]
    assert [run.record[metric] for metric in METRICS] == [None] * 4
    assert len(run.record["accuracy_matrix"]) == 2
    assert [(row["task"], row["epoch"]) for row in run.schedule] == [(1, 1), (1, 2), (2, 1)]


def test_a_run_that_never_learned_is_untrained(mnist: Mnist) -> None:
    record = train(replace(TINY, lr=1e-9), "relu", mnist).record
    assert record["status"] == "untrained"
    assert "task 1" in record["failure"]


def test_input_dropout_changes_no_draw_of_hidden_dropout(
    mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_units, masks = ctc.drop_units, []

    def spy(values: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
        factors = drop_units(values, rate, rng)
        if rate == 0.5:
            masks.append(factors)
        return factors

    monkeypatch.setattr(ctc, "drop_units", spy)
    train(replace(TINY, dropout=0.5), "relu", mnist)
    train(replace(TINY, dropout=0.5, input_dropout=0.25), "relu", mnist)
    half = len(masks) // 2
    for alone, beside in zip(masks[:half], masks[half:], strict=True):
        np.testing.assert_array_equal(alone, beside)


def test_the_activation_of_contributing_md_is_under_ten_lines_and_trains(
    mnist: Mnist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
