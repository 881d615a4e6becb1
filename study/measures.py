"""What is measured inside a network: of its gates, its weights and its features.

A measure is a function that gives numbers by name; the tables above `measure_run` say what it is
measured of. *Gates* are bool (units, images): which units an image makes active. *Digits*, int
(images,), say what each image shows, 0-4 of Task 1 or 5-9 of Task 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from scipy.optimize import minimize

from compete_to_compute import (
    DIGITS,
    MLP,
    TEST_BATCH,
    Task,
    Workspace,
    cross_entropy_gradient,
    loss_and_accuracy,
)

CHECKPOINTS = ("before", "after Task 1", "after Task 2")
Numbers = dict[str, float]


@dataclass
class Checkpoint:
    """A copy of the network at one moment, and its gates then on both tasks' test images."""

    network: MLP
    gates: list[np.ndarray]  # per hidden layer (units, images of Task 1, then of Task 2)


def passes(network: MLP, inputs: np.ndarray, classes: np.ndarray) -> Iterator[Workspace]:
    """What a forward pass of some images leaves, `TEST_BATCH` after `TEST_BATCH` of them."""
    for first in range(0, len(inputs), TEST_BATCH):
        part = inputs[first : first + TEST_BATCH]
        network.forward(part, classes)
        yield network.workspace(len(part))


def gates_on_tests(network: MLP, tasks: Sequence[Task]) -> list[np.ndarray]:
    """The gates of each hidden layer on all test images, task by task."""
    pieces = [
        [gate > 0 for gate in work.gates]
        for task in tasks
        for work in passes(network, task.test_inputs, task.classes)
    ]
    return [np.concatenate(layer, axis=1) for layer in zip(*pieces, strict=True)]


# --- Gates of a layer -----------------------------------------------------------------------------


def activity(gates: np.ndarray) -> Numbers:
    """The share of units that are active, mean over images, and that no image activates."""
    rates = gates.mean(axis=1)
    return {"activity": float(rates.mean()), "dead": float(np.mean(rates == 0))}


