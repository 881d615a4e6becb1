#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""Why: what competition does inside the network, and what carries its effect on forgetting.

    python3 study_mechanism.py                   every case, every seed planned
    python3 study_mechanism.py default           one case
    python3 study_mechanism.py --finished-only   results and figures again, no training

A case is a configuration with what is done differently while it trains; each trains the same seeds
with every model, on the same images, weights and batches. Through Task 2 both accuracies are
followed update by update; before training and after each task every layer's gates are kept, for
both tasks' test images, and compared. Finished units are kept in study/journals. Writes
study/mechanism.json and study/*.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations, pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    DROPOUT_STREAM,
    INPUT_DROPOUT_STREAM,
    MLP,
    MNIST_SHA256,
    PAIRED_BATCH_STREAM,
    SCHEMA,
    TEST_BATCH,
    Activation,
    Config,
    Diverged,
    History,
    Journal,
    Run,
    Task,
    as_finished,
    available_cores,
    check_finite,
    check_writable,
    compare,
    cross_entropy_gradient,
    environment,
    evaluate,
    initial_weights,
    layer_views,
    limit_blas_threads,
    load_mnist,
    local_executor,
    loss_and_accuracy,
    make_tasks,
    run_script,
    student_t_quantile,
    summarise,
    to_json,
    train_batch,
    unit_record,
    with_progress,
    without_nan,
    write_or_stop,
)
from study_open_questions import PAIR, PAPER, PAPER_CHOICE, STUDY, check_study, study_parser
from visualize_compete_to_compute import colour, save_figure

CHECKPOINTS = ("before", "after Task 1", "after Task 2")


# --- Controls: networks that have a part of what competition has ----------------------------------


def random_winner(z: np.ndarray, gate: np.ndarray, k: int, rng: np.random.Generator) -> None:
    """One unit of each block passes, drawn for each image and block, at every pass anew.

    As sparse as LWTA, and its gate is as hard, but nothing competes: dropout of all but one unit a
    block, which goes on while the network is tested.
    """
    blocks = z.reshape(-1, k, z.shape[1])
    winner = rng.integers(k, size=(len(blocks), 1, z.shape[1]))
    gate.reshape(blocks.shape)[:] = np.arange(k)[:, None] == winner
    np.multiply(z, gate, out=z)


class KeptWinners(MLP):
    """An LWTA network whose winners can be kept: each image has the same ones from then on.

    As sparse as LWTA, but nothing competes any more: `judge`, a copy of the network at the moment
    of `keep`, goes on choosing the winners, and nothing that is learned later changes them.
    """

    judge: MLP | None = None

    def keep(self) -> None:
        """Keep the winners that the parameters have now."""
        shapes = [(weights.shape[1] - 1, len(weights)) for weights in self.weights]
        initial = [np.empty(shape, self.dtype) for shape in shapes]
        self.judge = MLP(initial, ACTIVATIONS["lwta"], self.k)
        self.judge.parameters[:] = self.parameters

    def forward(self, inputs: np.ndarray, classes: np.ndarray, drop: Any = None) -> np.ndarray:
        """Logits (classes, n) of inputs (n, pixels + 1); kept winners know no dropout."""
        if self.judge is None:
            return super().forward(inputs, classes, drop)
        self.judge.forward(inputs, classes)
        work, winners = (of.workspace(len(inputs)) for of in (self, self.judge))
        signal = inputs.T
        for weights, hidden, gate, wins in zip(
            self.weights, work.hidden, work.gates, winners.gates, strict=False
        ):
            gate[:] = wins
            np.multiply(weights @ signal, gate, out=hidden[:-1])
            signal = hidden
        return self.weights[-1][classes] @ signal


def build_network(model: str, initial: Sequence[np.ndarray], k: int, seed: int) -> MLP:
    """The network of a model, the controls included; `shifted` is ReLU (see `shift_biases`).

    `fixed` keeps the winners of the initial weights, `kept` those at the switch (`train_tasks`).
    """
    if model in ("fixed", "kept"):
        network = KeptWinners(initial, replace(ACTIVATIONS["lwta"], name=model), k)
        if model == "fixed":
            network.keep()
        return network
    if model == "random":
        draws = np.random.default_rng([seed, RANDOM_WINNER_STREAM])
        activation = Activation(model, LABELS[model], partial(random_winner, rng=draws), 0)
        return MLP(initial, activation, k)
    activation = ACTIVATIONS["relu" if model == "shifted" else model]
    return MLP(initial, replace(activation, name=model), k)


def shift_biases(network: MLP, n: int, goal: float) -> None:
    """Move each hidden layer's biases together, so that the share `goal` of its units fires.

    A step in proportion to what is missing in the last batch, of n images. With unit spread of
    the pre-activations the share follows within some 25 updates.
    """
    for weights, gate in zip(network.weights, network.workspace(n).gates, strict=False):
        weights[:, -1] += network.dtype(0.1 * (goal - gate.mean()))


# --- Cases ----------------------------------------------------------------------------------------

RANDOM_WINNER_STREAM = 4  # beside the streams of compete_to_compute.py
LABELS = {
    "relu": "ReLU",
    "lwta": "LWTA",
    "kept": "winners kept from the switch on",
    "fixed": "winners of the untrained network",
    "random": "random winner",
    "shifted": "ReLU, half active",
}


@dataclass(frozen=True)
class Case:
    """A configuration, what is done differently while it trains, and how often it is tried.

    `against` is the case that this one is compared with, seed by seed.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = PAIR
    seeds: int = 40
    ramp: int = 0  # updates over which Task 2's learning rate rises to its value
    second_lr: float | None = None  # the learning rate of Task 2, if another
    of_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    against: str | None = None

    def config(self, model: str) -> Config:
        """The configuration of one model."""
        return replace(Config(paired=True), **{**self.changes, **self.of_model.get(model, {})})


def optimiser(lr: float, momentum: float, **more: Any) -> dict[str, Any]:
    """A cell of the phase diagram."""
    return {"lr": lr, "momentum": momentum, "weight_decay": 0.0, **more}


KEPT = ("relu", "lwta", "kept", "fixed")
FIRST_SEED = 500  # the cases were picked on lower seeds
PAPER_2 = dict(zip(("lr", "momentum"), PAPER_CHOICE[2], strict=True))
CASES = {
    "default": Case(models=("relu", "lwta", "kept", "fixed", "random", "shifted")),
    "lr 0.05, momentum 0": Case(optimiser(0.05, 0.0)),
    "lr 0.02, momentum 0.95": Case(optimiser(0.02, 0.95), models=KEPT),
    "lr 0.05, momentum 0.95": Case(optimiser(0.05, 0.95), models=KEPT),
    "lr 0.02, momentum 0.95, restarted": Case(
        optimiser(0.02, 0.95, restart_momentum=True), against="lr 0.02, momentum 0.95"
    ),
    "lr 0.02, momentum 0.95, ramp": Case(
        optimiser(0.02, 0.95), ramp=80, against="lr 0.02, momentum 0.95"
    ),
    "lr 0.05, momentum 0.95, Task 2 at lr 0.01": Case(
        optimiser(0.05, 0.95), second_lr=0.01, against="lr 0.05, momentum 0.95"
    ),
    "no decay, restarted": Case(optimiser(0.05, 0.9, restart_momentum=True)),
    # ReLU has some 150 of its 400 units active in a layer.
    "LWTA with 304 units": Case(of_model={"lwta": {"hidden": 304}}),
    "LWTA with 200 units": Case(of_model={"lwta": {"hidden": 200}}),
    "four layers": Case({"depth": 4}),
    "lr 0.02": Case({"lr": 0.02}),
    "lr 0.02, dropout 0.5": Case({"lr": 0.02, "dropout": 0.5}, against="lr 0.02"),
    # Tested on 1,000 images a task, as it is tested hundreds of times.
    "paper": Case({**PAPER, **PAPER_2, "test_per_task": 1000}, seeds=20),
}


# --- Training, followed closely -------------------------------------------------------------------


@dataclass
class Checkpoint:
    """A network at one moment: its parameters, and its gates on both tasks' test images.

    `judge` is what chooses the winners there, where they are kept.
    """

    parameters: np.ndarray
    judge: MLP | None
    gates: list[np.ndarray]  # per hidden layer (units, images of Task 1, then of Task 2), bool


@dataclass
class Observed:
    """What a run showed. `trajectory` has a row (update of Task 2, accuracy on Task 1, on Task 2)
    from the switch on; a checkpoint is before training and after each task."""

    history: History = field(default_factory=lambda: History(np.zeros(0)))
    trajectory: list[list[float]] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


def take_checkpoint(network: MLP, tasks: Sequence[Task]) -> Checkpoint:
    """Copy the parameters and run all test images."""
    pieces = []
    for task in tasks:
        for first in range(0, len(task.test_labels), TEST_BATCH):
            inputs = task.test_inputs[first : first + TEST_BATCH]
            network.forward(inputs, task.classes)
            pieces.append([gate > 0 for gate in network.workspace(len(inputs)).gates])
    return Checkpoint(
        network.parameters.copy(),
        getattr(network, "judge", None),
        [np.concatenate(of, axis=1) for of in zip(*pieces, strict=True)],
    )


def restore(network: MLP, checkpoint: Checkpoint) -> None:
    """Give a network back what it was at a checkpoint."""
    network.parameters[:] = checkpoint.parameters
    if isinstance(network, KeptWinners):
        network.judge = checkpoint.judge


def followed(update: int) -> bool:
    """Whether both tasks are tested after this update of Task 2: often at first, then less."""
    return update % (2 if update <= 40 else 10) == 0


def train_observed(case: Case, model: str, seed: int, data_dir: str | None) -> Run:
    """Train one model on both tasks as `train_model` does, and measure what happens inside.

    The run's record is a row of `per_seed`, with the measures beside the accuracies.
    """
    limit_blas_threads()
    config, mnist = case.config(model), load_mnist(data_dir)
    began = time.perf_counter()
    tasks, live = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed)
    network = build_network(model, [start[0][live], *start[1:]], config.k, seed)
    observed, failure = Observed(), None
    measures: dict[str, Any] = {}
    try:
        # What overflows is found by `check_finite`.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            train_tasks(case, config, network, tasks, seed, observed)
        measures = measure(config, network, tasks, observed.checkpoints)
    except Diverged as error:
        failure = str(error)
    record = unit_record(config, network.activation, seed, observed.history, failure, tasks)
    record |= {"trajectory": observed.trajectory, **measures}
    return Run(record, [], {}, time.perf_counter() - began)


def train_tasks(
    case: Case, config: Config, network: MLP, tasks: Sequence[Task], seed: int, observed: Observed
) -> None:
    """Both tasks in turn, as `train_phases` does it; fills `observed`, raises `Diverged`."""
    history, trajectory = observed.history, observed.trajectory
    batches = np.random.default_rng(seed + PAIRED_BATCH_STREAM)
    dropout = [np.random.default_rng([seed, s]) for s in (DROPOUT_STREAM, INPUT_DROPOUT_STREAM)]
    history.matrix.append(evaluate(network, tasks))
    observed.checkpoints.append(take_checkpoint(network, tasks))
    for number, task in enumerate(tasks, start=1):
        if config.head == "frozen" or config.restart_momentum:
            network.velocity[:] = 0
        if number == 2:
            trajectory.append([0, *history.matrix[-1]])
            if network.activation.name == "kept":
                network.keep()
        update = 0
        for epoch in range(1, config.epochs + 1):
            order = batches.permutation(len(task.train_labels))
            logits = np.empty((len(task.classes), len(order)), network.dtype)
            for first in range(0, len(order), config.batch):
                batch = slice(first, first + config.batch)
                update += 1
                step = replace(config, lr=learning_rate(case, config, number, update))
                logits[:, batch] = train_batch(network, task, order[batch], step, dropout)
                if network.activation.name == "shifted":
                    shift_biases(network, len(order[batch]), 1 / config.k)
                if number == 2 and followed(update):
                    trajectory.append([update, *evaluate(network, tasks)])
            loss, _ = loss_and_accuracy(logits, task.train_labels[order])
            check_finite([loss], "training loss", number, epoch)
            reached = config.target_loss is not None and loss <= config.target_loss
            if reached:
                break
        history.matrix.append(evaluate(network, tasks))
        history.epochs.append(epoch)
        history.reached.append(reached)
        check_finite(history.matrix[-1], "test accuracy", number, epoch)
        observed.checkpoints.append(take_checkpoint(network, tasks))


def learning_rate(case: Case, config: Config, task: int, update: int) -> float:
    """The learning rate of one update of one task."""
    if task == 1:
        return config.lr
    return (case.second_lr or config.lr) * min(1.0, update / case.ramp if case.ramp else 1.0)


# --- Measures -------------------------------------------------------------------------------------


def measure(
    config: Config, network: MLP, tasks: Sequence[Task], checkpoints: Sequence[Checkpoint]
) -> dict[str, Any]:
    """Everything that one finished run is asked, layer by layer and checkpoint by checkpoint."""
    digits = np.concatenate([task.classes[task.test_labels] for task in tasks])
    task_of = np.repeat([0, 1], [len(task.test_labels) for task in tasks])
    first_images = task_of == 0
    _, after_first, after_second = checkpoints
    measures: dict[str, Any] = {
        "layers": [
            [layer_measures(gates, task_of, digits) for gates in checkpoint.gates]
            for checkpoint in checkpoints
        ],
        "changed": [
            changed_gates(before[:, first_images], after[:, first_images])
            for before, after in zip(after_first.gates, after_second.gates, strict=True)
        ],
        "weights": [
            changed_weights(before[:, :-1], after[:, :-1])
            for before, after in zip(
                *(
                    hidden_weights(network, checkpoint)
                    for checkpoint in (after_first, after_second)
                ),
                strict=True,
            )
        ],
        "probe": {},
        "switch": {},
    }
    for name, checkpoint in zip(CHECKPOINTS, checkpoints, strict=True):
        restore(network, checkpoint)
        measures["probe"][name] = probe_accuracy(network, tasks[0])
    restore(network, after_first)
    for number, task in enumerate(tasks, start=1):
        largest, norm = sharpness(network, task)
        measures["switch"] |= {
            f"sharpness of Task {number}": largest,
            f"gradient norm of Task {number}": norm,
        }
    restore(network, after_second)
    return measures


def hidden_weights(network: MLP, checkpoint: Checkpoint) -> list[np.ndarray]:
    """A checkpoint's hidden layers, each (units, inputs + 1)."""
    restore(network, checkpoint)
    return [weights.copy() for weights in network.weights[:-1]]


def layer_measures(gates: np.ndarray, task_of: np.ndarray, digits: np.ndarray) -> dict[str, float]:
    """How one layer's active units tell the tasks apart; gates bool (units, images).

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
    gap, information = segregation(active, np.concatenate([task_of[None], other_parts(digits)]))

    common = active.T @ active
    size = active.sum(axis=0)
    either = size[:, None] + size - common
    overlap = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    same_digit = digits[:, None] == digits
    same_task = task_of[:, None] == task_of
    distinct = ~np.eye(len(digits), dtype=bool)
    rate = active.mean(axis=1, dtype=np.float64)
    expected = float((rate**2).sum())
    return {
        "activity": float(rate.mean()),
        "gap": float(gap[0]),
        "gap_chance": float(gap[1:].mean()),
        "information": float(information[0]),
        "information_chance": float(information[1:].mean()),
        "overlap_class": float(overlap[same_digit & distinct].mean()),
        "overlap_task": float(overlap[same_task & ~same_digit].mean()),
        "overlap_tasks": float(overlap[~same_task].mean()),
        "overlap_chance": expected / (2 * float(rate.sum()) - expected),
    }


def other_parts(digits: np.ndarray) -> np.ndarray:
    """The images' parts, 0 or 1, for each way to part ten digits 5 to 5 that is not the tasks'.

    The tasks are 0-4 and 5-9. int (125, images).
    """
    halves = [{0, *four} for four in combinations(range(1, DIGITS), DIGITS // 2 - 1)]
    return np.array([~np.isin(digits, list(h)) for h in halves if h != set(range(5))], np.int64)


def segregation(active: np.ndarray, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean gap and mean mutual information in bits over units, for each parting of the images.

    active float32 (units, images); parts (partings, images) of 0 and 1; both results (partings,).
    """
    second = active @ parts.T.astype(np.float32) / parts.sum(axis=1)
    first = active @ (1 - parts).T.astype(np.float32) / (1 - parts).sum(axis=1)
    share = parts.mean(axis=1)
    overall = share * second + (1 - share) * first
    given_part = share * entropy(second) + (1 - share) * entropy(first)
    return np.abs(first - second).mean(axis=0), (entropy(overall) - given_part).mean(axis=0)


def entropy(p: np.ndarray) -> np.ndarray:
    """Entropy in bits of a unit that is active with probability p."""
    p = np.clip(p.astype(np.float64), 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def changed_gates(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How the active sets of the same images moved: gates bool (units, images).

    `gates`: the share of (image, unit) whose gate changed. `silenced`: the share of the units
    active before that no longer are, mean over images; for LWTA the share of the blocks with
    another winner.
    """
    active = before.sum(axis=0)
    kept = (before & after).sum(axis=0)
    return {
        "gates": float((before != after).mean()),
        "silenced": float(1 - np.mean(kept[active > 0] / active[active > 0])),
    }


def changed_weights(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """How much of a layer Task 2 changed.

    `untouched`: the share of weights with the very same bits. `carrying`: the share of weights,
    largest change first, that holds 90 % of the squared change; 0.9 if all changed alike, and
    0.445 if changes are normally distributed.
    """
    change = np.sort((after - before).ravel().astype(np.float64) ** 2)[::-1]
    held = np.cumsum(change)
    return {
        "untouched": float((before == after).mean()),
        "carrying": float((np.searchsorted(held, 0.9 * held[-1]) + 1) / len(held)),
    }


def probe_accuracy(network: MLP, task: Task) -> float:
    """Test accuracy of a linear probe, refitted on the last hidden layer's features of a task.

    Ridge regression on one-hot labels; the penalty, of six, is the one that classifies a held-out
    fifth of the training images best.
    """
    features = hidden_features(network, task.train_inputs, task.classes)
    labels = task.train_labels[: len(features)]
    test = hidden_features(network, task.test_inputs, task.classes)
    held_out = np.arange(len(labels)) % 5 == 0
    penalties = 10.0 ** np.arange(-3, 3)

    def fit(rows: np.ndarray, penalty: float) -> np.ndarray:
        x, y = features[rows], np.eye(len(task.classes))[labels[rows]]
        scale = np.trace(x.T @ x) / x.shape[1]
        return np.linalg.solve(x.T @ x + penalty * 1e-2 * scale * np.eye(x.shape[1]), x.T @ y)

    def right(x: np.ndarray, weights: np.ndarray, wanted: np.ndarray) -> float:
        return float(np.mean((x @ weights).argmax(axis=1) == wanted))

    best = max(
        penalties, key=lambda p: right(features[held_out], fit(~held_out, p), labels[held_out])
    )
    everything = np.ones(len(labels), bool)
    return right(test, fit(everything, best), task.test_labels)


PROBE_IMAGES = 5000  # at most, of a task's training images


def hidden_features(network: MLP, inputs: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The last hidden layer's activations with a column of ones, float64 (images, units + 1)."""
    pieces = []
    for first in range(0, min(len(inputs), PROBE_IMAGES), TEST_BATCH):
        part = inputs[first : first + TEST_BATCH]
        network.forward(part, classes)
        pieces.append(network.workspace(len(part)).hidden[-1].T.astype(np.float64))
    return np.concatenate(pieces)


CURVATURE_IMAGES = 500
POWER_ITERATIONS = 30


def sharpness(network: MLP, task: Task) -> tuple[float, float]:
    """Sharpness of a task's training loss here, over 500 images, and the norm of its gradient.

    The largest eigenvalue of the Gauss-Newton matrix J' H J, by power iteration: J is the
    derivative of the logits by the parameters with the gates held, H the Hessian of the loss by
    the logits. It is the Hessian but for the curvature of the network itself, and unlike it never
    negative (Schraudolph 2002). J v is a forward pass of derivatives, J' u is `MLP.backward`.
    """
    inputs, labels = task.train_inputs[:CURVATURE_IMAGES], task.train_labels[:CURVATURE_IMAGES]
    logits = network.forward(inputs, task.classes)
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    work = network.workspace(len(inputs))

    def transposed(delta: np.ndarray) -> np.ndarray:
        network.backward(inputs, task.classes, np.ascontiguousarray(delta, network.dtype))
        return network.gradient.copy()

    shapes = [weights.shape for weights in network.weights]
    gradient = transposed(cross_entropy_gradient(logits, labels))
    direction, eigenvalue = gradient / np.linalg.norm(gradient), 0.0
    for _ in range(POWER_ITERATIONS):
        signal, moved = inputs.T, None  # a layer's input, and its derivative along the direction
        for weights, change, hidden, gate in zip(
            network.weights, layer_views(direction, shapes), work.hidden, work.gates, strict=False
        ):
            dz = change @ signal
            if moved is not None:
                dz += weights[:, :-1] @ moved
            signal, moved = hidden, dz * gate
        change = layer_views(direction, shapes)[-1][task.classes]
        d_logits = change @ signal + network.weights[-1][task.classes][:, :-1] @ moved
        product = transposed(p * (d_logits - (p * d_logits).sum(axis=0)) / len(labels))
        eigenvalue = float(direction @ product)
        direction = product / np.linalg.norm(product)
    return eigenvalue, float(np.linalg.norm(gradient))


# --- Running --------------------------------------------------------------------------------------


def journal_of(name: str, case: Case) -> Journal:
    """The journal of one case: its units depend on its configuration and what it does besides."""
    fields = asdict(replace(Config(paired=True), **case.changes))
    fields |= {name: getattr(case, name) for name in ("of_model", "ramp", "second_lr")}
    identity = {"schema": SCHEMA, "config": without_nan(fields), "mnist_sha256": MNIST_SHA256}
    # As read back from JSON, where tuples are lists.
    identity = json.loads(json.dumps(identity))
    file = "mechanism-" + "".join(c if c.isalnum() else "-" for c in name)
    return Journal(STUDY / "journals" / file, identity)


def train_case(name: str, case: Case, options: argparse.Namespace) -> None:
    """Train what the journal of one case does not have, of `--n-seeds` seeds at most."""
    journal = journal_of(name, case)
    finished = journal.read()
    have = {(run.record["seed"], run.record["model"]) for run in finished}
    seeds = planned_seeds(case)[: options.n_seeds]
    missing = [(m, seed) for seed in seeds for m in case.models if (seed, m) not in have]
    if not missing:
        return
    print(f"{name}: {len(missing)} runs")
    journal.path.parent.mkdir(parents=True, exist_ok=True)
    journal.start(finished)
    # Processes even for a pair: a run that is followed closely holds Python's lock too often.
    executor = local_executor(options.jobs or available_cores(), max(len(missing), 3))
    futures = [executor.submit(train_observed, case, *unit, options.data_dir) for unit in missing]
    for run in with_progress(as_finished(executor, futures), len(missing), quiet=False):
        journal.append(run)


def planned_seeds(case: Case) -> range:
    """The seeds of one case."""
    return range(FIRST_SEED, FIRST_SEED + case.seeds)


def finished_records(name: str, case: Case) -> list[dict[str, Any]]:
    """The records of the planned runs of one case that its journal has, with their seconds."""
    runs = journal_of(name, case).read()
    finished = {(run.record["seed"], run.record["model"]): run for run in runs}
    wanted = [(seed, model) for seed in planned_seeds(case) for model in case.models]
    return [
        {**finished[unit].record, "seconds": finished[unit].seconds}
        for unit in wanted
        if unit in finished
    ]


# --- Analysis -------------------------------------------------------------------------------------

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95)  # of Task 2 accuracy


def lost_at(trajectory: Sequence[Sequence[float]], level: float) -> float | None:
    """What Task 1 has lost when Task 2's accuracy first reaches a level, or None if it never does.

    Between two tests, both accuracies are taken to move evenly.
    """
    before = trajectory[0][1]
    for (_, first, second), (_, next_first, next_second) in pairwise(trajectory):
        if next_second >= level:
            part = min(1.0, max(0.0, (level - second) / max(next_second - second, 1e-9)))
            return before - (first + part * (next_first - first))
    return None


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Every measure of one run by a name of its own."""
    found = {"forgetting": record["forgetting"], "task 2": record["accuracy_matrix"][-1][-1]}
    for checkpoint, layers in zip(CHECKPOINTS, record["layers"], strict=True):
        for layer, values in enumerate(layers, start=1):
            found |= {f"{name}, layer {layer}, {checkpoint}": v for name, v in values.items()}
    for layer, values in enumerate(record["changed"], start=1):
        found |= {f"changed {name}, layer {layer}": v for name, v in values.items()}
    for layer, values in enumerate(record["weights"], start=1):
        found |= {f"weights {name}, layer {layer}": v for name, v in values.items()}
    found |= {f"probe {name}": value for name, value in record["probe"].items()}
    found["probe lost"] = record["probe"]["after Task 1"] - record["probe"]["after Task 2"]
    found["probe learned"] = record["probe"]["after Task 1"] - record["probe"]["before"]
    found |= {f"{name} at the switch": value for name, value in record["switch"].items()}
    for level in LEVELS:
        lost = lost_at(record["trajectory"], level)
        if lost is not None:
            found[f"lost at {level}"] = lost
    # The dip: the most that Task 1 has lost within the first 40 updates of Task 2.
    early = [first for update, first, _ in record["trajectory"] if update <= 40]
    found["dip"] = early[0] - min(early)
    return found


def short(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary's n, mean and interval."""
    return {name: summary[name] for name in ("n", "mean", "ci95")}


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, equal values sharing their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation, which no single seed decides, with its 95 % interval.

    The interval is Fisher's with the standard error of Bonett and Wright (2000) for ranks.
    """
    r, n = float(np.corrcoef(ranks(x), ranks(y))[0, 1]), len(x)
    half = 1.959964 * math.sqrt((1 + r * r / 2) / (n - 3))
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    return {"n": n, "r": r, "ci95": [math.tanh(z + side * half) for side in (-1, 1)]}


def mean_curves(records: Sequence[dict[str, Any]]) -> dict[str, list[float]] | None:
    """Mean accuracies after each update of Task 2 that all runs have, with Task 1's interval."""
    if len(records) < 2:
        return None
    length = min(len(r["trajectory"]) for r in records)
    curves = np.array([r["trajectory"][:length] for r in records])  # (seeds, tests, 3)
    half = student_t_quantile(0.975, len(records) - 1) * curves[..., 1].std(axis=0, ddof=1)
    return {
        "update": curves[0, :, 0].tolist(),
        "task 1": curves[..., 1].mean(axis=0).tolist(),
        "task 1 half interval": (half / math.sqrt(len(records))).tolist(),
        "task 2": curves[..., 2].mean(axis=0).tolist(),
    }


AGAINST_LWTA = ("forgetting", "task 2", "lost at", "changed silenced")  # what controls differ in


def paths(records: Sequence[dict[str, Any]]) -> list[list[list[float]]]:
    """Each seed's way through Task 2: accuracies on Task 1 and on Task 2, test by test."""
    return [
        [[round(first, 4), round(second, 4)] for _, first, second in record["trajectory"]]
        for record in records
    ]


PREDICTORS = (  # what may go with forgetting
    *("gap, layer", "information, layer", "overlap_tasks, layer", "sharpness", "gradient"),
    *("dip", "changed"),
)


def trained(records: Sequence[dict[str, Any]], model: str) -> dict[int, dict[str, Any]]:
    """The records of one model's runs that neither diverged nor stayed untrained, by seed."""
    return {r["seed"]: r for r in records if r["model"] == model and r["status"] == "ok"}


def analyse(name: str, case: Case, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of `cases` in study/mechanism.json."""
    measured = {
        model: {seed: scalars(r) for seed, r in trained(records, model).items()}
        for model in case.models
    }
    return {
        "label": name,
        "config": {model: asdict(case.config(model)) for model in case.models},
        **{"ramp": case.ramp, "second_lr": case.second_lr, "first_seed": FIRST_SEED},
        **{"seeds_planned": case.seeds, "seeds_run": len({r["seed"] for r in records})},
        "blas_kernels": dict(Counter(r["blas_kernel"] for r in records)),
        "models": {
            model: {
                "failed": sum(r["model"] == model and r["status"] != "ok" for r in records),
                **own_summary(case.config(model).depth, list(by_seed.values())),
                "curves": mean_curves(list(trained(records, model).values())),
                "paths": paths(list(trained(records, model).values()))
                if name in FOLLOWED and model in PAIR
                else None,
            }
            for model, by_seed in measured.items()
        },
        "relu_minus": {
            model: paired_summary(measured["relu"], by_seed)
            for model, by_seed in measured.items()
            if model != "relu"
        },
        "lwta_minus": {
            model: {
                name: compared
                for name, compared in paired_summary(measured["lwta"], by_seed).items()
                if name.startswith(AGAINST_LWTA)
            }
            for model, by_seed in measured.items()
            if model not in PAIR
        },
    }


def own_summary(depth: int, runs: Sequence[dict[str, float]]) -> dict[str, Any]:
    """One model by itself: means, what deeper layers have more, what goes with forgetting."""
    names = list(dict.fromkeys(name for values in runs for name in values))
    deeper = {}
    for checkpoint in CHECKPOINTS[1:]:
        for what in ("gap", "information", "overlap_tasks"):
            for layer in range(2, depth + 1):
                key, first = (f"{what}, layer {n}, {checkpoint}" for n in (layer, 1))
                deeper[key] = short(summarise([values[key] - values[first] for values in runs]))
    return {
        "measures": {n: short(summarise([values.get(n) for values in runs])) for n in names},
        "deeper minus first": deeper,
        "correlation with forgetting": {
            n: correlation([v[n] for v in runs], [v["forgetting"] for v in runs])
            for n in names
            if n.startswith(PREDICTORS) and len(runs) > 4 and len({v[n] for v in runs}) > 1
        },
    }


def paired_summary(
    relu: dict[int, dict[str, float]], other: dict[int, dict[str, float]]
) -> dict[str, Any]:
    """ReLU minus another model in every measure, over the seeds that have it for both."""
    found = {}
    names = dict.fromkeys(name for values in other.values() for name in values)
    for name in names:
        pairs = [
            (relu[seed][name], other[seed][name])
            for seed in sorted(relu.keys() & other.keys())
            if name in relu[seed] and name in other[seed]
        ]
        first, second = zip(*pairs, strict=True) if pairs else ((), ())
        compared = compare(first, second)
        found[name] = {
            **short(compared["difference"]),
            **{key: compared[key] for key in ("wins", "losses", "sign_test_p")},
            "means": [float(np.mean(of)) for of in (first, second)] if pairs else None,
        }
    return found


def change(
    records: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What an experiment changes against its case: forgetting of each, and ReLU minus LWTA."""

    def forgetting(of: Sequence[dict[str, Any]], model: str) -> dict[int, float]:
        return {seed: r["forgetting"] for seed, r in trained(of, model).items()}

    found, gaps = {}, []
    for model in PAIR:
        here, there = forgetting(records, model), forgetting(base, model)
        both = sorted(here.keys() & there.keys())
        found[model] = short(summarise([here[seed] - there[seed] for seed in both]))
    for of in (records, base):
        relu, lwta = (forgetting(of, model) for model in PAIR)
        gaps.append({seed: relu[seed] - lwta[seed] for seed in relu.keys() & lwta.keys()})
    both = sorted(gaps[0].keys() & gaps[1].keys())
    found["relu minus lwta"] = short(summarise([gaps[0][s] - gaps[1][s] for s in both]))
    return found


def moved_information(
    records: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], model: str
) -> dict[str, dict[str, Any]]:
    """What an experiment changes, seed by seed, in a model's segregation by layer and moment."""
    here, there = (
        {seed: scalars(r) for seed, r in trained(of, model).items()} for of in (records, base)
    )
    both = sorted(here.keys() & there.keys())
    return {
        name: short(summarise([here[seed][name] - there[seed][name] for seed in both]))
        for name in (here[both[0]] if both else ())
        if name.startswith("information,")
    }


# --- Figures --------------------------------------------------------------------------------------

FOLLOWED = (
    *("default", "lr 0.05, momentum 0", "lr 0.02, momentum 0.95", "lr 0.05, momentum 0.95"),
    "paper",
)
LINES = {"before": ":", "after Task 1": "--", "after Task 2": "-"}


def bounds(summary: dict[str, Any]) -> tuple[float, float]:
    """How far the interval reaches below and above the mean."""
    low, high = summary["ci95"]
    return summary["mean"] - low, high - summary["mean"]


def matching_figure(cases: dict[str, dict[str, Any]]) -> Figure:
    """Task 1 accuracy against Task 2 accuracy, the difference at equal ones, and against time."""
    shown = [name for name in FOLLOWED if name in cases]
    figure, axes = plt.subplots(
        3, len(shown), figsize=(3.1 * len(shown) + 0.5, 8.4), layout="constrained", squeeze=False
    )
    for column, name in enumerate(shown):
        above, middle, below = axes[:, column]
        found = cases[name]["relu_minus"]["lwta"]
        levels = [level for level in LEVELS if known(found, level)]
        differences = [found[f"lost at {level}"] for level in levels]
        middle.errorbar(
            levels,
            [summary["mean"] for summary in differences],
            yerr=np.transpose([bounds(summary) for summary in differences]),
            color="black",
            marker="o",
            markersize=3,
            capsize=2,
        )
        for place, model in enumerate(PAIR):
            curves = cases[name]["models"][model]["curves"]
            for path in cases[name]["models"][model]["paths"]:
                first, second = np.transpose(path)
                above.plot(second, first, color=colour(model), linewidth=0.5, alpha=0.25)
            style = {"color": colour(model), "label": LABELS[model], "zorder": 3 + place}
            above.plot(curves["task 2"], curves["task 1"], linewidth=2.5, **style)
            x = np.sqrt(curves["update"])
            mean, half = np.array(curves["task 1"]), np.array(curves["task 1 half interval"])
            below.plot(x, mean, color=colour(model))
            below.fill_between(x, mean - half, mean + half, color=colour(model), alpha=0.2)
            below.plot(x, curves["task 2"], color=colour(model), linestyle="--")
        updates = [u for u in (0, 10, 40, 100, 200, 400, 1000, 3000) if u <= curves["update"][-1]]
        below.set_xticks(np.sqrt(updates), updates, fontsize=7)
        above.set(
            title=f"{name}\n{pairs_text(cases[name])}",
            xlabel="Task 2 accuracy",
            xlim=(0.5, 1),
            ylim=(0.5, 1),
        )
        middle.set(xlabel="Task 2 accuracy, first reached")
        below.set(xlabel="update of Task 2 (square root)", ylim=(0, 1.02))
        middle.axhline(0, color="black", linewidth=0.6)
        for ax in axes[:, column]:
            ax.grid(alpha=0.2)
    axes[0, 0].legend(fontsize=8)
    for ax, text in zip(
        axes[:, 0],
        (
            "Task 1 accuracy",
            "lost on Task 1, ReLU minus LWTA",
            "accuracy: Task 1 solid, Task 2 dashed",
        ),
        strict=True,
    ):
        ax.set_ylabel(text)
    figure.suptitle(
        "Above: Task 2, evaluation by evaluation, from .5 on; thin: a seed, thick: the mean. "
        "Middle: what Task 1 has lost when Task 2 is first known\nthis well, over seeds on which "
        "both get there; above zero LWTA has lost less (scales differ). Below: accuracies in "
        "time. Bars, bands: 95 % intervals",
        fontsize=10,
    )
    return figure


def pairs_text(case: dict[str, Any]) -> str:
    """How many pairs of ReLU and LWTA a case has, and how many were planned if more."""
    found, planned = case["relu_minus"]["lwta"]["forgetting"]["n"], case["seeds_planned"]
    return f"n = {found}" + (f" of {planned}" if found < planned else "")


def both_follow(case: dict[str, Any]) -> bool:
    """Whether both networks have the runs that a figure needs."""
    return all(case["models"][model]["curves"] for model in PAIR)


def known(found: dict[str, Any], level: float) -> bool:
    """Whether at least four fifths of the pairs reached a level of Task 2 accuracy."""
    reached = found.get(f"lost at {level}")
    return bool(reached and reached["ci95"]) and reached["n"] >= 0.8 * found["forgetting"]["n"]


def layers_figure(cases: dict[str, dict[str, Any]]) -> Figure:
    """Segregation and overlap, layer by layer, before and after each task."""
    shown = [name for name in ("default", "four layers") if name in cases]
    panels = (
        (
            "information",
            "information_chance",
            "segregation: bits a unit's\ngate has about the task",
        ),
        ("gap", "gap_chance", "mean gap |a - b|"),
        ("overlap_tasks", "overlap_chance", "overlap of active sets\nacross tasks"),
    )
    figure, axes = plt.subplots(
        len(shown), 3, figsize=(11, 3.4 * len(shown)), layout="constrained", squeeze=False
    )
    for row, name in enumerate(shown):
        layers = range(1, cases[name]["config"]["relu"]["depth"] + 1)
        for ax, (what, chance, text) in zip(axes[row], panels, strict=True):
            for model in PAIR:
                measures = cases[name]["models"][model]["measures"]
                for checkpoint, line in LINES.items():
                    values = [measures[f"{what}, layer {n}, {checkpoint}"] for n in layers]
                    ax.errorbar(
                        layers,
                        [v["mean"] for v in values],
                        yerr=np.transpose([bounds(v) for v in values]),
                        color=colour(model),
                        linestyle=line,
                        marker="o",
                        markersize=3,
                        label=f"{LABELS[model]}, {checkpoint}",
                    )
                ax.plot(
                    layers,
                    [measures[f"{chance}, layer {n}, after Task 2"]["mean"] for n in layers],
                    "x",
                    color=colour(model),
                    label=f"{LABELS[model]}, to compare with",
                )
            ax.set(xlabel="hidden layer", ylabel=text, title=name)
            ax.set_xticks(list(layers))
            ax.grid(alpha=0.2)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7
    )
    figure.suptitle(
        "How differently the two tasks use each layer; mean and 95 % interval. Crosses, after Task "
        "2, left and middle:\nthe other 125 ways to part the digits 5 to 5; right: independent "
        "units of the same activity",
        fontsize=10,
    )
    return figure


CONTROL_LEVEL = 0.925  # of Task 2 accuracy, at which the controls are compared
LOSSES = (  # a measure, its marker, what it is
    ("forgetting", "o", "at the end of Task 2 (forgetting)"),
    (f"lost at {CONTROL_LEVEL}", "s", f"when Task 2 first reaches {CONTROL_LEVEL:.1%}, if most do"),
    ("probe lost", "D", "by a linear probe refitted on the last hidden layer"),
)


def controls_figure(cases: dict[str, dict[str, Any]]) -> Figure:
    """What is lost on Task 1, and of that by a refitted probe: LWTA, ReLU and the controls."""
    networks = [
        (name, model)
        for name, models in (
            ("default", ("relu", "lwta", "kept", "fixed", "random", "shifted")),
            ("LWTA with 304 units", ("lwta",)),
            ("LWTA with 200 units", ("lwta",)),
        )
        for model in models
        if name in cases
    ]
    figure, ax = plt.subplots(figsize=(8, 1.6 + 0.55 * len(networks)), layout="constrained")
    for y, (name, model) in enumerate(networks):
        found = cases[name]["models"][model]["measures"]
        for place, (measure, marker, _) in enumerate(LOSSES):
            summary = found.get(measure)
            # A level that few runs reach would be told of those alone.
            if summary and summary["n"] >= 0.8 * found["forgetting"]["n"]:
                ax.errorbar(
                    [summary["mean"]],
                    [y + 0.22 * (place - 1)],
                    xerr=np.transpose([bounds(summary)]),
                    color=colour(model),
                    marker=marker,
                    capsize=3,
                )
    for _, marker, text in LOSSES:
        ax.plot([], [], marker=marker, color="0.4", linestyle="", label=text)
    texts = [LABELS[model] if name == "default" else name for name, model in networks]
    ax.set_yticks(range(len(networks)), texts, fontsize=9)
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("loss of Task 1 accuracy, mean and 95 % interval")
    ax.grid(axis="x", alpha=0.2)
    figure.legend(loc="outside lower center", fontsize=8)
    figure.suptitle(
        "What is lost on Task 1, by networks that have a part of competition", fontsize=10
    )
    return figure


def explanations_figure(cases: dict[str, dict[str, Any]]) -> Figure:
    """For each experiment: ReLU minus LWTA in its case, without what it takes away, the change."""
    names = [name for name, case in cases.items() if name.startswith("lr") and "change" in case]
    figure, ax = plt.subplots(figsize=(8, 1.6 + 0.75 * len(names)), layout="constrained")
    for y, name in enumerate(names):
        base = cases[cases[name]["change"]["against"]]
        for place, (summary, marker) in enumerate(
            (
                (base["relu_minus"]["lwta"]["forgetting"], "o"),
                (cases[name]["relu_minus"]["lwta"]["forgetting"], "s"),
                (cases[name]["change"]["relu minus lwta"], "D"),
            )
        ):
            if summary["ci95"] is None:
                continue
            low, high = summary["ci95"]
            shown = colour("lwta") if low > 0 else colour("relu") if high < 0 else "0.55"
            ax.errorbar(
                [summary["mean"]],
                [y + 0.2 * (place - 1)],
                xerr=np.transpose([bounds(summary)]),
                color=shown,
                marker=marker,
                capsize=3,
            )
    for marker, text in (
        ("o", "before"),
        ("s", "with the change named at the left"),
        ("D", "difference of the two, seed by seed"),
    ):
        ax.plot([], [], marker=marker, color="0.4", linestyle="", label=text)
    ax.set_yticks(range(len(names)), [name.replace(", ", "\n", 2) for name in names], fontsize=8)
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel("forgetting of ReLU minus LWTA, mean and 95 % interval")
    ax.grid(axis="x", alpha=0.2)
    figure.legend(loc="outside lower center", fontsize=8, ncols=3)
    figure.suptitle(
        "What carries the difference between ReLU and LWTA? The experiments on seeds 500 to 539. "
        "Blue: LWTA\nforgets less, or the change is towards that; orange: ReLU; grey: the interval "
        "holds zero",
        fontsize=10,
    )
    return figure


def reach_figure(cases: dict[str, dict[str, Any]]) -> Figure:
    """How far Task 2 reaches: weights it leaves alone, and active units of Task 1 it silences."""
    panels = (
        ("no decay, restarted", "weights untouched, layer {}", "weights Task 2 leaves alone"),
        ("lr 0.05, momentum 0", "weights untouched, layer {}", "weights Task 2 leaves alone"),
        ("default", "changed silenced, layer {}", "Task 1's active units silenced"),
    )
    figure, all_axes = plt.subplots(1, len(panels), figsize=(11, 3.6), layout="constrained")
    for axes, (name, measure, text) in zip(all_axes, panels, strict=True):
        models = cases[name]["models"] if name in cases else {}
        drawn = [m for m in ("relu", "lwta", "shifted") if m in models and models[m]["curves"]]
        for place, model in enumerate(drawn):
            found = [models[model]["measures"][measure.format(n)] for n in (1, 2)]
            axes.errorbar(
                [n + 0.1 * place for n in (1, 2)],
                [of["mean"] for of in found],
                yerr=np.transpose([bounds(of) for of in found]),
                color=colour(model),
                marker="o",
                linestyle="",
                capsize=3,
                label=LABELS[model],
            )
        axes.set(title=name, xlabel="hidden layer", ylabel=f"share of {text}", xlim=(0.7, 2.6))
        axes.set_xticks([1, 2])
        axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])  # a mark at zero is seen whole
        axes.grid(alpha=0.2)
    figure.legend(
        *all_axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    figure.suptitle(
        "How far Task 2 reaches into what Task 1 uses; mean and 95 % interval", fontsize=10
    )
    return figure


FIGURES = {
    "matching_rule.png": matching_figure,
    "layers.png": layers_figure,
    "controls.png": controls_figure,
    "explanations.png": explanations_figure,
    "reach.png": reach_figure,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, analyse and draw; the exit status."""
    description = "What competition does inside the network, over many paired seeds."
    options = study_parser(description, "case", CASES).parse_args(arguments)
    check_study(options, "case", CASES)
    check_writable(STUDY / "mechanism.json")
    if not options.finished_only:
        load_mnist(options.data_dir)
        for name in options.names or CASES:
            train_case(name, CASES[name], options)
    rows, seconds = [], 0.0
    for name, case in CASES.items():
        records = finished_records(name, case)
        seconds += sum(record["seconds"] for record in records)
        if records:
            rows.append(analyse(name, case, records))
            if case.against:
                base = finished_records(case.against, CASES[case.against])
                rows[-1]["change"] = {
                    "against": case.against,
                    **change(records, base),
                    "information": {m: moved_information(records, base, m) for m in PAIR},
                }
    result = {
        "schema": SCHEMA,
        "name": "mechanism",
        "question": "What does competition do inside the network?",
        "command": "python3 study_mechanism.py",
        "environment": environment(),  # of the tables; each case counts its runs' kernels
        "core_seconds": seconds,
        "cases": rows,
    }
    write_or_stop(STUDY / "mechanism.json", to_json(result))
    cases = {row["label"]: row for row in rows if both_follow(row)}
    if "default" in cases:
        for file, draw in FIGURES.items():
            save_figure(draw(cases), STUDY / file)
    else:
        print("no figures: they need two runs of ReLU and of LWTA, of the case default at least")
    print(f"Wrote {STUDY / 'mechanism.json'}: {seconds / 3600:.2f} core-hours")
    return 0


if __name__ == "__main__":
    run_script(main)
