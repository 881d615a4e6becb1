"""Why: Task 2's output rows grow into what Task 1's read. Measures, interventions and runs.

A condition is a configuration and what is done `besides`. Its models train the same seeds, on the
same images, weights and batches (--paired), on one BLAS kernel. What each row measures is in
`Inside`; declared.md says what is to be tested, on seeds from 6000 up.

    python3 -m study.readout                    every run that the file lacks, two side by side
    python3 -m study.readout --plan             how many runs are planned and there, by condition
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from compete_to_compute import (
    ACTIVATIONS,
    METRICS,
    PAIRED_BATCH_STREAM,
    SCHEMA,
    Activation,
    Config,
    Diverged,
    InputError,
    Moment,
    Task,
    blas,
    changes,
    check_config,
    check_finite,
    evaluate,
    initial_weights,
    limit_blas_threads,
    load_mnist,
    make_tasks,
    readout_span,
    run_record,
    sha256,
    source_hash,
    train_phases,
    without_nan,
)
from fetch_mnist import MNIST_SHA256, Mnist, idx_header
from study.conditions import (
    PAPER_START,
    PERMUTED,
    SMALL_START,
    SPLIT_DIGITS,
    START_RATES,
    START_SCALES,
    Condition,
    random_splits,
)
from study.measures import effective_rank, last_features
from study.mechanism import CONTROLS, PROGRAMS, Network, Training
from study.mechanism import MODELS as FOLLOWED_MODELS

RESULTS = Path(__file__).resolve().parent / "results" / "readout.jsonl"
KERNEL = "Haswell"
JOBS = 2
RANDOM_DIRECTION_STREAM = 5  # beside the streams of compete_to_compute.py and mechanism.py
OTHER_SEED = 1000  # "another seed" is so much further
IDENTITY = ("schema", "data", "changes", "besides", "model", "source", "seed")
RECORDED = ("status", "failure", "target_reached", "epochs", "accuracy_matrix", *METRICS)


def leaky(z: np.ndarray, gate: np.ndarray, k: int) -> None:
    """Leaky ReLU: h = max(z, z / 10), dh/dz = 1 where z > 0, else 1 / 10."""
    gate[:] = np.where(z > 0, 1, 0.1)
    np.multiply(z, gate, out=z)


MODELS = {
    **FOLLOWED_MODELS,
    "sigmoid": ACTIVATIONS["sigmoid"],
    "leaky": Activation("leaky", "leaky ReLU", leaky, PAIRED_BATCH_STREAM),
}
PARTNER = {"relu": "lwta", "lwta": "relu"}

# --- Data -----------------------------------------------------------------------------------------

FASHION_FOLDER = Path(os.environ.get("FASHION_DIR", "/usr/share/datasets/fashion-mnist"))
FASHION_SHA256 = dict(
    zip(
        MNIST_SHA256,  # names and order of the files are the same
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        strict=True,
    )
)


@cache
def load_data(name: str) -> Mnist:
    """A data set by name. Raises `InputError` where a file is not the one that was named."""
    if name == "mnist":
        return load_mnist()
    import gzip

    arrays = []
    for file, expected in FASHION_SHA256.items():
        content = gzip.decompress((FASHION_FOLDER / f"{file}.gz").read_bytes())
        if sha256(content) != expected:
            raise InputError(f"{FASHION_FOLDER / file}.gz: not the Fashion-MNIST file of that name")
        arrays.append(np.frombuffer(content, np.uint8, offset=len(idx_header(file))))
    train_images, train_labels, test_images, test_labels = arrays
    return Mnist(
        train_images.reshape(60000, -1), train_labels, test_images.reshape(10000, -1), test_labels
    )


# --- The network ----------------------------------------------------------------------------------


class Probed(Network):
    """A network whose error signals can be watched and changed while it trains."""

    def __init__(self, *arguments: Any) -> None:
        """A network as `MLP` makes it; nothing is watched or changed yet."""
        super().__init__(*arguments)
        self.watched: np.ndarray | None = None  # a basis, (units, r)
        self.signal_shares: list[float] = []  # at each update, of the error signal, in its span
        # By hidden layer: changes the error signal dh, (units, n), in place.
        self.signal_changes: dict[int, Callable[[np.ndarray], None]] = {}
        # A basis and the factors on the rows' gradient within and outside its span.
        self.stretch: tuple[np.ndarray, float, float] | None = None

    def backward(self, inputs: np.ndarray, classes: np.ndarray, delta: np.ndarray) -> None:
        """Fill `gradient` as `MLP.backward` does, with what is changed."""
        if self.watched is not None:
            signal = self.weights[-1][classes, :-1].T @ delta
            self.signal_shares.append(share_within(signal.T, self.watched))
        if self.signal_changes:
            self.backward_changed(inputs, classes, delta)
        else:
            super().backward(inputs, classes, delta)
        if self.stretch is not None:
            basis, within, outside = self.stretch
            gradient = self.gradients[-1][classes, :-1]
            inner = gradient @ basis @ basis.T
            gradient = self.dtype(within) * inner + self.dtype(outside) * (gradient - inner)
            self.gradients[-1][classes, :-1] = gradient

    def backward_changed(self, inputs: np.ndarray, classes: np.ndarray, delta: np.ndarray) -> None:
        """The same passes, with `signal_changes` applied to dh of the layers that have one."""
        work = self.workspace(len(inputs))
        signals = [inputs.T, *work.hidden]
        self.gradients[-1][:] = 0
        self.gradients[-1][classes] = delta @ signals[-1].T
        following = self.weights[-1][classes]
        for layer in reversed(range(len(work.hidden))):
            dz = work.deltas[layer]
            np.matmul(following[:, :-1].T, delta, out=dz)
            if layer in self.signal_changes:
                self.signal_changes[layer](dz)
            dz *= work.gates[layer]
            np.matmul(dz, signals[layer].T, out=self.gradients[layer])
            delta, following = dz, self.weights[layer]


def remove(signal: np.ndarray, basis: np.ndarray) -> None:
    """Take from a signal, (units, n), its part in the span of a basis, (units, r)."""
    signal -= basis @ (basis.T @ signal)


def shrink(signal: np.ndarray, basis: np.ndarray) -> None:
    """Give a signal the norm, over units and images, that `remove` would leave it."""
    within, whole = np.linalg.norm(basis.T @ signal), np.linalg.norm(signal)
    if whole:
        signal *= math.sqrt(max(0.0, 1 - (within / whole) ** 2))


def remove_and_rescale(signal: np.ndarray, basis: np.ndarray) -> None:
    """`remove`, and then give the signal the norm, over units and images, that it had."""
    whole = np.linalg.norm(signal)
    remove(signal, basis)
    left = np.linalg.norm(signal)
    if left:
        signal *= whole / left


# --- Measures -------------------------------------------------------------------------------------


def share_within(vectors: np.ndarray, basis: np.ndarray) -> float:
    """Share of the squared norm of some vectors, (n, units), in a basis' span; nan of zeros."""
    whole = float((vectors.astype(np.float64) ** 2).sum())
    within = vectors.astype(np.float64) @ basis.astype(np.float64)
    return float((within**2).sum()) / whole if whole else math.nan


