"""The open questions as families of conditions, and their training.

    python3 -m study conditions                      every family, every seed planned
    python3 -m study conditions --n-seeds 20 block   one family, no more than 20 seeds trained
    python3 -m study conditions --finished-only      what is there, no training
    python3 -m study conditions --file mine.py --out-dir mine
                                                     your own FAMILIES; what is here is left alone

A family is a question, a condition a change of the configuration, with the number of seeds fixed
beforehand. All but the published batches are paired: the same images, initial weights and batches.
A run goes to study/results/conditions.csv as it ends, so a stopped study goes on where it was, and
conditions share the runs that they have in common.
"""

from __future__ import annotations

import argparse
import math
import runpy
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from compete_to_compute import (
    Activation,
    Config,
    InputError,
    Run,
    aggregate,
    available_cores,
    blas,
    chance,
    changes,
    check_config,
    find_activation,
    initial_weights,
    one_line,
    print_aggregate,
    require,
    side_by_side,
    source_hash,
    train_run,
    with_progress,
)
from study.runs import (
    ALL_THREE,
    CONDITIONS,
    PAIR,
    Table,
    check_study,
    key,
    make_row,
    record_from,
    study_parser,
)

Row = dict[str, Any]  # of the table of runs
Rows = dict[tuple[Any, ...], list[Row]]  # by what they depend on, the kernel apart
Changes = dict[str, Any]  # of `Config` fields


@dataclass(frozen=True)
class Condition:
    """A change of the default configuration, and on which seeds it is tried.

    `changes` are `Config` fields of every activation, `of_model` those of one. `against` is the
    label of the condition in the same family that this one is compared with, seed by seed. With
    `kernel` only runs of that BLAS kernel count. `besides` is what no configuration can say; here
    "layer_scales", factors on the initial weights of each layer, output layer included.
    """

    label: str
    changes: Changes = field(default_factory=dict)
    of_model: dict[str, Changes] = field(default_factory=dict)
    activations: tuple[str, ...] = PAIR
    seeds: int = 40
    first_seed: int = 0
    against: str | None = None
    kernel: str | None = None
    besides: dict[str, Any] = field(default_factory=dict)

    def config(self, model: str) -> Config:
        """The configuration of one activation."""
        return replace(Config(paired=True), **{**self.changes, **self.of_model.get(model, {})})

    @property
    def all_seeds(self) -> range:
        """The seeds planned."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def identity(self, model: str) -> Row:
        """What all rows of one activation have in common."""
        return {
            "changes": changes(self.config(model)),
            "intervention": self.besides or None,
            "model": model,
            "source": source_hash(find_activation(model).function),
        }

    def keys(self, model: str) -> dict[int, tuple[Any, ...]]:
        """What the planned runs of one activation depend on, the kernel apart, by seed."""
        row = {**self.identity(model), "kernel": None}
        return {seed: key({**row, "seed": seed})[:-1] for seed in self.all_seeds}


@dataclass(frozen=True)
class Family:
    """A question and the conditions that answer it, over which p-values are adjusted.

    `pooled`: the conditions are of one kind, and their mean over each seed is tested too.
    `exploratory`: it chooses what other seeds will test, or explains, without verdicts.
    `declared`: it is judged by the stricter rule of declared.md, when all its runs are there.
    `accuracy_too`: the difference in average accuracy is tested in the family as well.
    """

    question: str
    conditions: tuple[Condition, ...]
    pooled: bool = False
    exploratory: bool = False
    declared: bool = False
    accuracy_too: bool = False


# --- Declarations ---------------------------------------------------------------------------------


def grid(**choices: Sequence[Any]) -> list[Changes]:
    """All combinations of some fields' values."""
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


def ask(
    question: str,
    points: Iterable[Changes] | dict[str, Changes],
    common: Changes | None = None,
    **kind: bool,
) -> Family:
    """A family with a condition for each point, labelled by its changes unless it has a label.

    Points and `common`, what all have in common, are fields of `Config` and of `Condition` alike;
    `kind` are the other fields of `Family`. An exploratory family is on seeds of its own.
    """
    if isinstance(points, dict):
        points = [{"label": label, **point} for label, point in points.items()]
    own, conditions = {each.name for each in fields(Condition)}, []
    common = {"first_seed": 1000 if kind.get("exploratory") else 0, **(common or {})}
    for point in points:
        label = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in point.items())
        values = {"label": label, **common, **point}
        changed = {name: values.pop(name) for name in [*values] if name not in own}
        conditions.append(Condition(changes=changed, **values))
    return Family(question, tuple(conditions), **kind)


