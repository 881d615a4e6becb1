"""The open questions as families of conditions.

A family is a question, a condition a change of the configuration, with the number of seeds fixed
beforehand. All but the published batches are paired: the same images, initial weights and batches.
Conditions share the runs that they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np

from compete.runs import Planned, Row, first_of_each, key
from compete_to_compute import Activation, Config, find_activation, identity
from study.networks import CONTROLS
from study.runs import ALL_THREE, PAIR

Changes = dict[str, Any]  # of `Config` fields
Finished = Callable[[str | None], Mapping[str, Row]]  # rows by `key`, of one BLAS kernel or of all
IN_FIGURES = {"measured": "in figures"}


@dataclass(frozen=True)
class Condition:
    """A change of the default configuration, and on which seeds it is tried.

    `changes` are `Config` fields of every activation, `of_model` those of one. `against` is the
    label of the condition in the same family that this one is compared with, seed by seed. With
    `kernel` only runs of that BLAS kernel count. `besides` is what no configuration can say, see
    `networks`.
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

    def plan(self, model: str, data_dir: str | None = None) -> dict[int, Planned]:
        """The runs of one activation by seed; `train(*arguments)` trains them."""
        config, activation = self.config(model), activation_of(model)
        besides = {**self.besides, **CONTROLS.get(model, (None, {}))[1]} or None
        run = identity(config, activation, self.first_seed, besides)
        return {
            seed: Planned({**run, "seed": seed}, (config, activation, seed, besides, data_dir))
            for seed in range(self.first_seed, self.first_seed + self.seeds)
        }

    def keys(self, model: str) -> dict[int, str]:
        """The keys of one activation's runs, by seed."""
        return {seed: key(run.identity) for seed, run in self.plan(model).items()}

    def finished(self, rows: Finished) -> dict[str, dict[int, Row]]:
        """The rows of its runs that are there, by activation and seed."""
        there = rows(self.kernel)
        return {
            model: {seed: there[k] for seed, k in self.keys(model).items() if k in there}
            for model in self.activations
        }

    def all_finished(self, rows: Finished) -> list[Row]:
        """The same rows in a list."""
        return [row for by_seed in self.finished(rows).values() for row in by_seed.values()]


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


def activation_of(model: str) -> Activation:
    """The activation of a model: of a control, of the experiment, or of a user's file."""
    return CONTROLS[model][0] if model in CONTROLS else find_activation(model)


def finished_in(rows: Sequence[Row]) -> Finished:
    """Rows by `key`; where several kernels have a run, the one that stands first counts."""
    return cache(
        lambda kernel: first_of_each(r for r in rows if kernel in (None, r["blas_kernel"]))
    )


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