def centred_features(network: Probed, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The last hidden layer's activations less their mean, float64 (images, units)."""
    features = last_features(network, inputs, classes)[:, :-1]
    return features - features.mean(axis=0)


def mean_jacobian_spans(network: Probed, task: Task) -> list[np.ndarray]:
    """By hidden layer, what a task's logits read of it on average: bases (units, r).

    The derivatives of the logits by the layer's activations h, mean over the task's training
    images, are rows (classes, units), which in the last layer are the output rows. As in
    `readout_span` they count less their mean over the classes.
    """
    sums = [np.zeros((len(task.classes), len(w))) for w in network.weights[:-1]]  # of dlogit/dz
    for first in range(0, len(task.train_inputs), 500):
        inputs = task.train_inputs[first : first + 500]
        logits = network.forward(inputs, task.classes)
        for row in range(len(task.classes)):
            delta = np.zeros_like(logits)
            delta[row] = 1
            network.backward(inputs, task.classes, delta)
            for total, dz in zip(sums, network.workspace(len(inputs)).deltas, strict=True):
                total[row] += dz.sum(axis=1, dtype=np.float64)
    following = [total / len(task.train_inputs) for total in sums[1:]]
    rows = [mean @ w[:, :-1] for mean, w in zip(following, network.weights[1:-1], strict=True)]
    rows.append(network.weights[-1][task.classes, :-1])
    spans = []
    for each in rows:
        _, lengths, directions = np.linalg.svd(each - each.mean(axis=0), full_matrices=False)
        spans.append(directions[lengths > 1e-6 * lengths[0]].T.astype(network.dtype))
    return spans


@dataclass
class Inside:
    """What is measured of a run; each list has an entry for each task after the first.

    "The span" is `readout_span` of all earlier tasks as it stands when the task's training
    begins, before any intervention; "rows" are the output rows that the task's softmax sees,
    without biases; "features" are the last hidden layer's activations.
    """

    units: int
    rank: list[int] = field(default_factory=list)  # dimensions of the span; chance is rank / units
    # Share of the squared norm of the task's rows in the span: at the switch, as its training
    # begins (after an intervention), and after its training; of what training added to the rows.
    overlap_before: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    overlap_of_change: list[float] = field(default_factory=list)
    # Share of the variance of the features on the task's test images in the span, at the switch;
    # the effective rank of these features, and of those on the earlier tasks' test images.
    feature_overlap: list[float] = field(default_factory=list)
    effective_rank: list[float] = field(default_factory=list)
    effective_rank_earlier: list[float] = field(default_factory=list)
    # Frobenius norms: of the task's rows before and after, of the earlier tasks' before.
    rows_norm_before: list[float] = field(default_factory=list)
    rows_norm: list[float] = field(default_factory=list)
    earlier_rows_norm: list[float] = field(default_factory=list)
    # Share of the squared norm of the error signal at the last hidden layer (before anything is
    # taken from it) in the span: at the first update, and mean over the first epoch's updates.
    signal_share_start: list[float] = field(default_factory=list)
    signal_share: list[float] = field(default_factory=list)
    # Mean squared change through the task of the features on the earlier tasks' test images, in
    # the span and outside, each over the variance of the same features there at the switch.
    drift: list[float] = field(default_factory=list)
    drift_outside: list[float] = field(default_factory=list)
    # Of some seeds: [update of the task, overlap, accuracy on each task].
    trajectory: list[list[float]] = field(default_factory=list)


@dataclass
class Switch:
    """The network as a later task's training begins."""

    basis: np.ndarray  # of the span, (units, r)
    rows: np.ndarray  # of the task, (classes, units)
    features: np.ndarray  # on the earlier tasks' test images, (images, units)


def features_on_tests(network: Probed, tasks: Sequence[Task]) -> np.ndarray:
    """The last hidden layer's activations on the tasks' test images, float64 (images, units)."""
    pieces = [last_features(network, t.test_inputs, t.classes)[:, :-1] for t in tasks]
    return np.concatenate(pieces)


def look_at_switch(training: ReadoutTraining, number: int, inside: Inside) -> Switch:
    """Measure the network before the task of this number (from 1) is trained."""
    network, task, earlier = (
        training.network,
        training.tasks[number - 1],
        training.tasks[: number - 1],
    )
    basis = readout_span(network, earlier)
    features = centred_features(network, task.test_inputs, task.classes)
    inside.rank.append(basis.shape[1])
    inside.feature_overlap.append(share_within(features, basis))
    inside.effective_rank.append(effective_rank(features))
    on_earlier = features_on_tests(network, earlier)
    inside.effective_rank_earlier.append(effective_rank(on_earlier - on_earlier.mean(axis=0)))
    own = [network.weights[-1][t.classes, :-1] for t in earlier]
    inside.earlier_rows_norm.append(float(np.linalg.norm(np.concatenate(own))))
    return Switch(basis, np.empty(0), on_earlier)


def look_after(training: ReadoutTraining, number: int, switch: Switch, inside: Inside) -> None:
    """Measure what the training of the task of this number did."""
    network, task = training.network, training.tasks[number - 1]
    rows = network.weights[-1][task.classes, :-1]
    inside.overlap.append(share_within(rows, switch.basis))
    inside.overlap_of_change.append(share_within(rows - switch.rows, switch.basis))
    inside.rows_norm.append(float(np.linalg.norm(rows)))
    basis = switch.basis.astype(np.float64)
    change = features_on_tests(network, training.tasks[: number - 1]) - switch.features
    before = switch.features - switch.features.mean(axis=0)
    squares = [((x @ basis) ** 2).sum() for x in (change, before)]
    outside = [(x**2).sum() - square for x, square in zip((change, before), squares, strict=True)]
    for values, (moved, there) in ((inside.drift, squares), (inside.drift_outside, outside)):
        values.append(float(moved / there) if there > 0 else math.nan)


# --- Interventions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadoutTraining(Training):
    """What is trained, from which data set; the network is a `Probed`."""

    network: Probed
    mnist: Mnist


def make_training(
    config: Config, activation: Activation, seed: int, mnist: Mnist, scales: Sequence[float] = ()
) -> ReadoutTraining:
    """An untrained network and its tasks; `scales` are factors on each layer's He weights."""
    tasks, used = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed)
    for layer, scale in enumerate(scales):
        start[layer] = initial_weights(replace(config, init_scale=scale), seed)[layer]
    network = Probed([start[0][used], *start[1:]], activation, config.k)
    return ReadoutTraining(network, tasks, config, seed, mnist)


