"""The open questions as families of conditions, and their training.

    python3 -m study conditions                      every family, every seed planned
    python3 -m study conditions --n-seeds 20 block   one family, no more than 20 seeds trained
    python3 -m study conditions --finished-only      what is there, no training

A family is a question, a condition a change of the configuration, with the number of seeds fixed
beforehand. All but the published batches are paired: the same images, initial weights and batches.
A run goes to study/results/conditions.csv as it ends, so a stopped study goes on where it was, and
conditions share the runs that they have in common.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from compete_to_compute import (
    ACTIVATIONS,
    Config,
    Run,
    available_cores,
    blas,
    changes,
    check_config,
    initial_weights,
    side_by_side,
    source_hash,
    train_run,
    with_progress,
)
from study.runs import ALL_THREE, CONDITIONS, PAIR, check_study, key, make_row, study_parser

Row = dict[str, Any]  # of the table of runs


@dataclass(frozen=True)
class Condition:
    """A change of the default configuration, and on which seeds it is tried.

    `changes` are `Config` fields of every activation, `of_model` those of one. `against` is the
    label of the condition in the same family that this one is compared with, seed by seed. With
    `kernel` only runs of that BLAS kernel count. `layer_scales` are factors on the initial weights
    of each layer, output layer included: the study hands in such weights, there is no option.
    """

    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    of_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: tuple[str, ...] = PAIR
    seeds: int = 40
    first_seed: int = 0
    against: str | None = None
    kernel: str | None = None
    layer_scales: tuple[float, ...] | None = None

    def config(self, model: str) -> Config:
        """The configuration of one activation."""
        return replace(Config(paired=True), **{**self.changes, **self.of_model.get(model, {})})

    @property
    def all_seeds(self) -> range:
        """The seeds planned."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def intervention(self) -> dict[str, Any] | None:
        """What the configuration does not say, as the table has it."""
        return {"layer_scales": list(self.layer_scales)} if self.layer_scales else None

    def keys(self, model: str) -> dict[int, tuple[Any, ...]]:
        """What the planned runs of one activation depend on, the kernel apart, by seed."""
        row = {"changes": changes(self.config(model)), "intervention": self.intervention}
        row |= {"source": source_hash(ACTIVATIONS[model].function), "kernel": None}
        return {seed: key({**row, "model": model, "seed": seed})[:-1] for seed in self.all_seeds}


Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Family:
    """A question and the conditions that answer it, over which p-values are adjusted.

    `reference`: the label of the condition that all others are compared with, unless they name
    another. `pooled`: the conditions are of one kind, and their mean over each seed is tested too.
    `exploratory`: it chooses what other seeds will test, and gives estimates without verdicts.
    `detailed`: the tables also show the activations one by one.
    """

    question: str
    conditions: Conditions
    reference: str | None = None
    pooled: bool = False
    exploratory: bool = False
    detailed: bool = False

    def base(self, condition: Condition) -> Condition | None:
        """The condition that one is compared with."""
        name = condition.against or self.reference
        if name == condition.label:
            return None
        return next((other for other in self.conditions if other.label == name), None)


# --- Declarations ---------------------------------------------------------------------------------

Changes = dict[str, Any]  # `Config` fields