def scaled(k: int) -> float:
    """The factor on LWTA's initial weights with which its activations start at ReLU's size."""
    return math.sqrt(0.5 * k / MEAN_SQUARE_OF_MAXIMUM[k])


def splits(*pairs: Sequence[str]) -> dict[str, Changes]:
    """The digits in two tasks, in several ways, with labels."""
    return {f"{first} then {second}": {"tasks": (first, second)} for first, second in pairs}


def random_splits(draw: int, n: int = 10) -> dict[str, Changes]:
    """Random partitions of the digits into two tasks, with labels."""
    rng = np.random.default_rng(draw)
    orders = [rng.permutation(10) for _ in range(n)]
    return splits(*(["".join(map(str, sorted(half))) for half in np.split(o, 2)] for o in orders))


# E[max of k standard normals squared] / k over ReLU's 1/2 is the factor by which an LWTA layer's
# mean square at the start differs from ReLU's; for k = 2 it is 1.
MEAN_SQUARE_OF_MAXIMUM = {2: 1.0, 4: 1.5513, 8: 2.3997, 16: 3.4137}
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95)
DROPOUT_LR = 0.02  # the largest of family `dropout-rate` at which no run fails
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
# A first look at small initial weights: what it varies, and around what.
SMALL_START = {"epochs": 20, "init_scale": 0.2, "lr": 0.01}
PAPER_START = {**PAPER, "batch": 100, "epochs": 100}
START_SCALES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4)
START_RATES = (0.0025, 0.005, 0.01, 0.02, 0.05, 0.1)

