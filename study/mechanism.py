"""Why: what competition does inside the network, and what carries its effect on forgetting.

A condition is a configuration and an *intervention*, what is done besides; its models train the
same seeds on the same images, weights and batches. Through Task 2 both accuracies are followed
update by update; before training and after each task `measures` looks inside.

The intervention of a row is None, or names the `PROGRAMS` that ran, each with its value; or it is
`IN_FIGURES`: trained by `train_model`, and measured as people see its figures. Beside the columns
of every table of runs a row has `trajectory`, rows (update of Task 2, accuracy on Task 1, on
Task 2) from the switch on, and what `measure_run` gives; or else `seen`, what `seen_in_figures`
gives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    Moment,
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
from study.conditions import SMALL_START, START_SCALES, Condition, by_key, finished_runs
from study.measures import Checkpoint, gates_on_tests, measure_run
from study.runs import MECHANISM, PAIR, check_study, make_row, study_parser
from visualize_compete_to_compute import field_spread, segregation

# --- Networks that have a part of what competition has --------------------------------------------

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

    As sparse as LWTA, but nothing competes any more: `chooser`, a copy of the network at one
    moment, goes on choosing, and nothing that is learned later changes its choice.
    """

    chooser: Network | None = None

    def copy(self) -> Network:
        """The network as it is now; activation and chooser are the same objects."""
        twin = Network([w[:, :-1].T for w in self.weights], self.activation, self.k, self.dtype)
        twin.parameters[:] = self.parameters
        twin.chooser = self.chooser
        return twin

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


AT_SWITCH, AT_RANDOM = "kept from the switch on", "drawn at random"
CONTROLS: dict[str, dict[str, Any]] = {  # by model, their interventions
    "kept": {"winners": AT_SWITCH},
    "fixed": {"winners": "of the untrained network"},
    "random": {"winners": AT_RANDOM},
    "shifted": {"biases": "moved until 1 / k of the units are active"},
}
MODELS = {model: ACTIVATIONS[model] for model in PAIR} | {
    name: Activation(name, label, function, PAIRED_BATCH_STREAM)
    for name, label, function in (
        ("kept", "winners kept from the switch on", ACTIVATIONS["lwta"].function),
        ("fixed", "winners of the untrained network", ACTIVATIONS["lwta"].function),
        ("random", "random winner", random_winner),
        ("shifted", "ReLU, half active", ACTIVATIONS["relu"].function),
    )
}

# --- Programs: what is done while a network trains ------------------------------------------------


@dataclass(frozen=True)
class Training:
    """What is trained, how, and from which seed."""

    network: Network
    tasks: Sequence[Task]
    config: Config
    seed: int


def choose_winners(training: Training, now: Moment, how: str) -> None:
    """Other winners than competition's, from the start or from the switch on."""
    network = training.network
    if (now.stage, now.task) == ("start", 2 if how == AT_SWITCH else 1):
        if how == AT_RANDOM:
            rng = np.random.default_rng([training.seed, RANDOM_WINNER_STREAM])
            function = partial(random_winner, rng=rng)
            network.activation = replace(network.activation, function=function)
        else:
            network.chooser = network.copy()


def shift_biases(training: Training, now: Moment, goal: str) -> None:
    """Move each hidden layer's biases together, so that the share 1 / k of its units fires.

    A step in proportion to what is missing in the last batch. With unit spread of the
    pre-activations the share follows within some 25 updates.
    """
    if now.stage != "update":
        return
    network, batch = training.network, training.config.batch
    images = len(training.tasks[now.task - 1].train_labels)
    first = (now.task_update - 1) % math.ceil(images / batch) * batch
    gates = network.workspace(min(batch, images - first)).gates
    for weights, gate in zip(network.weights, gates, strict=False):
        weights[:, -1] += network.dtype(0.1 * (1 / training.config.k - gate.mean()))


def set_second_rows(training: Training, now: Moment, scale: float) -> None:
    """Task 2 begins with output rows of its own from initial weights of another scale."""
    if (now.stage, now.task) == ("start", 2):
        rows = training.tasks[1].classes
        start = initial_weights(replace(training.config, init_scale=scale), training.seed)[-1]
        training.network.weights[-1][rows, :-1] = start.T[rows]


# Each is called with its value in the intervention when a task starts, after each update and after
# each epoch; see `train_phases`.
PROGRAMS: dict[str, Callable[[Training, Moment, Any], None]] = {
    "winners": choose_winners,
    "biases": shift_biases,
    "second_rows": set_second_rows,
}


# --- Conditions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FollowedCondition(Condition):
    """A condition of this study; `besides` is what is done besides, on seeds that chose nothing."""

    first_seed: int = 500

    def identity(self, model: str) -> dict[str, Any]:
        """What all rows of a model have in common."""
        return {
            "changes": changes(self.config(model)),
            "intervention": {**self.besides, **CONTROLS.get(model, {})} or None,
            "model": model,
            "source": source_hash(MODELS[model].function),
        }