def after_first_task(training: ReadoutTraining, model: str, seed: int) -> ReadoutTraining:
    """The same with another network, of this model and seed, that has been trained on Task 1."""
    other = make_training(training.config, MODELS[model], seed, training.mnist)
    for _ in train_phases(other.network, other.tasks[:1], other.config, seed):
        pass
    return other


def is_switch(now: Moment) -> bool:
    """Whether Task 2's training begins."""
    return (now.stage, now.task) == ("start", 2)


def change_signal(training: ReadoutTraining, now: Moment, how: str) -> None:
    """Change Task 2's error signal at the last hidden layer; as many directions as the span has.

    "random directions", "principal" and "another seed" take others from it than the span:
    orthonormal ones drawn at random; the leading principal ones of the features of Task 2's
    training images at the switch less their part in the span; the span of the same model's
    output rows for Task 1 in the network that another seed trained.
    """
    if not is_switch(now):
        return
    network, second = training.network, training.tasks[1]
    basis, change = readout_span(network, training.tasks[:1]), remove
    units, rank = basis.shape
    if how == "random directions":
        rng = np.random.default_rng([training.seed, RANDOM_DIRECTION_STREAM])
        basis = np.linalg.qr(rng.standard_normal((units, rank)))[0].astype(network.dtype)
    elif how == "principal":
        features = centred_features(network, second.train_inputs, second.classes)
        features -= features @ basis @ basis.T
        directions = np.linalg.eigh(features.T @ features)[1]
        basis = np.ascontiguousarray(directions[:, -rank:]).astype(network.dtype)
    elif how == "another seed":
        other = after_first_task(training, network.activation.name, training.seed + OTHER_SEED)
        basis = readout_span(other.network, other.tasks[:1])
    elif how == "shrunk":
        change = shrink
    elif how == "rescaled":
        change = remove_and_rescale
    else:
        raise InputError(f"{how}: no such change of the signal")
    network.signal_changes = {training.config.depth - 1: partial(change, basis=basis)}