FAMILIES = {
    "default": ask("Does LWTA forget less as published?", {"default": {}}, {"seeds": 200}),
    "published": ask(
        "And with the published, unpaired batches?", {"published": UNPAIRED}, {"seeds": 200}
    ),
    "repeats": ask(
        "What does another BLAS kernel change on the same seeds?",
        {
            f"{name}{again}": {
                **{"paired": name == "default", "seeds": n, "kernel": kernel, "against": name}
            }
            for name, n in {"default": 200, "published": 200, "ten seeds": 10}.items()
            for again, kernel in (("", None), (" again", "Haswell"))
        },
    ),
    "fresh-seeds": ask(
        "Do three results stand on seeds not used before?",
        {"default": {"seeds": 100}, "five tasks": SPLIT_DIGITS, "depth 4": {"depth": 4}},
        {"first_seed": 5000},
    ),
    "optimiser": ask(
        "Does the effect depend on learning rate and momentum?",
        grid(lr=(0.01, 0.02, 0.05, 0.1, 0.2), momentum=MOMENTA),
        NO_DECAY,
    ),
    "momentum": ask(
        "On seeds that the phase diagram did not use: does the sign follow momentum?",
        [*grid(lr=(0.02, 0.05), momentum=[0.0]), *grid(lr=(0.01, 0.02), momentum=[0.95])],
        {**NO_DECAY, "against": "lr 0.02, momentum 0.0", "seeds": 100, "first_seed": 200},
    ),
    "effective-rate": ask(
        "At the same lr / (1 - momentum), does momentum matter?",
        {
            f"effective rate {rate}, momentum {m}": {
                **{"lr": round(rate * (1 - m), 4), "momentum": m},
                "against": f"effective rate {rate}, momentum {least}",
            }
            for rate, least in ((0.2, 0.0), (0.5, 0.5))  # the least at which both networks train
            for m in MOMENTA
        },
        NO_DECAY,
    ),
    "restart": ask(
        "Is it the momentum carried over the task switch?",
        {
            f"lr {lr}, momentum {m}, {word}": {
                **{"lr": lr, "momentum": m, "restart_momentum": word == "restarted"},
                "against": f"lr {lr}, momentum {m}, kept",
            }
            for lr, m in ((0.05, 0.9), (0.01, 0.95), (0.02, 0.95))
            for word in ("kept", "restarted")
        },
        NO_DECAY,
    ),
    "block": ask(
        "Do larger blocks forget less?",
        {
            f"k {k}, {name}": {**shared, "of_model": {"lwta": {"k": k, **lwta}}}
            for k in (2, 4, 8, 16)
            for name, shared, lwta in (
                ("equal units", {}, {}),
                ("equal units, scaled start", {}, {"init_scale": scaled(k)}),
                ("equal active units", {}, {"hidden": 200 * k}),
                ("equal active units, ReLU as wide", {"hidden": 200 * k}, {}),
            )
            if k > 2 or name == "equal units"  # at k = 2 all four are the same
        },
        {"against": "k 2, equal units"},
    ),
    "epochs": ask(
        "Does longer training matter?", grid(epochs=(1, 2, 5, 10, 20, 50)), {"against": "epochs 5"}
    ),
    "width": ask(
        "Does width matter?", grid(hidden=(100, 200, 400, 800, 1600)), {"against": "hidden 400"}
    ),
    "depth": ask("Does depth matter?", grid(depth=(1, 2, 3, 4)), {"against": "depth 2"}),
    "dropout-rate": ask(
        "At which learning rate do both train with dropout?",
        grid(lr=(0.05, 0.02, 0.01, 0.005), input_dropout=(0.0, 0.2)),
        {"seeds": 8, "dropout": 0.5},
        exploratory=True,
    ),
    "dropout": ask(
        f"Does dropout help, at learning rate {DROPOUT_LR}?",
        grid(dropout=(0.0, 0.2, 0.5), input_dropout=(0.0, 0.2)),
        {"lr": DROPOUT_LR, "against": "dropout 0.0, input dropout 0.0"},
    ),
    "permuted": ask(
        "Is permuted MNIST harder?",
        {
            f"{name}, {n} epochs": {**tasks, "epochs": n, "against": f"{digits}, {n} epochs"}
            for digits in ["digits 0-4 then 5-9"]
            for n in (5, 50)
            for name, tasks in ((digits, {}), ("ten digits, then permuted", PERMUTED))
        },
    ),
    "partition": ask(
        "Does it depend on which digits come first?",
        splits(("01234", "56789"), ("56789", "01234")) | random_splits(2013),
        {"against": "01234 then 56789"},
        pooled=True,
    ),
    "partition-again": ask(
        "On seeds not used before, over ten random partitions (one of them also above)?",
        random_splits(2014),
        {"seeds": 20, "first_seed": 400},
        pooled=True,
    ),
    "five-task": ask(
        "And over five tasks of two digits (Split MNIST)?", {"01 23 45 67 89": SPLIT_DIGITS}
    ),
    "joint": ask(
        "What would both tasks at once give?",
        grid(joint=(False, True)),
        {"activations": ALL_THREE, "against": "joint False"},
    ),
    "single-head": ask(
        "What collapses without the mask?",
        grid(head=("masked", "single")),
        {"activations": ALL_THREE, "against": "head masked"},
    ),
    "scale": ask(
        "Is the effect larger at the paper's scale, with 50 epochs?",
        [
            *grid(hidden=[400], depth=[2], epochs=(5, 50)),
            *grid(hidden=(800, 1024), depth=[3], epochs=[50]),
        ],
        {"seeds": 20, "against": "hidden 400, depth 2, epochs 5"},
    ),
    "paper": ask(
        "At which learning rate and momentum does the paper's protocol train?",
        grid(depth=(2, 3), lr=(0.05, 0.1, 0.2), momentum=(0.5, 0.9)),
        {"seeds": 4, "activations": ALL_THREE, **PAPER},
        exploratory=True,
    ),
    "paper-chosen": ask(
        "Does the paper's protocol show the paper's gap?",
        (*PAPER_CHOICE, PAPER_FIRST_CHOICE),
        {"seeds": 20, "activations": ALL_THREE, **PAPER},
    ),
    "paper-stopping": ask(
        "Does the paper's gap depend on the loss at which a task ends?",
        grid(target_loss=(0.1, 0.03, 0.01)),  # without sigmoid, which takes minutes a run
        {"seeds": 8, "against": "target loss 0.03", **PAPER, **PAPER_CHOICE[0]},
    ),
    "start-rate": ask(
        "At which initial weights and learning rates does competition save how much?",
        grid(init_scale=START_SCALES, lr=START_RATES),
        {"seeds": 20, **SMALL_START},
        exploratory=True,
    ),
    "start-depth": ask(
        "How does that change with depth?",
        [
            *grid(depth=(1, 2, 3, 4), init_scale=START_SCALES),
            *grid(depth=(1, 2, 3, 4), lr=(0.0025, 0.005, 0.02, 0.05, 0.1)),
        ],
        {"seeds": 10, **SMALL_START},
        exploratory=True,
    ),
    "start-layers": ask(
        "Which layers' small start is it?",
        {
            f"small: layer {' and '.join(small)}": {
                "besides": {"layer_scales": [0.2 if layer in small else 1.0 for layer in "123"]}
            }
            for small in ("1", "2", "3", "12", "13", "23")
        },
        {"seeds": 20, **SMALL_START, "init_scale": 1.0},
        exploratory=True,
    ),
    "start-variations": ask(
        "What else does the small start's gap depend on?",
        [
            {"label": "as it is"},
            {"label": "ReLU of 200 units", "of_model": {"relu": {"hidden": 200}}},
            *({"lr": r, "momentum": m} for r, m in ((0.1, 0.0), (0.05, 0.5), (0.001, 0.99))),
            *(*grid(batch=(16, 256)), *grid(hidden=(100, 200, 800, 1600)), *grid(k=(4, 8))),
            *(*grid(dropout=[0.5]), *grid(epochs=(1, 2, 5, 10, 50, 100))),
            *grid(train_per_class=(100, 2000, 0)),
        ],
        {"seeds": 10, "against": "as it is", **SMALL_START},
        exploratory=True,
    ),
    # Declared in declared.md before the first of their seeds was trained.
    "small-start": ask(
        "From small initial weights, does LWTA forget less?",
        {"the small setting": {}},
        {"seeds": 100, "first_seed": 3000, **SMALL_START},
        declared=True,
    ),
    "small-depth": ask(
        "And with how many hidden layers?",
        grid(depth=(1, 3, 4)),
        {"first_seed": 3100, **SMALL_START},
        declared=True,
    ),
    "small-tasks": ask(
        "And with which tasks and output layers?",
        {
            **random_splits(3000, 5),
            **splits(("56789", "01234")),
            "five tasks of two digits": SPLIT_DIGITS,
            "permuted digits": PERMUTED,
            **{f"head {head}": {"head": head} for head in ("single", "frozen")},
        },
        {"first_seed": 3200, **SMALL_START},
        declared=True,
    ),
    # By the rule of declared.md, from `start-rate`.
    "small-best": ask(
        "And with each network at its own best start and learning rate?",
        {
            "each at its best": {
                "of_model": {
                    "relu": {"init_scale": 1.4, "lr": 0.01},
                    "lwta": {"init_scale": 1.4, "lr": 0.02},
                }
            }
        },
        {"first_seed": 3300, **SMALL_START},
        declared=True,
        accuracy_too=True,
    ),
    "bridge": ask(
        "What carries the gap between the small setting and the published one?",
        grid(init_scale=(1.0, 0.2), lr=(0.05, 0.01), epochs=(5, 20)),
        {"first_seed": 3400},
        declared=True,
    ),
    "paper-grid": ask(
        "In the paper's protocol, at which initial weights and learning rates is there a gap?",
        grid(depth=(2, 3), init_scale=(0.1, 0.2, 0.3, 0.4, 1.0), lr=(0.003, 0.01, 0.03)),
        {"seeds": 3, "first_seed": 1100, **PAPER_START},
        exploratory=True,
    ),
    "paper-start": ask(
        "In the paper's protocol, does LWTA forget less from small initial weights?",
        [
            {"depth": depth, "init_scale": scale}
            for depth, scale in ((2, 0.2), (2, 0.3), (2, 1.0), (3, 0.2))
        ],
        {"seeds": 20, "first_seed": 2000, "lr": 0.01, **PAPER_START},
        declared=True,
    ),
    "paper-sigmoid": ask(
        "What does sigmoid do there?",
        [{"depth": 2, "init_scale": 0.2}],
        {
            **{"seeds": 10, "first_seed": 2000, "activations": ALL_THREE},
            **{"lr": 0.01, **PAPER_START},
        },
    ),
    "small-loss": ask(
        "And if both networks train to a loss of 0.03?",
        {"to a loss of 0.03": {"target_loss": 0.03}},
        {"first_seed": 4000, **SMALL_START, "epochs": 100},
        exploratory=True,
    ),
    "start-function": ask(
        "Do starts of the same function forget alike?",
        {
            f"layers at {', '.join(map(str, scales))}": {"besides": {"layer_scales": scales}}
            for scales in ([0.04, 0.2, 1.0], [0.2, 0.2, 0.2], [1.0, 0.2, 0.04])
        },
        {"first_seed": 4000, **SMALL_START, "init_scale": 1.0},
        exploratory=True,
    ),
}


