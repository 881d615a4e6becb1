"""What is measured inside a network: of its gates, its weights, its features and its loss.

Pure functions; `measure_run` puts them together for one run. *Gates* are bool (units, images):
which units an image makes active. Of a layer's many units the measures are means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from compete_to_compute import DIGITS, MLP, TEST_BATCH, Task, cross_entropy_gradient, layer_views

CHECKPOINTS = ("before", "after Task 1", "after Task 2")


@dataclass
class Checkpoint:
    """A copy of the network at one moment, and its gates then on both tasks' test images."""

    network: MLP
    gates: list[np.ndarray]  # per hidden layer (units, images of Task 1, then of Task 2)


def gates_on_tests(network: MLP, tasks: Sequence[Task]) -> list[np.ndarray]:
    """The gates of each hidden layer on all test images, task by task."""
    pieces = []
    for task in tasks:
        for first in range(0, len(task.test_labels), TEST_BATCH):
            inputs = task.test_inputs[first : first + TEST_BATCH]
            network.forward(inputs, task.classes)
            pieces.append([gate > 0 for gate in network.workspace(len(inputs)).gates])
    return [np.concatenate(layer, axis=1) for layer in zip(*pieces, strict=True)]


def measure_run(tasks: Sequence[Task], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """All measures of a run, from its three `CHECKPOINTS`: layer by layer, moment by moment."""
    digits = np.concatenate([task.classes[task.test_labels] for task in tasks])
    task_of_image = np.repeat([0, 1], [len(task.test_labels) for task in tasks])
    is_first = task_of_image == 0
    _, after_first, after_second = checkpoints
    return {
        "layers": [
            [layer_measures(gates, task_of_image, digits) for gates in checkpoint.gates]
            for checkpoint in checkpoints
        ],
        "changed": [
            changed_gates(before[:, is_first], after[:, is_first])
            for before, after in zip(after_first.gates, after_second.gates, strict=True)
        ],
        "weights": [
            changed_weights(before[:, :-1], after[:, :-1])
            for before, after in zip(
                after_first.network.weights[:-1], after_second.network.weights[:-1], strict=True
            )
        ],
        "probe": {
            name: probe_accuracy(checkpoint.network, tasks[0])
            for name, checkpoint in zip(CHECKPOINTS, checkpoints, strict=True)
        },
        "switch": {
            f"{what} of Task {number}": value
            for number, task in enumerate(tasks, start=1)
            for what, value in sharpness(after_first.network, task).items()
        },
    }


# --- Gates and weights ----------------------------------------------------------------------------


def layer_measures(
    gates: np.ndarray, task_of_image: np.ndarray, digits: np.ndarray
) -> dict[str, float]:
    """How one layer's active units tell the tasks apart; task and digit of each image (images,).

    `activity`: the share of units that are active. Segregation, means over units: `gap`, |a - b|
    for a unit that is active on the shares a and b of the tasks' images, and `information`, the
    mutual information of "the unit is active" and "the task", in bits. Units tell digits apart,
    and so they tell any two sets of digits apart: `gap_chance` and `information_chance` are means
    over all other ways to part the ten digits into five and five. Overlap, means over pairs of
    images of |A and B| / |A or B|, their active sets (French 1991 made such overlap the cause of
    forgetting; Srivastava et al. 2014 compare LWTA's active sets, "submasks", between classes):
    within a class, across classes of a task, across tasks, and `overlap_chance`, for units that
    are active as often, but independently.
    """
    active = gates.astype(np.float32)
    gap, information = separation(
        active, np.concatenate([task_of_image[None], other_halves(digits)])
    )
    common = active.T @ active
    size = active.sum(axis=0)
    either = size[:, None] + size - common
    overlap = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    same_digit = digits[:, None] == digits
    same_task = task_of_image[:, None] == task_of_image
    distinct = ~np.eye(len(digits), dtype=bool)
    rate = active.mean(axis=1, dtype=np.float64)
    expected = float((rate**2).sum())
    expected_either = 2 * float(rate.sum()) - expected
    return {
        "activity": float(rate.mean()),
        "gap": float(gap[0]),
        "gap_chance": float(gap[1:].mean()),
        "information": float(information[0]),
        "information_chance": float(information[1:].mean()),
        "overlap_class": float(overlap[same_digit & distinct].mean()),
        "overlap_task": float(overlap[same_task & ~same_digit].mean()),
        "overlap_tasks": float(overlap[~same_task].mean()),
        "overlap_chance": expected / expected_either if expected_either else 0.0,
    }


def other_halves(digits: np.ndarray) -> np.ndarray:
    """Each image's half, 0 or 1, for every way to part ten digits 5 to 5 that is not the tasks'.

    The tasks are 0-4 and 5-9. int (125, images).
    """
    halves = [{0, *four} for four in combinations(range(1, DIGITS), DIGITS // 2 - 1)]
    return np.array(
        [~np.isin(digits, list(half)) for half in halves if half != set(range(5))], np.int64
    )


def separation(active: np.ndarray, halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean gap and mean mutual information in bits over units, for each parting of the images.

    active float32 (units, images); halves (partings, images) of 0 and 1; both results (partings,).
    """
    second = active @ halves.T.astype(np.float32) / halves.sum(axis=1)
    first = active @ (1 - halves).T.astype(np.float32) / (1 - halves).sum(axis=1)
    share = halves.mean(axis=1)
    overall = share * second + (1 - share) * first
    given_half = share * entropy(second) + (1 - share) * entropy(first)
    return np.abs(first - second).mean(axis=0), (entropy(overall) - given_half).mean(axis=0)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in bits of a unit that is active with probability p."""
    p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def changed_gates(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How the active sets of the same images moved.

    `gates`: the share of (image, unit) whose gate changed. `silenced`: the share of the units
    active before that no longer are, mean over images; for LWTA the share of the blocks with
    another winner. Of a network whose units are all silent it is nan.
    """
    active = before.sum(axis=0)
    kept = (before & after).sum(axis=0)
    shares = kept[active > 0] / active[active > 0]
    return {
        "gates": float((before != after).mean()),
        "silenced": float(1 - np.mean(shares)) if len(shares) else np.nan,
    }


def changed_weights(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How much of a layer's weights, (units, inputs), changed.

    `untouched`: the share of weights with the very same bits. `carrying`: the share of weights,
    largest change first, that holds 90 % of the squared change; 0.9 if all changed alike, and
    0.445 if changes are normally distributed.
    """
    squares = np.sort((after - before).ravel().astype(np.float64) ** 2)[::-1]
    total = np.cumsum(squares)
    return {
        "untouched": float((before == after).mean()),
        "carrying": float((np.searchsorted(total, 0.9 * total[-1]) + 1) / len(total)),
    }


# --- Features and loss ----------------------------------------------------------------------------

PROBE_IMAGES = 5000  # at most, of a task's training images
PENALTIES = 10.0 ** np.arange(-5, 1)  # of the ridge regression, times the features' mean square


def probe_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of a linear probe, refitted on the last hidden layer's features of a task.

    Ridge regression on one-hot labels; the penalty, of six, is the one that classifies a fifth of
    the training images best that it was not fitted to.
    """
    features = last_features(network, task.train_inputs, task.classes)
    labels = task.train_labels[: len(features)]
    is_spared = np.arange(len(labels)) % 5 == 0

    def fit(rows: np.ndarray, penalty: float) -> np.ndarray:
        x, y = features[rows], np.eye(len(task.classes))[labels[rows]]
        ridge = penalty * np.trace(x.T @ x) / x.shape[1]
        return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)

    def accuracy(weights: np.ndarray, x: np.ndarray, correct: np.ndarray) -> float:
        return float(np.mean((x @ weights).argmax(axis=1) == correct))

    best = max(
        PENALTIES,
        key=lambda p: accuracy(fit(~is_spared, p), features[is_spared], labels[is_spared]),
    )
    weights = fit(np.ones(len(labels), bool), best)
    return accuracy(
        weights, last_features(network, task.test_inputs, task.classes), task.test_labels
    )


def last_features(network: MLP, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The last hidden layer's activations with a column of ones, float64 (images, units + 1)."""
    pieces = []
    for first in range(0, min(len(inputs), PROBE_IMAGES), TEST_BATCH):
        part = inputs[first : first + TEST_BATCH]
        network.forward(part, classes)
        pieces.append(network.workspace(len(part)).hidden[-1].T.astype(np.float64))
    return np.concatenate(pieces)


CURVATURE_IMAGES = 500
POWER_ITERATIONS = 30


def sharpness(network: MLP, task: Task) -> dict[str, float]:
    """Sharpness of a task's training loss here, over 500 images, and the norm of its gradient.

    The largest eigenvalue of the Gauss-Newton matrix J' H J, by power iteration: J is the
    derivative of the logits by the parameters with the gates fixed, H the Hessian of the loss by
    the logits. It is the Hessian but for the curvature of the network itself, and unlike it never
    negative (Schraudolph 2002). J v is a forward pass of derivatives, J' u is `MLP.backward`.
    """
    inputs, labels = task.train_inputs[:CURVATURE_IMAGES], task.train_labels[:CURVATURE_IMAGES]
    logits = network.forward(inputs, task.classes)
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    work = network.workspace(len(inputs))
    shapes = [weights.shape for weights in network.weights]

    def transposed(delta: np.ndarray) -> np.ndarray:
        """J' of a direction of the logits (classes, images)."""
        network.backward(inputs, task.classes, np.ascontiguousarray(delta, network.dtype))
        return network.gradient.copy()

    def derivative(direction: np.ndarray) -> np.ndarray:
        """J of a direction of the parameters: how the logits (classes, images) move."""
        *hidden_moves, output_move = layer_views(direction, shapes)
        signal, moved = inputs.T, None  # the pixels do not move
        for weights, move, hidden, gate in zip(
            network.weights, hidden_moves, work.hidden, work.gates, strict=False
        ):
            dz = move @ signal
            if moved is not None:
                dz += weights[:, :-1] @ moved
            signal, moved = hidden, dz * gate
        return (
            output_move[task.classes] @ signal + network.weights[-1][task.classes][:, :-1] @ moved
        )

    gradient = transposed(cross_entropy_gradient(logits, labels))
    direction, eigenvalue = gradient / np.linalg.norm(gradient), 0.0
    for _ in range(POWER_ITERATIONS):
        d_logits = derivative(direction)
        product = transposed(p * (d_logits - (p * d_logits).sum(axis=0)) / len(labels))
        eigenvalue = float(direction @ product)
        direction = product / np.linalg.norm(product)
    return {"sharpness": eigenvalue, "gradient norm": float(np.linalg.norm(gradient))}