def segregation(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """How differently the tasks use the units, means over units.

    `gap`: |a - b| for a unit that is active on the shares a and b of the tasks' images.
    `information`: the mutual information of "the unit is active" and "the task", in bits. Units
    tell digits apart, and so they tell any two sets of digits apart: `gap_chance` and
    `information_chance` are means over all other ways to part the ten digits into five and five.
    `information_share` and its chance are the same, each unit's information divided by the entropy
    of "the unit is active", over the units that are active on some images and not on others.
    """
    active, second = gates.astype(np.float32), second_halves(digits)
    a, b = (active @ half.T.astype(np.float32) / half.sum(axis=1) for half in (1 - second, second))
    share = second.mean(axis=1)
    given_half = share * entropy(b) + (1 - share) * entropy(a)
    gap = np.abs(a - b).mean(axis=0)
    whole = entropy(share * b + (1 - share) * a)
    information = (whole - given_half).mean(axis=0)
    varies = gates.any(axis=1) & ~gates.all(axis=1)
    parts = 1 - given_half[varies] / whole[varies]
    shares = parts.mean(axis=0) if varies.any() else np.full(len(share), np.nan)
    return {
        "gap": float(gap[0]),
        "gap_chance": float(gap[1:].mean()),
        "information": float(information[0]),
        "information_chance": float(information[1:].mean()),
        "information_share": float(shares[0]),
        "information_share_chance": float(shares[1:].mean()),
    }


def second_halves(digits: np.ndarray) -> np.ndarray:
    """1 for each image of the second half, else 0, for all 126 ways to part ten digits 5 to 5.

    int (126, images), the first row with the tasks, 0-4 and 5-9.
    """
    halves = [[0, *four] for four in combinations(range(1, DIGITS), DIGITS // 2 - 1)]
    return np.array([~np.isin(digits, half) for half in halves], np.int64)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in bits of a unit that is active with probability p."""
    p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def overlap(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """How alike two images' active sets are: |A and B| / |A or B|, means over pairs of images.

    French 1991 made such overlap the cause of forgetting; Srivastava et al. 2014 compare LWTA's
    active sets, "submasks", between classes. `overlap_tasks`, of images of the two tasks, and
    `overlap_chance`, for units that are active as often, but independently.
    """
    active = gates.astype(np.float32)
    common = active.T @ active
    size = active.sum(axis=0)
    either = size[:, None] + size - common
    shared = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    other_task = digits[:, None] // 5 != digits // 5
    rates = gates.mean(axis=1)
    expected = float((rates**2).sum())
    expected_either = 2 * float(rates.sum()) - expected
    return {
        "overlap_tasks": float(shared[other_task].mean()),
        "overlap_chance": expected / expected_either if expected_either else 0.0,
    }


# --- Directions in a layer ------------------------------------------------------------------------


def effective_rank(values: np.ndarray) -> float:
    """How many directions a matrix has: the exponential of the entropy of its spectrum.

    The spectrum is the squared singular values, divided by their sum (Roy and Vetterli 2007 have
    the singular values themselves). A matrix of zeros has none, so nan.
    """
    # Of the product with itself the eigenvalues: a tenth of the time.
    few = values if len(values) < values.shape[1] else values.T
    squares = np.linalg.eigvalsh(few @ few.T)
    squares = squares[squares > 0]
    if not len(squares):
        return np.nan
    spectrum = squares / squares.sum()
    return float(np.exp(-(spectrum * np.log(spectrum)).sum()))


def cosine(weights: np.ndarray) -> float:
    """Mean |cosine| of the incoming weights, (units, inputs), over pairs of units."""
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    directions = weights[length[:, 0] > 0] / length[length > 0][:, None]
    n = len(directions)
    return float((np.abs(directions @ directions.T).sum() - n) / (n * (n - 1))) if n > 1 else np.nan


def directions(network: MLP, task: Task) -> list[Numbers]:
    """Of each hidden layer, on a task's test images: `rank` of the centred activations and `cosine`
    of the incoming weights."""
    pieces = [
        [hidden[:-1].astype(np.float64) for hidden in work.hidden]
        for work in passes(network, task.test_inputs, task.classes)
    ]
    layers = [np.concatenate(layer, axis=1) for layer in zip(*pieces, strict=True)]
    return [
        {
            "rank": effective_rank(hidden - hidden.mean(axis=1, keepdims=True)),
            "cosine": cosine(weights[:, :-1].astype(np.float64)),
        }
        for hidden, weights in zip(layers, network.weights, strict=False)
    ]


# --- The start ------------------------------------------------------------------------------------


def start_measures(network: MLP, task: Task) -> Numbers:
    """What an untrained network says of a task's first test images.

    `logit_std`: the standard deviation of the logits over images and classes. `tangent_trace`: the
    mean over images and logits of the squared norm of the logit's gradient by all parameters, the
    trace of the tangent kernel (Jacot et al. 2018) divided by its size. An image's gradient in
    a layer is an outer product, so its squared norm is the product of two.
    """
    inputs = task.test_inputs[:TEST_BATCH]
    logits = network.forward(inputs, task.classes)
    work, total = network.workspace(len(inputs)), 0.0
    signals = [inputs.T, *work.hidden]
    sizes = [(signal.astype(np.float64) ** 2).sum(axis=0) for signal in signals]
    for row in range(len(task.classes)):
        delta = np.zeros_like(logits)
        delta[row] = 1
        network.backward(inputs, task.classes, delta)
        total += sizes[-1].mean()
        for layer, dz in enumerate(work.deltas):
            total += float(((dz.astype(np.float64) ** 2).sum(axis=0) * sizes[layer]).mean())
    return {"logit_std": float(logits.std()), "tangent_trace": total / len(task.classes)}


# --- What training changes ------------------------------------------------------------------------


def moved_weights(before: np.ndarray, after: np.ndarray) -> Numbers:
    """The norm of a layer's change over its norm before, and the effective rank of the change."""
    change = after.astype(np.float64) - before
    return {
        "moved": float(np.linalg.norm(change) / np.linalg.norm(before)),
        "moved_rank": effective_rank(change),
    }


# --- Features -------------------------------------------------------------------------------------

PROBE_IMAGES = 5000  # at most, of a task's training images
PENALTIES = 10.0 ** np.arange(-5, 1)  # of the ridge regression, times the features' mean square


def probe_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of a linear probe, refitted on the last hidden layer's features of a task.

    The penalty, of six, is the one that classifies a fifth of the training images best that it was
    not fitted to.
    """
    features = last_features(network, task.train_inputs[:PROBE_IMAGES], task.classes)
    labels = task.train_labels[: len(features)]
    targets = np.eye(len(task.classes))[labels]
    spared = np.arange(len(labels)) % 5 == 0

    def accuracy_on_spared(penalty: float) -> float:
        head = ridge(features[~spared], targets[~spared], penalty)
        return np.mean((features[spared] @ head).argmax(axis=1) == labels[spared])

    head = ridge(features, targets, max(PENALTIES, key=accuracy_on_spared))
    features = last_features(network, task.test_inputs, task.classes)
    return float(np.mean((features @ head).argmax(axis=1) == task.test_labels))


def five_shot_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of the nearest class mean, from a task's first five training images a class."""
    shown = np.concatenate(
        [np.flatnonzero(task.train_labels == label)[:5] for label in range(len(task.classes))]
    )
    features = last_features(network, task.train_inputs[shown], task.classes)
    means = features.reshape(len(task.classes), 5, -1).mean(axis=1)
    features = last_features(network, task.test_inputs, task.classes)
    distance = (means**2).sum(axis=1) - 2 * features @ means.T
    return float(np.mean(distance.argmin(axis=1) == task.test_labels))


def exchanged_heads(before: MLP, after: MLP, task: Task) -> Numbers:
    """Test accuracy on Task 1 with parts of the network from before and from after Task 2.

    `old_head`: the output rows from before on the features from after; `new_head`: the other way
    round; `offsets`: all from after, with an offset of each class fitted to the training images.
    """
    old, new = (
        network.weights[-1][task.classes].astype(np.float64).T for network in (before, after)
    )
    accuracies = {}
    for name, network, head in (("old_head", after, old), ("new_head", before, new)):
        logits = last_features(network, task.test_inputs, task.classes) @ head
        accuracies[name] = float(np.mean(logits.argmax(axis=1) == task.test_labels))
    fitted = last_features(after, task.train_inputs[:PROBE_IMAGES], task.classes) @ new
    labels = task.train_labels[: len(fitted)]

    def loss(offsets: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy with these offsets, and its gradient."""
        moved = (fitted + offsets).T
        gradient = cross_entropy_gradient(moved, labels).sum(axis=1)
        return loss_and_accuracy(moved, labels)[0], gradient

    offsets = minimize(loss, np.zeros(len(task.classes)), jac=True).x
    logits = last_features(after, task.test_inputs, task.classes) @ new + offsets
    return accuracies | {"offsets": float(np.mean(logits.argmax(axis=1) == task.test_labels))}


def last_features(network: MLP, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The last hidden layer's activations with a column of ones, float64 (images, units + 1)."""
    pieces = passes(network, inputs, classes)
    return np.concatenate([work.hidden[-1].T.astype(np.float64) for work in pieces])


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The weights of a ridge regression of y, (n, outputs), on x, (n, inputs)."""
    square = x.T @ x
    diagonal = penalty * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square + diagonal, x.T @ y)


# --- All of a run ---------------------------------------------------------------------------------

# On Task 1, at each checkpoint.
OF_NETWORK = {"probe": probe_accuracy, "five_shot": five_shot_accuracy}


def measured_gates(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """All numbers of a layer's gates, (units, images), on images of these digits."""
    return activity(gates) | segregation(gates, digits) | overlap(gates, digits)


def measure_run(tasks: Sequence[Task], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """All measures of a run, from its three `CHECKPOINTS`: layer by layer, moment by moment."""
    digits = np.concatenate([task.classes[task.test_labels] for task in tasks])
    start, before, after = checkpoints
    moved = [
        [moved_weights(a[:, :-1], b[:, :-1]) for a, b in zip(*both, strict=True)]
        for both in pairwise(checkpoint.network.weights for checkpoint in checkpoints)
    ]
    return {
        "start": start_measures(start.network, tasks[0]),
        "layers": [[measured_gates(layer, digits) for layer in c.gates] for c in checkpoints],
        "directions": [directions(c.network, tasks[0]) for c in checkpoints],
        "moved": moved,
        "heads": exchanged_heads(before.network, after.network, tasks[0]),
        **{
            name: {
                moment: measure(checkpoint.network, tasks[0])
                for moment, checkpoint in zip(CHECKPOINTS, checkpoints, strict=True)
            }
            for name, measure in OF_NETWORK.items()
        },
    }