# --- Training -------------------------------------------------------------------------------------


def by_key(rows: Iterable[Row]) -> Rows:
    """Rows of the table by what they depend on, the kernel apart, in the order of the file."""
    table: Rows = {}
    for row in rows:
        table.setdefault(key(row)[:-1], []).append(row)
    return table


def finished_runs(condition: Condition, table: Rows) -> dict[str, dict[int, Row]]:
    """The planned runs of a condition that the table has, by activation and seed.

    Where several kernels have a run, the one that stands first in the file counts.
    """

    def found(wanted: tuple[Any, ...]) -> Row | None:
        rows = (row for row in table.get(wanted, ()) if condition.kernel in (None, row["kernel"]))
        return next(rows, None)

    return {
        model: {
            seed: row for seed, wanted in condition.keys(model).items() if (row := found(wanted))
        }
        for model in condition.activations
    }


Planned = tuple[Condition, str, int]  # with the activation and the seed


def missing_runs(
    conditions: Iterable[Condition], n_seeds: int | None, runs: Table | None = None
) -> list[Planned]:
    """What is to be trained here, of `n_seeds` seeds a condition at most, each run once."""
    table = by_key((runs or CONDITIONS).read())
    missing: dict[tuple[Any, ...], Planned] = {}
    for condition in conditions:
        if condition.kernel not in (None, blas()["blas_kernel"]):
            continue
        finished = finished_runs(condition, table)
        keys = {model: condition.keys(model) for model in condition.activations}
        for seed, model in product(condition.all_seeds[:n_seeds], condition.activations):
            if seed not in finished[model]:
                missing.setdefault(keys[model][seed], (condition, model, seed))
    return list(missing.values())