def grid(**choices: Sequence[Any]) -> list[Changes]:
    """All combinations of some fields' values."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def vary(points: Iterable[Changes], common: Changes | None = None, **rest: Any) -> Conditions:
    """A condition for each of several changes, labelled by them; `common` are changes of all."""
    return tuple(
        Condition(
            ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items()),
            {**(common or {}), **point},
            **rest,
        )
        for point in points
    )


# E[max of k standard normals squared] / k over ReLU's 1/2 is the factor by which an LWTA layer's
# mean square at the start differs from ReLU's; for k = 2 it is 1.
MEAN_SQUARE_OF_MAXIMUM = {2: 1.0, 4: 1.5513, 8: 2.3997, 16: 3.4137}


def scaled(k: int) -> float:
    """The factor on LWTA's initial weights with which its activations start at ReLU's size."""
    return math.sqrt(0.5 * k / MEAN_SQUARE_OF_MAXIMUM[k])


def block_sizes() -> Iterator[Condition]:
    """LWTA with blocks of k, with as many units as ReLU or as many active ones."""
    yield Condition(BLOCKS_OF_2, {}, {"lwta": {"k": 2}})
    for k in (4, 8, 16):
        for name, shared, lwta_changes in (
            ("equal units", {}, {}),
            ("equal units, scaled start", {}, {"init_scale": scaled(k)}),
            ("equal active units", {}, {"hidden": 200 * k}),
            ("equal active units, ReLU as wide", {"hidden": 200 * k}, {}),
        ):
            yield Condition(f"k {k}, {name}", shared, {"lwta": {"k": k, **lwta_changes}})


def effective_rates(rate: float, least: float) -> Iterator[Condition]:
    """One lr / (1 - momentum), against the least momentum at which both networks train at it."""
    for m in MOMENTA:
        yield Condition(
            f"effective rate {rate}, momentum {m}",
            {"lr": round(rate * (1 - m), 4), "momentum": m, **NO_DECAY},
            against=f"effective rate {rate}, momentum {least}",
        )


def splits(pairs: Iterable[tuple[str, str]], **rest: Any) -> Conditions:
    """The digits in two tasks, in several ways."""
    return tuple(
        Condition(f"{tasks[0]} then {tasks[1]}", {"tasks": tasks}, **rest) for tasks in pairs
    )


def random_halves(draw: int) -> Iterator[tuple[str, str]]:
    """Ten random partitions of the digits into two tasks."""
    rng = np.random.default_rng(draw)
    for _ in range(10):
        order = rng.permutation(10)
        first, second = ("".join(map(str, sorted(half))) for half in (order[:5], order[5:]))
        yield first, second


LEARNING_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95)
DROPOUT_LR = 0.02  # the largest of family `dropout-rate` at which no run fails
BLOCKS_OF_2 = "k 2, equal units"
SPLIT_DIGITS = {"tasks": ("01", "23", "45", "67", "89")}
PERMUTED = {"permute": True, "tasks": ("0123456789", "0123456789")}
UNPAIRED = {"paired": False}
NO_DECAY = {"weight_decay": 0.0}
PAPER = {
    **{"train_per_class": 0, "test_per_task": 0, "head": "frozen", "weight_decay": 0.0},
    **{"target_loss": 0.03, "epochs": 30, "hidden": 1000},
}
# Of the settings of family `paper` at which every run of all three activations trains, the one at
# each depth with the smallest shares of runs short of the target loss, then with the fewest epochs.
PAPER_CHOICE = ({"depth": 2, "lr": 0.05, "momentum": 0.9}, {"depth": 3, "lr": 0.1, "momentum": 0.5})
# What the rule gave at depth 3 when most cells of the grid had one seed, and the seeds of the
# result were run there. Then LWTA diverged on another seed of that cell; its runs are still shown.
PAPER_FIRST_CHOICE = {"depth": 3, "lr": 0.2, "momentum": 0.5}
EXPLORED = {"first_seed": 1000}  # not the seeds of the result that a choice is for
# A first look at small initial weights: what it varies, and around what.
SMALL_START = {"epochs": 20, "init_scale": 0.2, "lr": 0.01}
START_SCALES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4)
START_RATES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)

FAMILIES = {
    "default": Family("Does LWTA forget less as published?", (Condition("default", seeds=200),)),
    "published": Family(
        "And with the published, unpaired batches?", (Condition("published", UNPAIRED, seeds=200),)
    ),
    "repeats": Family(
        "What does another BLAS kernel change on the same seeds?",
        tuple(
            condition
            for name, changes, n in (
                ("default", {}, 200),
                ("published", UNPAIRED, 200),
                ("ten seeds", UNPAIRED, 10),
            )
            for condition in (
                Condition(name, changes, seeds=n),
                Condition(f"{name} again", changes, seeds=n, kernel="Haswell", against=name),
            )
        ),
    ),
    "fresh-seeds": Family(
        "Do three results stand on seeds not used before?",
        (
            Condition("default", seeds=100, first_seed=5000),
            Condition("five tasks", SPLIT_DIGITS, first_seed=5000),
            Condition("depth 4", {"depth": 4}, first_seed=5000),
        ),
    ),
    "optimiser": Family(
        "Does the effect depend on learning rate and momentum?",
        vary(grid(lr=LEARNING_RATES, momentum=MOMENTA), NO_DECAY),
    ),
    "momentum": Family(
        "On seeds that the phase diagram did not use: does the sign follow momentum?",
        vary(
            [*grid(lr=(0.02, 0.05), momentum=[0.0]), *grid(lr=(0.01, 0.02), momentum=[0.95])],
            NO_DECAY,
            seeds=100,
            first_seed=200,
        ),
        "lr 0.02, momentum 0.0",
    ),
    "effective-rate": Family(
        "At the same lr / (1 - momentum), does momentum matter?",
        (*effective_rates(0.2, least=0.0), *effective_rates(0.5, least=0.5)),
    ),
    "restart": Family(
        "Is it the momentum carried over the task switch?",
        tuple(
            Condition(
                f"lr {lr}, momentum {m}, {'restarted' if restart else 'kept'}",
                {**NO_DECAY, "lr": lr, "momentum": m, "restart_momentum": restart},
                against=f"lr {lr}, momentum {m}, kept",
            )
            for lr, m in ((0.05, 0.9), (0.01, 0.95), (0.02, 0.95))
            for restart in (False, True)
        ),
    ),
    "block": Family("Do larger blocks forget less?", tuple(block_sizes()), BLOCKS_OF_2),
    "epochs": Family(
        "Does longer training matter?", vary(grid(epochs=(1, 2, 5, 10, 20, 50))), "epochs 5"
    ),
    "width": Family(
        "Does width matter?", vary(grid(hidden=(100, 200, 400, 800, 1600))), "hidden 400"
    ),
    "depth": Family("Does depth matter?", vary(grid(depth=(1, 2, 3, 4))), "depth 2"),
    "dropout-rate": Family(
        "At which learning rate do both train with dropout?",
        vary(
            grid(lr=(0.05, 0.02, 0.01, 0.005), input_dropout=(0.0, 0.2)),
            {"dropout": 0.5},
            seeds=8,
            **EXPLORED,
        ),
        exploratory=True,
    ),
    "dropout": Family(
        f"Does dropout help, at learning rate {DROPOUT_LR}?",
        vary(grid(dropout=(0.0, 0.2, 0.5), input_dropout=(0.0, 0.2)), {"lr": DROPOUT_LR}),
        "dropout 0.0, input dropout 0.0",
    ),
    "permuted": Family(
        "Is permuted MNIST harder?",
        tuple(
            Condition(
                f"{name}, {epochs} epochs",
                {"epochs": epochs, **changes},
                against=f"digits 0-4 then 5-9, {epochs} epochs",
            )
            for epochs in (5, 50)
            for name, changes in (
                ("digits 0-4 then 5-9", {}),
                ("ten digits, then permuted", PERMUTED),
            )
        ),
    ),
    "partition": Family(
        "Does it depend on which digits come first?",
        splits([("01234", "56789"), ("56789", "01234"), *random_halves(2013)]),
        "01234 then 56789",
        pooled=True,
    ),
    "partition-again": Family(
        "On seeds not used before, over ten random partitions (one of them also above)?",
        splits(random_halves(2014), seeds=20, first_seed=400),
        pooled=True,
    ),
    "five-task": Family(
        "And over five tasks of two digits (Split MNIST)?",
        (Condition("01 23 45 67 89", SPLIT_DIGITS),),
        detailed=True,
    ),
    "joint": Family(
        "What would both tasks at once give?",
        vary(grid(joint=(False, True)), activations=ALL_THREE),
        "joint False",
        detailed=True,
    ),
    "single-head": Family(
        "What collapses without the mask?",
        vary(grid(head=("masked", "single")), activations=ALL_THREE),
        "head masked",
        detailed=True,
    ),
    "scale": Family(
        "Is the effect larger at the paper's scale, with 50 epochs?",
        vary(
            [
                {"hidden": hidden, "depth": depth, "epochs": epochs}
                for hidden, depth, epochs in (
                    (400, 2, 5),
                    (400, 2, 50),
                    (800, 3, 50),
                    (1024, 3, 50),
                )
            ],
            seeds=20,
        ),
        "hidden 400, depth 2, epochs 5",
        detailed=True,
    ),
    "paper": Family(
        "At which learning rate and momentum does the paper's protocol train?",
        vary(
            grid(depth=(2, 3), lr=(0.05, 0.1, 0.2), momentum=(0.5, 0.9)),
            PAPER,
            seeds=4,
            activations=ALL_THREE,
            **EXPLORED,
        ),
        exploratory=True,
        detailed=True,
    ),
    "paper-chosen": Family(
        "Does the paper's protocol show the paper's gap?",
        vary((*PAPER_CHOICE, PAPER_FIRST_CHOICE), PAPER, seeds=20, activations=ALL_THREE),
        detailed=True,
    ),
    "paper-stopping": Family(
        "Does the paper's gap depend on the loss at which a task ends?",
        # Sigmoid takes minutes a run, and is left out.
        vary(grid(target_loss=(0.1, 0.03, 0.01)), {**PAPER, **PAPER_CHOICE[0]}, seeds=8),
        "target loss 0.03",
        detailed=True,
    ),
    "start-rate": Family(
        "At which initial weights and learning rates does competition save how much?",
        vary(grid(init_scale=START_SCALES, lr=START_RATES), SMALL_START, seeds=20, **EXPLORED),
        exploratory=True,
    ),
    "start-depth": Family(
        "How does that change with depth?",
        vary(
            [
                *grid(depth=(1, 2, 3, 4), init_scale=START_SCALES),
                *grid(depth=(1, 2, 3, 4), lr=sorted({*START_RATES} - {SMALL_START["lr"]})),
            ],
            SMALL_START,
            seeds=10,
            **EXPLORED,
        ),
        exploratory=True,
    ),
    "start-layers": Family(
        "Which layers' small start is it?",
        tuple(
            Condition(
                f"small: layer {' and '.join(map(str, small))}",
                {**SMALL_START, "init_scale": 1.0},
                layer_scales=tuple(0.2 if layer in small else 1.0 for layer in (1, 2, 3)),
                seeds=20,
                **EXPLORED,
            )
            for small in ((1,), (2,), (3,), (1, 2), (1, 3), (2, 3))
        ),
        exploratory=True,
    ),
    "start-variations": Family(
        "What else does the small start's gap depend on?",
        (
            Condition("as it is", SMALL_START, seeds=10, **EXPLORED),
            Condition(
                *("ReLU of 200 units", SMALL_START, {"relu": {"hidden": 200}}), seeds=10, **EXPLORED
            ),
            *vary(
                [
                    *(
                        {"lr": lr, "momentum": m}
                        for lr, m in ((0.1, 0.0), (0.05, 0.5), (0.001, 0.99))
                    ),
                    *(*grid(batch=(16, 256)), *grid(hidden=(100, 200, 800, 1600)), *grid(k=(4, 8))),
                    *(*grid(dropout=[0.5]), *grid(epochs=(1, 2, 5, 10, 50, 100))),
                    *grid(train_per_class=(100, 2000, 0)),
                ],
                SMALL_START,
                seeds=10,
                **EXPLORED,
            ),
        ),
        "as it is",
        exploratory=True,
    ),
}


# --- Training -------------------------------------------------------------------------------------


def by_key(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows of the table by what they depend on, the kernel apart, in the order of the file."""
    table: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        table.setdefault(key(row)[:-1], []).append(row)
    return table