def protect_layers(training: ReadoutTraining, now: Moment, which: str) -> None:
    """Take from the error signal at every hidden layer what Task 1 reads there on average."""
    if is_switch(now):
        spans = mean_jacobian_spans(training.network, training.tasks[0])
        changes = {layer: partial(remove, basis=basis) for layer, basis in enumerate(spans)}
        training.network.signal_changes = changes


def put_rows(training: ReadoutTraining, now: Moment, share: float) -> None:
    """Task 2 begins with rows at He scale of which this share lies in the span of Task 1's.

    The rows are those that He initialisation would have given this seed. Each keeps its norm
    and the directions of its two parts, in the span and orthogonal to it; the parts' lengths
    become sqrt(share) and sqrt(1 - share) of the norm.
    """
    if is_switch(now):
        classes = training.tasks[1].classes
        start = initial_weights(replace(training.config, init_scale=1.0), training.seed)[-1]
        rows = start.T[classes].astype(np.float64)
        basis = readout_span(training.network, training.tasks[:1]).astype(np.float64)
        within = rows @ basis @ basis.T
        parts = ((within, share), (rows - within, 1 - share))
        turned = sum(
            part / np.linalg.norm(part, axis=1, keepdims=True) * math.sqrt(s) for part, s in parts
        )
        turned *= np.linalg.norm(rows, axis=1, keepdims=True)
        training.network.weights[-1][classes, :-1] = turned