IN_FIGURES = {"measured": "in figures"}
CONDITIONS = {
    condition.label: condition
    for condition in (
        FollowedCondition("default", activations=tuple(MODELS)),
        FollowedCondition(
            "lr 0.05, momentum 0.95",  # where LWTA begins to fail
            {"momentum": 0.95, "weight_decay": 0.0},
            activations=("relu", "lwta", "kept", "fixed"),
        ),
        # ReLU has some 150 of its 400 units active in a layer.
        FollowedCondition("LWTA with 304 units", of_model={"lwta": {"hidden": 304}}),
        FollowedCondition("LWTA with 200 units", of_model={"lwta": {"hidden": 200}}),
        FollowedCondition("four layers", {"depth": 4}),
        FollowedCondition(
            "what the figures show", {"paired": False}, first_seed=0, besides=IN_FIGURES
        ),
        # Small initial weights: see declared.md.
        FollowedCondition(
            "what the figures show, small start", SMALL_START, first_seed=4000, besides=IN_FIGURES
        ),
        *(
            FollowedCondition(
                f"init scale {scale}, {depth} {'layer' if depth == 1 else 'layers'}",
                {**SMALL_START, "init_scale": scale, "depth": depth},
                activations=tuple(MODELS) if (scale, depth) == (0.2, 2) else PAIR,
                first_seed=4000,
                seeds=40 if scale in (0.2, 1.0) else 20,
            )
            for scale in START_SCALES
            for depth in (1, 2, 3)
            if depth == 2 or scale in (0.2, 1.0)
        ),
        *(
            FollowedCondition(
                f"init scale {scale}, 2 layers, Task 2's output rows at {other}",
                {**SMALL_START, "init_scale": scale},
                besides={"second_rows": other},
                first_seed=4000,
            )
            for scale, other in ((0.2, 1.0), (1.0, 0.2))
        ),
    )
}


# --- Training, followed closely -------------------------------------------------------------------


def train_followed(
    condition: FollowedCondition, model: str, seed: int, data_dir: str | None
) -> dict[str, Any]:
    """Train one model of a condition and measure what happens inside: its row of the table."""
    limit_blas_threads()
    config, mnist, identity = (
        condition.config(model),
        load_mnist(data_dir),
        condition.identity(model),
    )
    if condition.besides == IN_FIGURES:
        run = train_model(config, ACTIVATIONS[model], seed, mnist)
        inside = {"seen": seen_in_figures(run) if run.record["status"] == "ok" else {}}
        record, seconds = run.record, run.seconds
    else:
        began = time.perf_counter()
        tasks, used = make_tasks(config, seed, mnist)
        start = initial_weights(config, seed)
        network = Network([start[0][used], *start[1:]], MODELS[model], config.k)
        training = Training(network, tasks, config, seed)
        record, inside = follow(training, identity["intervention"] or {})
        seconds = time.perf_counter() - began
    return {**make_row(identity, record, seconds), **inside}


def follow(training: Training, intervention: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Train both tasks in turn as `train_model` does, with what is done besides.

    Returns the record, a row of `per_seed`, and what was measured inside.
    """
    network, tasks, config = training.network, training.tasks, training.config
    tests: list[tuple[Moment, list[float]]] = []  # before training and after each task
    checkpoints: list[Checkpoint] = []
    inside: dict[str, Any] = {"trajectory": []}
    failure = None
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            for now in train_phases(network, tasks, config, training.seed):
                for name, value in intervention.items():
                    PROGRAMS[name](training, now, value)
                if now.is_checkpoint:
                    tests.append((replace(now), evaluate(network, tasks)))
                    check_finite(tests[-1][1], "test accuracy", now.task, now.epoch)
                    checkpoints.append(Checkpoint(network.copy(), gates_on_tests(network, tasks)))
                elif now.task == 2 and now.stage == "start":
                    inside["trajectory"].append([0, *tests[-1][1]])
                elif now.task == 2 and now.stage == "update" and is_followed(now.task_update):
                    inside["trajectory"].append([now.task_update, *evaluate(network, tasks)])
        inside |= measure_run(tasks, checkpoints)
    except Diverged as error:
        failure = str(error)
    record = run_record(config, network.activation, training.seed, tests, failure, tasks)
    return record, inside


def is_followed(update: int) -> bool:
    """Whether an update of Task 2 is followed by a test: often at first, then less."""
    return update % (2 if update <= 40 else 10) == 0


def seen_in_figures(run: Run) -> dict[str, float]:
    """What people say they see in a run's figures, as numbers."""
    trained, initial = run.snapshot["W1"], run.snapshot["W1_init"]
    layers = [segregation(*shares) for shares in run.snapshot["active"][-1]]
    return {
        "change_spread": float(field_spread(trained - initial).mean()),
        **{f"{name}_{n}": v for n, layer in enumerate(layers, 1) for name, v in layer.items()},
    }


# --- Running --------------------------------------------------------------------------------------


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
        rows = side_by_side(train_followed, missing, options.jobs or available_cores())
        for row in with_progress(rows, len(missing)):
            MECHANISM.append(row)
            finished[row["model"]][row["seed"]] = row
        every = [row for by_seed in finished.values() for row in by_seed.values()]
        planned = condition.seeds * len(condition.activations)
        failed = sum(row["status"] != "ok" for row in every)
        print(f"{name}: {len(every)} of {planned} runs, {failed} failed")
    return 0