def finished_runs(
    condition: Condition, table: dict[tuple[Any, ...], list[Row]]
) -> dict[str, dict[int, Row]]:
    """The planned runs of a condition that the table has, by activation and seed.

    Where several kernels have a run, the one that stands first in the file counts.
    """
    runs: dict[str, dict[int, Row]] = {}
    for model in condition.activations:
        runs[model] = {}
        for seed, wanted in condition.keys(model).items():
            for row in table.get(wanted, ()):
                if condition.kernel in (None, row["kernel"]):
                    runs[model][seed] = row
                    break
    return runs


Planned = tuple[Condition, str, int]  # with the activation and the seed


def missing_runs(conditions: Iterable[Condition], n_seeds: int | None) -> list[Planned]:
    """What is to be trained here, of `n_seeds` seeds a condition at most, each run once."""
    table = by_key(CONDITIONS.read())
    missing: dict[tuple[Any, ...], Planned] = {}
    for condition in conditions:
        for model in condition.activations:
            check_config(condition.config(model), [ACTIVATIONS[model]])
        if condition.kernel not in (None, blas()["blas_kernel"]):
            continue
        finished = finished_runs(condition, table)
        keys = {model: condition.keys(model) for model in condition.activations}
        for seed in condition.all_seeds[:n_seeds]:
            for model in condition.activations:
                if seed not in finished[model]:
                    missing.setdefault(keys[model][seed], (condition, model, seed))
    return list(missing.values())