explore, declare = partial(ask, exploratory=True), partial(ask, declared=True)


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
REPEATED = (("default", True, 200), ("published", False, 200), ("ten seeds", False, 10))
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
BEST_STARTS = {  # by the rule of declared.md, from family `start-rate`
    "relu": {"init_scale": 1.4, "lr": 0.01},
    "lwta": {"init_scale": 1.4, "lr": 0.02},
}
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
            name + again: {"paired": paired, "seeds": n, "kernel": kernel, "against": name}
            for name, paired, n in REPEATED
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
    "dropout-rate": explore(
        "At which learning rate do both train with dropout?",
        grid(lr=(0.05, 0.02, 0.01, 0.005), input_dropout=(0.0, 0.2)),
        {"seeds": 8, "dropout": 0.5},
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
    "paper": explore(
        "At which learning rate and momentum does the paper's protocol train?",
        grid(depth=(2, 3), lr=(0.05, 0.1, 0.2), momentum=(0.5, 0.9)),
        {"seeds": 4, "activations": ALL_THREE, **PAPER},
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
    "start-rate": explore(
        "At which initial weights and learning rates does competition save how much?",
        grid(init_scale=START_SCALES, lr=START_RATES),
        {"seeds": 20, **SMALL_START},
    ),
    "start-depth": explore(
        "How does that change with depth?",
        [
            *grid(depth=(1, 2, 3, 4), init_scale=START_SCALES),
            *grid(depth=(1, 2, 3, 4), lr=(0.0025, 0.005, 0.02, 0.05, 0.1)),
        ],
        {"seeds": 10, **SMALL_START},
    ),
    "start-layers": explore(
        "Which layers' small start is it?",
        {
            f"small: layer {' and '.join(small)}": {
                "besides": {"layer_scales": [0.2 if layer in small else 1.0 for layer in "123"]}
            }
            for small in ("1", "2", "3", "12", "13", "23")
        },
        {"seeds": 20, **SMALL_START, "init_scale": 1.0},
    ),
    "start-variations": explore(
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
    ),
    # Declared in declared.md before the first of their seeds was trained.
    "small-start": declare(
        "From small initial weights, does LWTA forget less?",
        {"the small setting": {}},
        {"seeds": 100, "first_seed": 3000, **SMALL_START},
    ),
    "small-depth": declare(
        "And with how many hidden layers?",
        grid(depth=(1, 3, 4)),
        {"first_seed": 3100, **SMALL_START},
    ),
    "small-tasks": declare(
        "And with which tasks and output layers?",
        {
            **random_splits(3000, 5),
            **splits(("56789", "01234")),
            "five tasks of two digits": SPLIT_DIGITS,
            "permuted digits": PERMUTED,
            **{f"head {head}": {"head": head} for head in ("single", "frozen")},
        },
        {"first_seed": 3200, **SMALL_START},
    ),
    "small-best": declare(
        "And with each network at its own best start and learning rate?",
        {"each at its best": {"of_model": BEST_STARTS}},
        {"first_seed": 3300, **SMALL_START},
        accuracy_too=True,
    ),
    "bridge": declare(
        "What carries the gap between the small setting and the published one?",
        grid(init_scale=(1.0, 0.2), lr=(0.05, 0.01), epochs=(5, 20)),
        {"first_seed": 3400},
    ),
    "paper-grid": explore(
        "In the paper's protocol, at which initial weights and learning rates is there a gap?",
        grid(depth=(2, 3), init_scale=(0.1, 0.2, 0.3, 0.4, 1.0), lr=(0.003, 0.01, 0.03)),
        {"seeds": 3, "first_seed": 1100, **PAPER_START},
    ),
    "paper-start": declare(
        "In the paper's protocol, does LWTA forget less from small initial weights?",
        [{"depth": d, "init_scale": s} for d, s in ((2, 0.2), (2, 0.3), (2, 1.0), (3, 0.2))],
        {"seeds": 20, "first_seed": 2000, "lr": 0.01, **PAPER_START},
    ),
    "paper-sigmoid": ask(
        "What does sigmoid do there?",
        [{"depth": 2, "init_scale": 0.2}],
        {"seeds": 10, "first_seed": 2000, "activations": ALL_THREE, "lr": 0.01, **PAPER_START},
    ),
    "small-loss": explore(
        "And if both networks train to a loss of 0.03?",
        {"to a loss of 0.03": {"target_loss": 0.03}},
        {"first_seed": 4000, **SMALL_START, "epochs": 100},
    ),
    "start-function": explore(
        "Do starts of the same function forget alike?",
        {
            f"layers at {', '.join(map(str, scales))}": {"besides": {"layer_scales": scales}}
            for scales in ([0.04, 0.2, 1.0], [0.2, 0.2, 0.2], [1.0, 0.2, 0.04])
        },
        {"first_seed": 4000, **SMALL_START, "init_scale": 1.0},
    ),
}


def start_cell(scale: float, depth: int = 2, **more: Any) -> Changes:
    """The small setting at another scale of the initial weights and depth, on its own seeds."""
    return {**SMALL_START, "first_seed": 4000, "init_scale": scale, "depth": depth, **more}


# What is looked into, not tested; those from small initial weights are in declared.md.
INSIDE = explore(
    "What happens inside the networks?",
    {
        "default": {"activations": (*PAIR, *CONTROLS)},
        "lr 0.05, momentum 0.95": {  # where LWTA begins to fail
            **{"momentum": 0.95, **NO_DECAY, "activations": (*PAIR, "kept", "fixed")}
        },
        **{  # ReLU has some 150 of its 400 units active in a layer
            f"LWTA with {units} units": {"of_model": {"lwta": {"hidden": units}}}
            for units in (304, 200)
        },
        "four layers": {"depth": 4},
        "what the figures show": {**UNPAIRED, "first_seed": 0, "besides": IN_FIGURES},
        "what the figures show, small start": start_cell(0.2, besides=IN_FIGURES),
        **{
            f"init scale {scale}, {depth} {'layer' if depth == 1 else 'layers'}": start_cell(
                scale,
                depth,
                activations=(*PAIR, *CONTROLS) if (scale, depth) == (0.2, 2) else PAIR,
                seeds=40 if scale in (0.2, 1.0) else 20,
            )
            for scale in START_SCALES
            for depth in (1, 2, 3)
            if depth == 2 or scale in (0.2, 1.0)
        },
        **{
            f"init scale {scale}, 2 layers, Task 2's output rows at {rows}": start_cell(
                scale, besides={"second_rows": rows}
            )
            for scale, rows in ((0.2, 1.0), (1.0, 0.2))
        },
    },
    {"first_seed": 500},
)