def keep_rows(training: ReadoutTraining, now: Moment, value: bool) -> None:
    """Task 2's output rows stand still, biases too, while Task 2 trains."""
    if is_switch(now):
        second = training.tasks[1]
        second.fixed_rows = np.union1d(second.fixed_rows, second.classes)


def stretch_features(training: ReadoutTraining, now: Moment, goal: float | str) -> None:
    """Task 2's rows learn as if another share of the features' variance lay in the span.

    Let the output layer read M h in place of h, with M = a P + b (1 - P), where P projects on the
    span of Task 1's rows, and let Task 1's rows W become W M^-1, so that no logit changes. Rows V
    of Task 2 learn in V' = V M^-1 by delta (M h)^T, so V itself moves by delta h^T M M^T:
    its gradient within the span times a^2, outside times b^2, while the error signal at h, V^T
    delta, is the same. So Task 1's function and the hidden layers stay what they are at the
    switch, and the features that Task 2's rows grow on have a^2 f of their variance in the span
    and b^2 (1 - f) outside. a^2 = goal / f and b^2 = (1 - goal) / (1 - f) give the share
    `goal` at the same total variance. f and "the other network's", the goal that is what the
    other network of the pair has at its own switch, are of Task 2's training images.
    """
    if not is_switch(now):
        return
    network = training.network
    basis = readout_span(network, training.tasks[:1])
    own = training_feature_overlap(training)
    if goal == "the other network's":
        partner = PARTNER[network.activation.name]
        goal = training_feature_overlap(after_first_task(training, partner, training.seed))
    network.stretch = basis, float(goal) / own, (1 - float(goal)) / (1 - own)


def training_feature_overlap(training: ReadoutTraining) -> float:
    """Share of the variance of the features on Task 2's training images in Task 1's span."""
    first, second = training.tasks[:2]
    features = centred_features(training.network, second.train_inputs, second.classes)
    return share_within(features, readout_span(training.network, [first]))


# By name in `besides`, each with its value. "layer_scales" is the start, and no program.
READOUT_PROGRAMS: dict[str, Callable[[Any, Moment, Any], None]] = {
    **PROGRAMS,
    "signal": change_signal,
    "protected_layers": protect_layers,
    "second_rows_in_span": put_rows,
    "second_rows_stand_still": keep_rows,
    "feature_overlap": stretch_features,
}


# --- One run --------------------------------------------------------------------------------------


def is_followed(update: int) -> bool:
    """Whether a trajectory has this update: a power of two."""
    return update & (update - 1) == 0