def train_planned(
    number: int,
    config: Config,
    model: str,
    seed: int,
    data_dir: str | None,
    layer_scales: tuple[float, ...] | None,
) -> tuple[int, Run]:
    """Train one run in any process; `number` says which it is."""
    start = None
    if layer_scales:
        start = [
            initial_weights(replace(config, init_scale=scale), seed)[layer]
            for layer, scale in enumerate(layer_scales)
        ]
    return number, train_run(config, ACTIVATIONS[model], seed, data_dir, start)


def train(missing: Sequence[Planned], options: argparse.Namespace, client: Any) -> None:
    """Train these runs; each is in the table as soon as it ends."""
    arguments = [
        (number, condition.config(model), model, seed, options.data_dir, condition.layer_scales)
        for number, (condition, model, seed) in enumerate(missing)
    ]

    if client:
        import cloudpickle  # distributed's own

        # Workers have no study/, so what it adds travels by value. Distributed does that only to
        # a function that cannot be imported.
        cloudpickle.register_pickle_by_value(sys.modules[__package__])
    function = (lambda *values: train_planned(*values)) if client else train_planned
    jobs = options.jobs or available_cores()

    def added() -> Iterator[Run]:
        for number, run in side_by_side(function, arguments, jobs, client):
            condition, model, _ = missing[number]
            config = condition.config(model)
            CONDITIONS.append(make_row(config, run.record, run.seconds, condition.intervention))
            yield run

    for _ in with_progress(added(), len(missing)):
        pass


def state(name: str, table: dict[tuple[Any, ...], list[Row]]) -> str:
    """A line on how far a family is."""
    conditions = FAMILIES[name].conditions
    runs = [
        row
        for condition in conditions
        for by_seed in finished_runs(condition, table).values()
        for row in by_seed.values()
    ]
    planned = sum(condition.seeds * len(condition.activations) for condition in conditions)
    failed = sum(row["status"] != "ok" for row in runs)
    hours = sum(row["seconds"] or 0 for row in runs) / 3600
    return f"{name}: {len(runs)} of {planned} runs, {failed} failed, {hours:.1f} core-hours"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the families named, or all, are short of; the exit status."""
    parser = study_parser("Answer the open questions, each over many paired seeds.", FAMILIES)
    options = parser.parse_args(arguments)
    client = check_study(options, list(FAMILIES), CONDITIONS)
    names = options.names or list(FAMILIES)
    if not options.finished_only:
        conditions = [condition for name in names for condition in FAMILIES[name].conditions]
        train(missing_runs(conditions, options.n_seeds), options, client)
    table = by_key(CONDITIONS.read())
    print("\n".join(state(name, table) for name in names))
    return 0