def train_planned(
    identity: Row, config: Config, activation: Activation, seed: int, data_dir: str | None
) -> tuple[Row, Run]:
    """Train one run in any process, and say what was trained."""
    scales = (identity["intervention"] or {}).get("layer_scales", ())
    start = [
        initial_weights(replace(config, init_scale=scale), seed)[layer]
        for layer, scale in enumerate(scales)
    ]
    return identity, train_run(config, activation, seed, data_dir, start or None)


def train(
    missing: Sequence[Planned], options: argparse.Namespace, client: Any, table: Table
) -> None:
    """Train these runs; each is in the table as soon as it ends."""
    arguments = [
        (c.identity(model), c.config(model), find_activation(model), seed, options.data_dir)
        for c, model, seed in missing
    ]
    if client:
        import cloudpickle  # distributed's own

        # Workers have no study/, so what it adds travels by value. Distributed does that only to
        # a function that cannot be imported.
        cloudpickle.register_pickle_by_value(sys.modules[__package__])
    function = (lambda *values: train_planned(*values)) if client else train_planned
    runs = side_by_side(function, arguments, options.jobs or available_cores(), client)
    for identity, run in with_progress(runs, len(missing)):
        table.append(make_row(identity, run.record, run.seconds))


def own_families(file: Path) -> dict[str, Family]:
    """The `FAMILIES` of a user's file, made with `ask`; their activations must keep the contract.

    Raises `InputError` with whatever is wrong in it.
    """
    try:
        families: dict[str, Family] = dict(runpy.run_path(str(file))["FAMILIES"])
        for condition in chain(*(family.conditions for family in families.values())):
            for model in condition.activations:
                check_config(condition.config(model), [find_activation(model)])
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise InputError(f"--file {file}: {one_line(error)}") from None
    return families


def show(condition: Condition, table: Rows) -> None:
    """What every model of a condition forgets, and each pair's verdict."""
    runs = finished_runs(condition, table)
    records = [record_from(row) for by_seed in runs.values() for row in by_seed.values()]
    config = condition.config(condition.activations[0])
    print(f"\n{condition.label}")
    print_aggregate(aggregate(records, condition.activations, chance(config)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the families named, or all, are short of; the exit status."""
    parser = study_parser("Answer the open questions, each over many paired seeds.", FAMILIES)
    parser.add_argument(
        "--file", type=Path, help="your own FAMILIES, a Python file, with --out-dir"
    )
    parser.add_argument("--out-dir", type=Path, help="folder of their table, conditions.csv")
    options = parser.parse_args(arguments)
    require(bool(options.file) == bool(options.out_dir), "--file and --out-dir go together")
    there = own_families(options.file) if options.file else FAMILIES
    runs = Table(options.out_dir / "conditions.csv") if options.file else CONDITIONS
    client = check_study(options, list(there), runs)
    families = {name: there[name].conditions for name in options.names or there}
    if not options.finished_only:
        missing = missing_runs(chain(*families.values()), options.n_seeds, runs)
        train(missing, options, client, runs)
    table = by_key(runs.read())
    for name, conditions in families.items():
        finished = chain(*(finished_runs(c, table).values() for c in conditions))
        rows = [row for by_seed in finished for row in by_seed.values()]
        planned = sum(c.seeds * len(c.activations) for c in conditions)
        failed = sum(row["status"] != "ok" for row in rows)
        hours = sum(row["seconds"] or 0 for row in rows) / 3600
        print(f"{name}: {len(rows)} of {planned} runs, {failed} failed, {hours:.1f} core-hours")
        for condition in conditions if options.file else ():
            show(condition, table)
    return 0