def follow(
    training: ReadoutTraining, besides: dict[str, Any], with_trajectory: bool
) -> tuple[dict[str, Any], Inside]:
    """Train all tasks in turn as `train_model` does, with what is done besides.

    Returns the record, a row of `per_seed`, and what was measured. Tests are made before training
    and after each task only, and on the way where there is a trajectory.
    """
    network, tasks, config = training.network, training.tasks, training.config
    programs = [(READOUT_PROGRAMS[n], v) for n, v in besides.items() if n in READOUT_PROGRAMS]
    tests: list[tuple[Moment, list[float]]] = []
    inside = Inside(config.hidden)
    switch: Switch | None = None
    failure = None

    def add_to_trajectory(now: Moment) -> None:
        rows = network.weights[-1][tasks[now.task - 1].classes, :-1]
        point = [now.task_update, share_within(rows, switch.basis), *evaluate(network, tasks)]
        inside.trajectory.append(point)

    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            for now in train_phases(network, tasks, config, training.seed):
                if now.stage == "start" and now.task > 1:
                    switch = look_at_switch(training, now.task, inside)
                for program, value in programs:
                    program(training, now, value)
                if switch and now.stage == "start":
                    switch.rows = network.weights[-1][tasks[now.task - 1].classes, :-1]
                    inside.overlap_before.append(share_within(switch.rows, switch.basis))
                    inside.rows_norm_before.append(float(np.linalg.norm(switch.rows)))
                    network.watched, network.signal_shares = switch.basis, []
                    if with_trajectory:
                        add_to_trajectory(now)
                if switch and now.stage == "epoch" and now.epoch == 1:
                    inside.signal_share_start.append(network.signal_shares[0])
                    inside.signal_share.append(float(np.mean(network.signal_shares)))
                    network.watched = None
                is_due = with_trajectory and now.stage == "update" and is_followed(now.task_update)
                if switch and is_due:
                    add_to_trajectory(now)
                if now.is_checkpoint:
                    tests.append((replace(now), evaluate(network, tasks)))
                    check_finite(tests[-1][1], "test accuracy", now.task, now.epoch)
                    if switch:
                        look_after(training, now.task, switch, inside)
    except Diverged as error:
        failure = str(error)
    record = run_record(config, network.activation, training.seed, tests, failure, tasks)
    return record, inside


