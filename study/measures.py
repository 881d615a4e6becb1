"""What is measured inside a network: of its gates, its weights and its features.

A measure is a function that gives numbers by name; the tables above `measure_run` say what it is
measured of. *Gates* are bool (units, images): which units an image makes active. *Digits*, int
(images,), say what each image shows, 0-4 of Task 1 or 5-9 of Task 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from compete_to_compute import DIGITS, MLP, TEST_BATCH, Task, Workspace

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


def activity(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """The share of units that are active."""
    return {"activity": float(gates.mean(axis=1).mean())}


def segregation(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """How differently the tasks use the units, means over units.

    `gap`: |a - b| for a unit that is active on the shares a and b of the tasks' images.
    `information`: the mutual information of "the unit is active" and "the task", in bits. Units
    tell digits apart, and so they tell any two sets of digits apart: `gap_chance` and
    `information_chance` are means over all other ways to part the ten digits into five and five.
    """
    active, second = gates.astype(np.float32), second_halves(digits)
    a, b = (active @ half.T.astype(np.float32) / half.sum(axis=1) for half in (1 - second, second))
    share = second.mean(axis=1)
    given_half = share * entropy(b) + (1 - share) * entropy(a)
    gap = np.abs(a - b).mean(axis=0)
    information = (entropy(share * b + (1 - share) * a) - given_half).mean(axis=0)
    return {
        "gap": float(gap[0]),
        "gap_chance": float(gap[1:].mean()),
        "information": float(information[0]),
        "information_chance": float(information[1:].mean()),
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
    active sets, "submasks", between classes. Within a class, across classes of a task, across
    tasks, and `overlap_chance`, for units that are active as often, but independently.
    """
    active = gates.astype(np.float32)
    common = active.T @ active
    size = active.sum(axis=0)
    either = size[:, None] + size - common
    shared = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    same_digit = digits[:, None] == digits
    same_task = digits[:, None] // 5 == digits // 5
    distinct = ~np.eye(len(digits), dtype=bool)
    rates = gates.mean(axis=1)
    expected = float((rates**2).sum())
    expected_either = 2 * float(rates.sum()) - expected
    return {
        "overlap_class": float(shared[same_digit & distinct].mean()),
        "overlap_task": float(shared[same_task & ~same_digit].mean()),
        "overlap_tasks": float(shared[~same_task].mean()),
        "overlap_chance": expected / expected_either if expected_either else 0.0,
    }


# --- What Task 2 changes --------------------------------------------------------------------------


def changed_gates(before: np.ndarray, after: np.ndarray) -> Numbers:
    """How the active sets of the same images moved.

    `gates`: the share of (image, unit) whose gate changed. `silenced`: the share of the units
    active before that no longer are, mean over images; for LWTA the share of the blocks with
    another winner. Of a network whose units are all silent it is nan.
    """
    active = before.sum(axis=0)
    shares = (before & after).sum(axis=0)[active > 0] / active[active > 0]
    return {
        "gates": float((before != after).mean()),
        "silenced": float(1 - np.mean(shares)) if len(shares) else np.nan,
    }


def untouched_weights(before: np.ndarray, after: np.ndarray) -> Numbers:
    """The share of a layer's weights, (units, inputs), with the very same bits."""
    return {"untouched": float((before == after).mean())}


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

OF_GATES = (activity, segregation, overlap)  # at each checkpoint
OF_CHANGED_GATES = (changed_gates,)  # on Task 1's images, from after Task 1 to after Task 2
OF_CHANGED_WEIGHTS = (untouched_weights,)  # without biases, from after Task 1 to after Task 2
OF_NETWORK = {"probe": probe_accuracy}  # on Task 1, at each checkpoint


def measured(measures: Sequence[Callable[..., Numbers]], *values: Any) -> Numbers:
    """All numbers that some measures give of the same values."""
    return {name: number for measure in measures for name, number in measure(*values).items()}


def measure_run(tasks: Sequence[Task], checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """All measures of a run, from its three `CHECKPOINTS`: layer by layer, moment by moment."""
    digits = np.concatenate([task.classes[task.test_labels] for task in tasks])
    first = digits < 5
    _, before, after = checkpoints
    gates = zip(before.gates, after.gates, strict=True)
    weights = zip(before.network.weights[:-1], after.network.weights[:-1], strict=True)
    return {
        "layers": [[measured(OF_GATES, layer, digits) for layer in c.gates] for c in checkpoints],
        "changed": [measured(OF_CHANGED_GATES, a[:, first], b[:, first]) for a, b in gates],
        "weights": [measured(OF_CHANGED_WEIGHTS, a[:, :-1], b[:, :-1]) for a, b in weights],
        **{
            name: {
                moment: measure(checkpoint.network, tasks[0])
                for moment, checkpoint in zip(CHECKPOINTS, checkpoints, strict=True)
            }
            for name, measure in OF_NETWORK.items()
        },
    }
