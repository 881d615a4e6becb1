"""Why: what competition does inside the network, and what carries its effect on forgetting.

A condition is a configuration and an *intervention*, what is done besides; its models train the
same seeds on the same images, weights and batches. Through Task 2 both accuracies are followed
update by update; before training and after each task `measures` looks inside.

The intervention of a row is None or has, as far as they are there,

    "ramp": 80                  Task 2's learning rate rises to its value over so many updates
    "second_lr": 0.01           Task 2's learning rate
    "winners" or "biases"       what a control does, see `CONTROLS`; `model` is the control's name
    "measured": "in figures"    trained by `train_model`, and measured as people see its figures

and beside the columns of every table of runs a row has `trajectory`, rows (update of Task 2,
accuracy on Task 1, on Task 2) from the switch on, and what `measure_run` gives; or else `seen`,
what `seen_in_figures` gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from compete_to_compute import (
    ACTIVATIONS,
    MLP,
    PAIRED_BATCH_STREAM,
    Activation,
    Config,
    Diverged,
    InputError,
    Run,
    Task,
    available_cores,
    changes,
    check_finite,
    evaluate,
    initial_weights,
    limit_blas_threads,
    load_mnist,
    make_tasks,
    run_record,
    side_by_side,
    source_hash,
    train_model,
    train_phases,
    with_progress,
)
from study.conditions import NO_DECAY, PAPER, PAPER_CHOICE, Condition, by_key, finished_runs
from study.measures import Checkpoint, gates_on_tests, measure_run
from study.runs import MECHANISM, PAIR, RECORDED, check_study, key, study_parser
from visualize_compete_to_compute import field_spread, segregation

# --- Controls: networks that have a part of what competition has ----------------------------------

RANDOM_WINNER_STREAM = 4  # beside the streams of compete_to_compute.py


def random_winner(z: np.ndarray, gate: np.ndarray, k: int, rng: np.random.Generator) -> None:
    """One unit of each block passes, drawn for each image and block, at every pass anew.

    As sparse as LWTA, and its gate is as hard, but nothing competes: dropout of all but one unit a
    block, which goes on while the network is tested.
    """
    blocks = z.reshape(-1, k, z.shape[1])
    winner = rng.integers(k, size=(len(blocks), 1, z.shape[1]))
    gate.reshape(blocks.shape)[:] = np.arange(k)[:, None] == winner
    np.multiply(z, gate, out=z)


class Network(MLP):
    """A network whose winners may be kept: each image has the same ones from then on.

    As sparse as LWTA, but nothing competes any more: `chooser`, a copy of the network at the moment
    of `keep_winners`, goes on choosing, and nothing that is learned later changes its choice.
    """

    chooser: Network | None = None

    def copy(self) -> Network:
        """The network as it is now; activation and chooser are the same objects."""
        twin = Network([w[:, :-1].T for w in self.weights], self.activation, self.k, self.dtype)
        twin.parameters[:] = self.parameters
        twin.chooser = self.chooser
        return twin

    def keep_winners(self) -> None:
        """Keep the winners that the parameters have now."""
        self.chooser = self.copy()

    def forward(self, inputs: np.ndarray, classes: np.ndarray, drop: Any = None) -> np.ndarray:
        """Logits (classes, n) of inputs (n, pixels + 1); kept winners know no dropout."""
        if self.chooser is None:
            return super().forward(inputs, classes, drop)
        self.chooser.forward(inputs, classes)
        work, chosen = self.workspace(len(inputs)), self.chooser.workspace(len(inputs))
        signal = inputs.T
        for weights, hidden, gate, winners in zip(
            self.weights, work.hidden, work.gates, chosen.gates, strict=False
        ):
            gate[:] = winners
            np.multiply(weights @ signal, gate, out=hidden[:-1])
            signal = hidden
        return self.weights[-1][classes] @ signal


MODELS = {model: ACTIVATIONS[model] for model in PAIR} | {
    name: Activation(name, label, function, PAIRED_BATCH_STREAM)
    for name, label, function in (
        ("kept", "winners kept from the switch on", ACTIVATIONS["lwta"].function),
        ("fixed", "winners of the untrained network", ACTIVATIONS["lwta"].function),
        ("random", "random winner", random_winner),
        ("shifted", "ReLU, half active", ACTIVATIONS["relu"].function),
    )
}
CONTROLS = {  # their interventions
    "kept": {"winners": "kept from the switch on"},
    "fixed": {"winners": "of the untrained network"},
    "random": {"winners": "drawn at random"},
    "shifted": {"biases": "moved until 1 / k of the units are active"},
}


def build_network(model: str, initial: Sequence[np.ndarray], k: int, seed: int) -> Network:
    """The network of a model before training."""
    activation = MODELS[model]
    if model == "random":
        rng = np.random.default_rng([seed, RANDOM_WINNER_STREAM])
        activation = replace(activation, function=partial(random_winner, rng=rng))
    network = Network(initial, activation, k)
    if model == "fixed":
        network.keep_winners()
    return network


def shift_biases(network: MLP, n: int, goal: float) -> None:
    """Move each hidden layer's biases together, so that the share `goal` of its units fires.

    A step in proportion to what is missing in the last batch, of n images. With unit spread of
    the pre-activations the share follows within some 25 updates.
    """
    for weights, gate in zip(network.weights, network.workspace(n).gates, strict=False):
        weights[:, -1] += network.dtype(0.1 * (goal - gate.mean()))


# --- Conditions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FollowedCondition(Condition):
    """A condition of this study; `besides` is what is done besides, on seeds that chose nothing."""

    besides: dict[str, Any] = field(default_factory=dict)
    first_seed: int = 500

    def identity(self, model: str) -> dict[str, Any]:
        """What all rows of a model have in common."""
        return {
            "changes": changes(self.config(model)),
            "intervention": {**self.besides, **CONTROLS.get(model, {})} or None,
            "model": model,
            "source": source_hash(MODELS[model].function),
        }

    def keys(self, model: str) -> dict[int, tuple[Any, ...]]:
        row = {**self.identity(model), "kernel": None}
        return {seed: key({**row, "seed": seed})[:-1] for seed in self.all_seeds}


NO_MOMENTUM, HIGH, EDGE = (
    {"lr": lr, "momentum": momentum, "weight_decay": 0.0}
    for lr, momentum in ((0.05, 0.0), (0.02, 0.95), (0.05, 0.95))
)
RESTARTED = {"restart_momentum": True}
KEPT = ("relu", "lwta", "kept", "fixed")
IN_FIGURES = {"measured": "in figures"}
CONDITIONS = {
    condition.label: condition
    for condition in (
        FollowedCondition("default", activations=tuple(MODELS)),
        FollowedCondition("lr 0.05, momentum 0", NO_MOMENTUM),
        FollowedCondition("lr 0.02, momentum 0.95", HIGH, activations=KEPT),
        FollowedCondition("lr 0.05, momentum 0.95", EDGE, activations=KEPT),
        FollowedCondition(
            "lr 0.02, momentum 0.95, restarted",
            {**HIGH, **RESTARTED},
            against="lr 0.02, momentum 0.95",
        ),
        FollowedCondition(
            "lr 0.02, momentum 0.95, ramp",
            HIGH,
            besides={"ramp": 80},
            against="lr 0.02, momentum 0.95",
        ),
        FollowedCondition(
            "lr 0.05, momentum 0.95, Task 2 at lr 0.01",
            EDGE,
            besides={"second_lr": 0.01},
            against="lr 0.05, momentum 0.95",
        ),
        FollowedCondition("no decay, restarted", {**NO_DECAY, **RESTARTED}),
        # ReLU has some 150 of its 400 units active in a layer.
        FollowedCondition("LWTA with 304 units", of_model={"lwta": {"hidden": 304}}),
        FollowedCondition("LWTA with 200 units", of_model={"lwta": {"hidden": 200}}),
        FollowedCondition("four layers", {"depth": 4}),
        FollowedCondition("lr 0.02", {"lr": 0.02}),
        FollowedCondition("lr 0.02, dropout 0.5", {"lr": 0.02, "dropout": 0.5}, against="lr 0.02"),
        # Tested on 1,000 images a task, as it is tested hundreds of times.
        FollowedCondition("paper", {**PAPER, **PAPER_CHOICE[0], "test_per_task": 1000}, seeds=20),
        FollowedCondition(
            "what the figures show", {"paired": False}, first_seed=0, besides=IN_FIGURES
        ),
    )
}


# --- Training, followed closely -------------------------------------------------------------------


@dataclass
class Followed:
    """What a run has shown so far; a checkpoint is before training and after each task."""

    trajectory: list[list[float]] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    reached: list[bool] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)


def train_followed(
    condition: FollowedCondition, model: str, seed: int, data_dir: str | None
) -> Run:
    """Train one model of a condition as `train_model` does, and measure what happens inside.

    The run's record is a row of `per_seed` with what the table's rows have besides.
    """
    limit_blas_threads()
    config, mnist = condition.config(model), load_mnist(data_dir)
    if condition.besides == IN_FIGURES:
        run = train_model(config, ACTIVATIONS[model], seed, mnist)
        seen = seen_in_figures(run) if run.record["status"] == "ok" else {}
        return replace(run, record=run.record | {"seen": seen}, schedule=[], snapshot={})
    began = time.perf_counter()
    tasks, used = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed)
    network = build_network(model, [start[0][used], *start[1:]], config.k, seed)
    followed, failure, measures = Followed(), None, {}
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            follow(condition.besides, config, network, tasks, seed, followed)
        measures = measure_run(tasks, followed.checkpoints)
    except Diverged as error:
        failure = str(error)
    record = run_record(
        *(config, network.activation, seed),
        *(followed.matrix, followed.epochs, followed.reached, failure, tasks),
    )
    record |= {"trajectory": followed.trajectory, **measures}
    return Run(record, [], {}, time.perf_counter() - began)


def follow(
    besides: dict[str, Any],
    config: Config,
    network: Network,
    tasks: Sequence[Task],
    seed: int,
    followed: Followed,
) -> None:
    """Train both tasks in turn, with what is done besides; fills `followed`, raises `Diverged`."""

    def take_checkpoint() -> None:
        followed.checkpoints.append(Checkpoint(network.copy(), gates_on_tests(network, tasks)))

    model = network.activation.name
    followed.matrix.append(evaluate(network, tasks))
    take_checkpoint()
    for now in train_phases(network, tasks, config, seed):
        if now.stage == "start" and now.task == 2:
            followed.trajectory.append([0, *followed.matrix[-1]])
            if model == "kept":
                network.keep_winners()
        elif now.stage == "update":
            if model == "shifted":
                images = len(tasks[now.task - 1].train_labels)
                first = (now.task_update - 1) % math.ceil(images / config.batch) * config.batch
                shift_biases(network, min(config.batch, images - first), 1 / config.k)
            # Tested often at first, then less.
            if now.task == 2 and now.task_update % (2 if now.task_update <= 40 else 10) == 0:
                followed.trajectory.append([now.task_update, *evaluate(network, tasks)])
        elif now.task_over:
            followed.matrix.append(evaluate(network, tasks))
            followed.epochs.append(now.epoch)
            followed.reached.append(now.target_reached)
            check_finite(followed.matrix[-1], "test accuracy", now.task, now.epoch)
            take_checkpoint()
        now.lr = learning_rate(besides, config, now.task, now.task_update + 1)


def learning_rate(besides: dict[str, Any], config: Config, task: int, task_update: int) -> float:
    """The learning rate of one update of one task, each counted from 1."""
    if task == 1:
        return config.lr
    ramp = besides.get("ramp")
    return besides.get("second_lr", config.lr) * (min(1.0, task_update / ramp) if ramp else 1)


def seen_in_figures(run: Run) -> dict[str, float]:
    """What people say they see in a run's figures, as numbers."""
    trained, initial = run.snapshot["W1"], run.snapshot["W1_init"]
    layers = [segregation(*shares) for shares in run.snapshot["active"][-1]]
    return {
        "weight_spread": float(field_spread(trained).mean()),
        "change_spread": float(field_spread(trained - initial).mean()),
        **{f"{name}_{n}": v for n, layer in enumerate(layers, 1) for name, v in layer.items()},
    }