def rounded(value: Any) -> Any:
    """The same with six significant digits, in lists and dicts too."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [rounded(each) for each in value]
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return value


def train_readout(cell: Cell, model: str, seed: int) -> dict[str, Any]:
    """Train and measure one run of a condition: its row."""
    limit_blas_threads()
    began = time.perf_counter()
    identity, config = cell.row_identity(model, seed), cell.config(model)
    besides = identity["besides"] or {}
    mnist, scales = load_data(cell.data), besides.get("layer_scales", ())
    training = make_training(config, MODELS[model], seed, mnist, scales)
    with_trajectory = cell.followed and seed < cell.first_seed + FOLLOWED_SEEDS
    record, inside = follow(training, besides, with_trajectory)
    row = {
        **identity,
        **{name: record[name] for name in RECORDED},
        "blas_kernel": record["blas_kernel"],
        "numpy": np.__version__,
        "seconds": round(time.perf_counter() - began, 2),
        "inside": rounded(asdict(inside)),
    }
    return without_nan(row)


# --- The file -------------------------------------------------------------------------------------


def run_key(row: dict[str, Any]) -> str:
    """What a row is of, as text: its first seven columns."""
    return json.dumps([row[name] for name in IDENTITY], sort_keys=True)


def read_rows(path: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """All whole rows by `run_key`; of several of one run the first counts."""
    rows: dict[str, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            rows.setdefault(run_key(row), row)
        except (ValueError, KeyError, TypeError):
            continue  # cut short or damaged: nobody's
    return rows


def append_row(row: dict[str, Any], path: Path = RESULTS) -> None:
    """Add a row on a line of its own; it is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        cut_short = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            cut_short = file.read(1) != b"\n"
        file.write(b"\n" * cut_short + json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


# --- Conditions -----------------------------------------------------------------------------------

FIRST_SEED = 6000
FOLLOWED_SEEDS = 5


@dataclass(frozen=True)
class Cell(Condition):
    """A condition of this family; of some, the first five seeds are followed update by update."""

    first_seed: int = FIRST_SEED
    data: str = "mnist"
    followed: bool = False

    def row_identity(self, model: str, seed: int) -> dict[str, Any]:
        """The first seven columns of a row."""
        return {
            "schema": SCHEMA,
            "data": self.data,
            "changes": changes(self.config(model)),
            "besides": {**self.besides, **CONTROLS.get(model, {})} or None,
            "model": model,
            "source": source_hash(MODELS[model].function),
            "seed": seed,
        }


PROTECTED = {"protect_readout": True}
USUAL_START = {**SMALL_START, "init_scale": 1.0}
PAPER_AT = {**PAPER_START, "init_scale": 0.3, "lr": 0.01}
SHARES = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
SIGNALS = ("random directions", "shrunk", "rescaled", "principal", "another seed")
OTHERS = "the other network's"
EVEN_ODD = {"tasks": ("02468", "13579")}


def both(label: str, change: dict[str, Any], **keywords: Any) -> list[Cell]:
    """A condition without and with the readout protected."""
    return [
        Cell(label, change, **keywords),
        Cell(f"{label}, protected", {**change, **PROTECTED}, **keywords),
    ]


# What decides most: 40 pairs, or as many as stand there.
DECISIVE = [
    *both("small", SMALL_START, followed=True),
    *(Cell(f"small, signal {how}", SMALL_START, besides={"signal": how}) for how in SIGNALS),
    *both("small, He rows", SMALL_START, besides={"second_rows": 1.0}),
    *(
        Cell(f"{name}, share {share}", start, besides={"second_rows_in_span": share})
        for name, start in (("small", SMALL_START), ("usual", USUAL_START))
        for share in SHARES
    ),
    *both("usual", USUAL_START),
    *(
        Cell(f"small, feature overlap {goal}", SMALL_START, besides={"feature_overlap": goal})
        for goal in (0.0, 0.2, 0.4, 0.6, 0.8, OTHERS)
    ),
    *both("fashion, small", SMALL_START, data="fashion-mnist", seeds=100),
    *both(
        "fashion, small, even then odd",
        {**SMALL_START, **EVEN_ODD},
        data="fashion-mnist",
        seeds=100,
    ),
    *both("fashion, usual", USUAL_START, data="fashion-mnist"),
    *both("fashion, usual, even then odd", {**USUAL_START, **EVEN_ODD}, data="fashion-mnist"),
]
PAPER_CELLS = both("paper", {**PAPER_AT, "depth": 2}, seeds=20)
WHERE_ELSE = [
    Cell("permuted digits", {**SMALL_START, **PERMUTED}),
    Cell("one head", {**SMALL_START, "head": "single"}),
    *(
        cell
        for scale in START_SCALES
        if scale not in (0.2, 1.0)
        for cell in both(f"init scale {scale}", {**SMALL_START, "init_scale": scale}, seeds=20)
    ),
    *both("one layer", {**SMALL_START, "depth": 1}),
    *both("three layers", {**SMALL_START, "depth": 3}),
    Cell(
        "three layers, every layer protected",
        {**SMALL_START, "depth": 3},
        besides={"protected_layers": "what Task 1 reads on average"},
    ),
    *(
        Cell(
            f"small, share {share}, rows stand still",
            SMALL_START,
            besides={"second_rows_in_span": share, "second_rows_stand_still": True},
        )
        for share in SHARES
    ),
    *both("five tasks", {**SMALL_START, **SPLIT_DIGITS}),
    *both("published", {}),
    *(
        cell
        for label, change in random_splits(3000, 5).items()
        for cell in both(label, {**SMALL_START, **change})
    ),
]
DEEP_PAPER_CELLS = both("paper, three layers", {**PAPER_AT, "depth": 3}, seeds=10)
# One point each in a scatter; nothing is tested.
few = partial(Cell, seeds=10)
SCATTER = [
    few(
        "other units",
        SMALL_START,
        activations=("leaky", "sigmoid", "kept", "fixed", "random", "shifted"),
    ),
    *(few(f"blocks of {k}", {**SMALL_START, "k": k}, activations=("lwta",)) for k in (4, 8)),
    *(few(f"{n} units", {**SMALL_START, "hidden": n}) for n in (100, 200, 800, 1600)),
    few("dropout 0.5", {**SMALL_START, "dropout": 0.5}),
    *(
        few(
            f"small: layer {' and '.join(small)}",
            USUAL_START,
            besides={"layer_scales": [0.2 if layer in small else 1.0 for layer in "123"]},
        )
        for small in ("1", "2", "3", "12", "13", "23")
    ),
    *(
        few(f"layers at {', '.join(map(str, s))}", USUAL_START, besides={"layer_scales": s})
        for s in ([0.04, 0.2, 1.0], [1.0, 0.2, 0.04])
    ),
    *(few(f"lr {lr}", {**SMALL_START, "lr": lr}) for lr in START_RATES if lr != SMALL_START["lr"]),
    few("lr 0.1, momentum 0", {**SMALL_START, "lr": 0.1, "momentum": 0.0}),
    *(few(f"{n} epochs", {**SMALL_START, "epochs": n}) for n in (1, 2, 5, 10, 50)),
    few("four layers", {**SMALL_START, "depth": 4}),
]
CELLS = {
    cell.label: cell for cell in (*DECISIVE, *PAPER_CELLS, *WHERE_ELSE, *DEEP_PAPER_CELLS, *SCATTER)
}

Planned = tuple[Cell, str, int]  # with the model and the seed


def runs_of(cells: Sequence[Cell], numbers: range) -> Iterator[Planned]:
    """The pairs of these numbers (from 0) of some conditions, pair by pair."""
    for number, cell in product(numbers, cells):
        if number < cell.seeds:
            for model in cell.activations:
                yield cell, model, cell.first_seed + number


def plan() -> Iterator[Planned]:
    """All runs in the order of their training, what decides most first."""
    for number in range(40):
        yield from runs_of(DECISIVE, range(number, number + 1))
        if number % 2 == 0:
            yield from runs_of(PAPER_CELLS, range(number // 2, number // 2 + 1))
    yield from runs_of(WHERE_ELSE[:2], range(40))
    yield from runs_of(DECISIVE, range(40, 100))
    for first in (0, 20):
        yield from runs_of(WHERE_ELSE[2:], range(first, first + 20))
        yield from runs_of(DEEP_PAPER_CELLS, range(first // 4, first // 4 + 5))
    yield from runs_of(SCATTER, range(10))


def missing_runs(path: Path = RESULTS) -> list[Planned]:
    """What the plan has and the file has not, each run once."""
    there, missing = set(read_rows(path)), {}
    for cell, model, seed in plan():
        identity = run_key(cell.row_identity(model, seed))
        if identity not in there:
            missing.setdefault(identity, (cell, model, seed))
    return list(missing.values())


# --- Running --------------------------------------------------------------------------------------


def train_planned(planned: Planned) -> dict[str, Any]:
    """`train_readout`, for a pool of processes."""
    return train_readout(*planned)


def show_plan() -> None:
    """How many runs are planned, and how many are there, condition by condition."""
    rows = read_rows()
    for label, cell in CELLS.items():
        keys = [
            run_key(cell.row_identity(model, seed))
            for seed in cell.all_seeds
            for model in cell.activations
        ]
        there = [rows[key] for key in keys if key in rows]
        seconds = sum(row["seconds"] for row in there) / max(1, len(there))
        print(f"{label}: {len(there)} of {len(keys)} runs, {seconds:.1f} s each")


def main() -> int:
    """Train what is missing; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", action="store_true", help="train nothing, show what is there")
    if parser.parse_args().plan:
        show_plan()
        return 0
    if blas()["blas_kernel"] != KERNEL:
        raise InputError(f"this family is trained on OPENBLAS_CORETYPE={KERNEL}")
    for cell in CELLS.values():
        for model in cell.activations:
            check_config(cell.config(model), [MODELS[model]] if model in ACTIVATIONS else [])
    missing = missing_runs()
    print(f"{len(missing)} runs to train", flush=True)
    with multiprocessing.get_context("spawn").Pool(JOBS) as pool:
        for done, row in enumerate(pool.imap_unordered(train_planned, missing), start=1):
            append_row(row)
            if done % 20 == 0:
                print(time.strftime("%H:%M:%S"), f"{done} of {len(missing)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
