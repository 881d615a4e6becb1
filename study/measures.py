"""What is measured inside a network: of its gates, its weights and its features.

*Gates* are bool (units, images): which units an image makes active. *Digits*, int (images,), say
what each image shows, 0-4 of Task 1 or 5-9 of Task 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
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

Numbers = dict[str, float]


# A copy of the network at one moment, and the gates of its hidden layers then on both tasks' test
# images, (units, images of Task 1, then of Task 2).
Checkpoint = tuple[MLP, list[np.ndarray]]


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
    return by_layer(pieces)


def by_layer(pieces: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
    """Join what passes left of each layer, (units, images of a pass)."""
    return [np.concatenate(layer, axis=1) for layer in zip(*pieces, strict=True)]


# --- Gates of a layer -----------------------------------------------------------------------------


def measured_gates(gates: np.ndarray, digits: np.ndarray) -> Numbers:
    """All numbers of a layer's gates on images of these digits.

    `activity` is the share of units that are active, mean over images, `dead` the share that no
    image activates.
    """
    rates = gates.mean(axis=1)
    active = {"activity": float(rates.mean()), "dead": float(np.mean(rates == 0))}
    return active | task_use(gates, digits) | overlap(gates, digits)


def task_use(gates: np.ndarray, digits: np.ndarray) -> Numbers:
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
    found = {"gap": gap, "information": information, "information_share": shares}
    chance = {f"{name}_chance": float(values[1:].mean()) for name, values in found.items()}
    return {name: float(values[0]) for name, values in found.items()} | chance


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
    layers = by_layer(
        [hidden[:-1].astype(np.float64) for hidden in work.hidden]
        for work in passes(network, task.test_inputs, task.classes)
    )
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


# --- Features -------------------------------------------------------------------------------------

PROBE_IMAGES = 5000  # at most, of a task's training images
PENALTIES = 10.0 ** np.arange(-5, 1)  # of the ridge regression, times the features' mean square


def probe_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of a linear probe, refitted on the last hidden layer's features of a task.

    The penalty, of six, is the one that classifies a fifth of the training images best that it was
    not fitted to.
    """
    features = last_features(network, task, task.train_inputs[:PROBE_IMAGES])
    labels = task.train_labels[: len(features)]
    targets = np.eye(len(task.classes))[labels]
    spared = np.arange(len(labels)) % 5 == 0

    def accuracy_on_spared(penalty: float) -> float:
        head = ridge(features[~spared], targets[~spared], penalty)
        return share_right(features[spared] @ head, labels[spared])

    head = ridge(features, targets, max(PENALTIES, key=accuracy_on_spared))
    return share_right(last_features(network, task, task.test_inputs) @ head, task.test_labels)


def five_shot_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of the nearest class mean, from a task's first five training images a class."""
    classes = range(len(task.classes))
    shown = np.concatenate([np.flatnonzero(task.train_labels == label)[:5] for label in classes])
    features = last_features(network, task, task.train_inputs[shown])
    means = features.reshape(len(classes), 5, -1).mean(axis=1)
    features = last_features(network, task, task.test_inputs)
    return share_right(2 * features @ means.T - (means**2).sum(axis=1), task.test_labels)


def exchanged_heads(before: MLP, after: MLP, task: Task) -> Numbers:
    """Test accuracy on Task 1 with parts of the network from before and from after Task 2.

    `old_head`: the output rows from before on the features from after; `new_head`: the other way
    round; `offsets`: all from after, with an offset of each class fitted to the training images.
    """
    old, new = (
        network.weights[-1][task.classes].astype(np.float64).T for network in (before, after)
    )
    logits = {
        "old_head": last_features(after, task, task.test_inputs) @ old,
        "new_head": last_features(before, task, task.test_inputs) @ new,
    }
    fitted = last_features(after, task, task.train_inputs[:PROBE_IMAGES]) @ new
    labels = task.train_labels[: len(fitted)]

    def loss(offsets: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy with these offsets, and its gradient."""
        moved = (fitted + offsets).T
        gradient = cross_entropy_gradient(moved, labels).sum(axis=1)
        return loss_and_accuracy(moved, labels)[0], gradient

    offsets = minimize(loss, np.zeros(len(task.classes)), jac=True).x
    logits["offsets"] = last_features(after, task, task.test_inputs) @ new + offsets
    return {name: share_right(scores, task.test_labels) for name, scores in logits.items()}


def last_features(network: MLP, task: Task, inputs: np.ndarray) -> np.ndarray:
    """The last hidden layer's activations with a column of ones, float64 (images, units + 1)."""
    pieces = passes(network, inputs, task.classes)
    return np.concatenate([work.hidden[-1].T.astype(np.float64) for work in pieces])


def share_right(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of images whose label has the highest score, (images, classes)."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """The weights of a ridge regression of y, (n, outputs), on x, (n, inputs)."""
    square = x.T @ x
    diagonal = penalty * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square + diagonal, x.T @ y)


# --- All of a run ---------------------------------------------------------------------------------

# What is kept of each hidden layer at each checkpoint: what a page, a table or a figure reads.
KEPT = {
    "before": ("gap", "information", "overlap_tasks", "rank"),
    "after1": ("gap", "information", "overlap_tasks", "rank", "cosine", "dead"),
    "after2": (
        *("activity", "gap", "gap_chance", "information", "information_chance"),
        *("information_share", "information_share_chance", "overlap_tasks", "overlap_chance"),
    ),
}


def measure_run(
    tasks: Sequence[Task], checkpoints: Sequence[Checkpoint], learned: float
) -> dict[str, Any]:
    """Measure a run at its three checkpoints; `learned` is its accuracy on Task 1 at the second.

    A number by name, or a list with one for each layer: "gap.after2" is of the hidden layers,
    "moved.task2" (the norm of a layer's change in Task 2 over its norm before) and
    "moved_rank.task1" (the effective rank of its change) also of the output's. "lost." is what
    Task 1's accuracy loses in Task 2: by heads of another moment, by what is fitted to its images.
    """
    digits = np.concatenate([task.classes[task.test_labels] for task in tasks])
    networks = [network for network, _ in checkpoints]
    values: dict[str, Any] = start_measures(networks[0], tasks[0])
    for (moment, names), (network, gates) in zip(KEPT.items(), checkpoints, strict=True):
        layers = directions(network, tasks[0])
        for layer, of_layer in zip(layers, gates, strict=True):
            layer |= measured_gates(of_layer, digits)
        values |= {f"{name}.{moment}": each(layer[name] for layer in layers) for name in names}
    start, after1, after2 = ([w[:, :-1] for w in network.weights] for network in networks)
    first, second = (
        [(b.astype(np.float64) - a, a) for a, b in zip(*both, strict=True)]
        for both in ((start, after1), (after1, after2))
    )
    values["moved_rank.task1"] = each(effective_rank(change) for change, _ in first)
    values["moved.task2"] = each(np.linalg.norm(c) / np.linalg.norm(a) for c, a in second)
    heads = exchanged_heads(networks[1], networks[2], tasks[0])
    values |= {f"lost.{name}": learned - accuracy for name, accuracy in heads.items()}
    for name, measure in (("probe", probe_accuracy), ("five_shot", five_shot_accuracy)):
        # Also before training, which nobody reads: a random winner is drawn at every pass.
        _, before, after = (measure(network, tasks[0]) for network in networks)
        values[f"{name}.lost"] = before - after
    return values


def each(numbers: Iterable[float]) -> list[float]:
    """A list of numbers, of eight digits, as they fill most of the file of runs."""
    return [float(f"{number:.8g}") for number in numbers]