# --- Running --------------------------------------------------------------------------------------


def make_row(condition: FollowedCondition, run: Run) -> dict[str, Any]:
    """A run's row in the table."""
    besides = ("trajectory", "layers", "changed", "weights", "probe", "switch", "seen")
    return {
        **condition.identity(run.record["model"]),
        **{"kernel": run.record["blas_kernel"], "seconds": run.seconds},
        **{name: run.record[name] for name in (*RECORDED, *besides) if name in run.record},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the table does not have yet; the exit status."""
    description = "What competition does inside the network, over many paired seeds."
    options = study_parser(description, CONDITIONS).parse_args(arguments)
    if options.dask:
        raise InputError("--dask: workers do not have study/, so this study runs here; see --jobs")
    check_study(options, list(CONDITIONS), MECHANISM)
    for name in options.names or CONDITIONS:
        condition = CONDITIONS[name]
        finished = finished_runs(condition, by_key(MECHANISM.read()))
        missing = [
            (condition, model, seed, options.data_dir)
            for seed in condition.all_seeds[: options.n_seeds]
            for model in condition.activations
            if seed not in finished[model] and not options.finished_only
        ]
        runs = side_by_side(train_followed, missing, options.jobs or available_cores())
        for run in with_progress(runs, len(missing)):
            MECHANISM.append(make_row(condition, run))
            finished[run.record["model"]][run.record["seed"]] = run.record
        rows = [row for by_seed in finished.values() for row in by_seed.values()]
        planned = condition.seeds * len(condition.activations)
        failed = sum(row["status"] != "ok" for row in rows)
        print(f"{name}: {len(rows)} of {planned} runs, {failed} failed")
    return 0
