#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""The questions that the published small run left open, each answered over many seeds.

    python3 study_open_questions.py                        every group, every seed planned
    python3 study_open_questions.py --n-seeds 20 block     one group, no more than 20 seeds trained
    python3 study_open_questions.py --finished-only        tables and figures again, no training

A group is a question with its conditions; a condition is a change of the configuration, with the
number of seeds fixed beforehand. Every comparison is paired: the same images, initial weights and
batches. Finished units are kept in study/journals, one file per configuration, so a stopped study
goes on where it was, and conditions share what they have in common. Writes study/NAME.json and the
figures, and prints the tables that the README includes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compete_to_compute import (
    ACTIVATIONS,
    SCHEMA,
    STATUSES,
    Config,
    InputError,
    Journal,
    OneLineParser,
    Run,
    aggregate,
    available_cores,
    check_config,
    check_writable,
    compare,
    dask_client,
    dask_executor,
    environment,
    flag,
    label,
    load_mnist,
    run_identity,
    run_script,
    run_units,
    sha256,
    summarise,
    to_json,
    verdict,
    with_progress,
    without_nan,
    write_or_stop,
)
from visualize_compete_to_compute import colour, save_figure

STUDY = Path(__file__).resolve().parent / "study"
PAIR = ("relu", "lwta")
ALL_THREE = ("relu", "lwta", "sigmoid")
# E[max of k standard normals squared] / k over ReLU's 1/2 is the factor by which an LWTA layer's
# mean square at the start differs from ReLU's; for k = 2 it is 1.
MEAN_SQUARE_OF_MAXIMUM = {2: 1.0, 4: 1.5513, 8: 2.3997, 16: 3.4137}


@dataclass(frozen=True)
class Condition:
    """A change of the default configuration, and how often it is tried.

    `changes` are `Config` fields of every activation, `of_model` those of one. `against` is the
    label of the condition in the same group that this one is compared with, seed by seed.
    """

    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    of_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: tuple[str, ...] = PAIR
    seeds: int = 40
    first_seed: int = 0
    against: str | None = None

    def config(self, model: str) -> Config:
        """The configuration of one activation."""
        return replace(Config(paired=True), **{**self.changes, **self.of_model.get(model, {})})


@dataclass(frozen=True)
class Group:
    """A question and the conditions that answer it; p-values are adjusted within it.

    `pooled`: the conditions are of one kind, and their mean over each seed is of interest too.
    """

    question: str
    conditions: tuple[Condition, ...]
    pooled: bool = False


def vary(name: str, values: Sequence[Any]) -> tuple[Condition, ...]:
    """A condition for each value of one `Config` field, compared with the default value's."""
    default = getattr(Config(), name)
    return tuple(
        Condition(f"{name} {v}", {name: v}, against=None if v == default else f"{name} {default}")
        for v in values
    )


def scaled(k: int) -> float:
    """The factor on LWTA's initial weights with which its activations start at ReLU's size."""
    return math.sqrt(0.5 * k / MEAN_SQUARE_OF_MAXIMUM[k])


def step(rate: float, momentum: float) -> str:
    """The label of a learning rate whose effective rate, lr / (1 - momentum), is `rate`."""
    return f"lr {round(rate * (1 - momentum), 4)}, momentum {momentum}"


def random_halves(draw: int) -> Iterator[tuple[str, str]]:
    """Ten random partitions of the digits into two tasks."""
    rng = np.random.default_rng(draw)
    for _ in range(10):
        order = rng.permutation(10)
        first, second = ("".join(map(str, sorted(half))) for half in (order[:5], order[5:]))
        yield first, second


# The largest learning rate of group `dropout-rate` at which no run fails.
DROPOUT_LR = 0.02
LEARNING_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95)
PAPER = {
    **{"train_per_class": 0, "test_per_task": 0, "head": "frozen", "weight_decay": 0.0},
    **{"target_loss": 0.03, "epochs": 30, "hidden": 1000},
}
# Of the settings of group `paper` at which every run of all three activations trains, the one with
# the smallest shares of runs short of the target loss, then with the fewest epochs a run: lr and
# momentum by depth.
PAPER_CHOICE = {2: (0.05, 0.9), 3: (0.1, 0.5)}
# What the rule gave at depth 3 when most cells of the grid had one seed, and the seeds of the
# result were run there. Then LWTA diverged on another seed of that cell; its runs are still shown.
PAPER_FIRST_CHOICE = {3: (0.2, 0.5)}


def under_paper(depth: int, lr: float, momentum: float) -> Condition:
    """The paper's protocol at one depth, learning rate and momentum."""
    return Condition(
        f"depth {depth}, lr {lr}, momentum {momentum}",
        {**PAPER, "depth": depth, "lr": lr, "momentum": momentum},
        activations=ALL_THREE,
    )


GROUPS = {
    "default": Group("Does LWTA forget less as published?", (Condition("default", seeds=200),)),
    "published": Group(
        "And with the published, unpaired batches?",
        (Condition("published", {"paired": False}, seeds=200),),
    ),
    "optimiser": Group(
        "Does the effect depend on learning rate and momentum?",
        tuple(
            Condition(f"lr {lr}, momentum {m}", {"lr": lr, "momentum": m, "weight_decay": 0.0})
            for lr in LEARNING_RATES
            for m in MOMENTA
        ),
    ),
    "momentum": Group(
        "On seeds that the phase diagram did not use: does the sign follow momentum?",
        tuple(
            Condition(
                f"lr {lr}, momentum {m}",
                {"lr": lr, "momentum": m, "weight_decay": 0.0},
                seeds=100,
                first_seed=200,
                against="lr 0.02, momentum 0.0" if (lr, m) == (0.02, 0.95) else None,
            )
            for lr, m in ((0.02, 0.0), (0.05, 0.0), (0.01, 0.95), (0.02, 0.95))
        ),
    ),
    "effective-rate": Group(
        "At the same lr / (1 - momentum), does momentum matter?",
        tuple(
            Condition(
                f"lr / (1 - m) = {rate}: {step(rate, m)}",
                {"lr": round(rate * (1 - m), 4), "momentum": m, "weight_decay": 0.0},
                against=None if m == least else f"lr / (1 - m) = {rate}: {step(rate, least)}",
            )
            # The least momentum at which both networks train at this effective rate.
            for rate, least in ((0.2, 0.0), (0.5, 0.5))
            for m in MOMENTA
        ),
    ),
    "restart": Group(
        "Is it the momentum carried over the task switch?",
        tuple(
            Condition(
                f"lr {lr}, momentum {m}, {'restarted' if restart else 'kept'}",
                {"lr": lr, "momentum": m, "weight_decay": 0.0, "restart_momentum": restart},
                against=f"lr {lr}, momentum {m}, kept" if restart else None,
            )
            for lr, m in ((0.05, 0.9), (0.01, 0.95), (0.02, 0.95))
            for restart in (False, True)
        ),
    ),
    "block": Group(
        "Do larger blocks forget less?",
        tuple(
            Condition(
                f"k {k}, {name}",
                shared,
                {"lwta": {"k": k, **changes}},
                against=None if (k, name) == (2, "equal units") else "k 2, equal units",
            )
            for k in (2, 4, 8, 16)
            for name, shared, changes in (
                ("equal units", {}, {}),
                ("equal units, scaled start", {}, {"init_scale": scaled(k)}),
                ("equal active units", {}, {"hidden": 200 * k}),
                ("equal active units, ReLU as wide", {"hidden": 200 * k}, {}),
            )
            # For k = 2 all four are the same networks.
            if k > 2 or name == "equal units"
        ),
    ),
    "epochs": Group("Does longer training matter?", vary("epochs", (1, 2, 5, 10, 20, 50))),
    "width": Group("Does width matter?", vary("hidden", (100, 200, 400, 800, 1600))),
    "depth": Group("Does depth matter?", vary("depth", (1, 2, 3, 4))),
    "dropout-rate": Group(
        "At which learning rate do both train with dropout?",
        tuple(
            Condition(
                f"hidden 0.5, input {q}, lr {lr}",
                {"dropout": 0.5, "input_dropout": q, "lr": lr},
                seeds=8,
                first_seed=1000,  # not the seeds of the result that the choice is for
            )
            for lr in (0.05, 0.02, 0.01, 0.005)
            for q in (0.0, 0.2)
        ),
    ),
    "dropout": Group(
        f"Does dropout help, at learning rate {DROPOUT_LR}?",
        tuple(
            Condition(
                f"hidden {p}, input {q}",
                {"dropout": p, "input_dropout": q, "lr": DROPOUT_LR},
                against="hidden 0.0, input 0.0" if p or q else None,
            )
            for p in (0.0, 0.2, 0.5)
            for q in (0.0, 0.2)
        ),
    ),
    "permuted": Group(
        "Is permuted MNIST harder?",
        tuple(
            Condition(
                f"{name}, {epochs} epochs",
                {"epochs": epochs, **changes},
                against=f"digits 0-4 then 5-9, {epochs} epochs" if changes else None,
            )
            for epochs in (5, 50)
            for name, changes in (
                ("digits 0-4 then 5-9", {}),
                ("ten digits, then permuted", {"permute": True, "tasks": ("0123456789",) * 2}),
            )
        ),
    ),
    "partition": Group(
        "Does it depend on which digits come first?",
        tuple(
            Condition(
                f"{first} then {second}",
                {"tasks": (first, second)},
                against=None if first == "01234" else "01234 then 56789",
            )
            for first, second in (*(("01234", "56789"), ("56789", "01234")), *random_halves(2013))
        ),
        pooled=True,
    ),
    "partition-again": Group(
        "On seeds not used before, over ten random partitions (one of them also above)?",
        tuple(
            Condition(
                f"{first} then {second}", {"tasks": (first, second)}, seeds=20, first_seed=400
            )
            for first, second in random_halves(2014)
        ),
        pooled=True,
    ),
    "five-task": Group(
        "And over five tasks of two digits (Split MNIST)?",
        (Condition("01 23 45 67 89", {"tasks": ("01", "23", "45", "67", "89")}),),
    ),
    "joint": Group(
        "What would both tasks at once give?",
        (
            Condition("one after the other", activations=ALL_THREE),
            Condition(
                "both at once",
                {"joint": True},
                activations=ALL_THREE,
                against="one after the other",
            ),
        ),
    ),
    "single-head": Group(
        "What collapses without the mask?",
        (
            Condition("masked", activations=ALL_THREE),
            Condition("single", {"head": "single"}, activations=ALL_THREE, against="masked"),
        ),
    ),
    "scale": Group(
        "Is the effect larger at the paper's scale, with 50 epochs?",
        (
            Condition("400x2, 5 epochs", seeds=20),
            *(
                Condition(
                    f"{hidden}x{depth}, 50 epochs",
                    {"hidden": hidden, "depth": depth, "epochs": 50},
                    seeds=20,
                    against="400x2, 5 epochs",
                )
                for hidden, depth in ((400, 2), (800, 3), (1024, 3))
            ),
        ),
    ),
    "paper": Group(
        "At which learning rate and momentum does the paper's protocol train?",
        tuple(
            # Not the seeds of the result that the choice is for.
            replace(under_paper(depth, lr, m), seeds=4, first_seed=1000)
            for depth in (2, 3)
            for lr in (0.05, 0.1, 0.2)
            for m in (0.5, 0.9)
        ),
    ),
    "paper-chosen": Group(
        "Does the paper's protocol show the paper's gap?",
        tuple(
            replace(under_paper(depth, lr, m), seeds=20)
            for depth, (lr, m) in (*PAPER_CHOICE.items(), *PAPER_FIRST_CHOICE.items())
        ),
    ),
    "paper-stopping": Group(
        "Does the paper's gap depend on the loss at which a task ends?",
        tuple(
            Condition(
                f"depth 2, loss {loss}",
                {**under_paper(2, *PAPER_CHOICE[2]).changes, "target_loss": loss},
                seeds=8,  # sigmoid takes minutes a run, and is left out
                against=None if loss == PAPER["target_loss"] else "depth 2, loss 0.03",
            )
            for loss in (0.1, 0.03, 0.01)
        ),
    ),
}
# Task 1's test error in %, after Task 1 and after Task 2, mean and standard deviation over ten
# initialisations, as reported by the paper; read second-hand.
PAPER_ERRORS = {
    "lwta": ((1.55, 0.20), (6.12, 3.39)),
    "sigmoid": ((1.38, 0.06), (57.84, 1.13)),
    "relu": ((1.30, 0.13), (16.63, 6.07)),
}


# --- Running --------------------------------------------------------------------------------------


def journal_of(config: Config) -> Journal:
    """The journal of one configuration, whichever conditions it serves."""
    name = sha256(json.dumps(without_nan(asdict(config)), sort_keys=True).encode())[:12]
    return Journal(STUDY / "journals" / name, run_identity(config))


def by_config(condition: Condition) -> dict[Config, list[str]]:
    """The activations of a condition by their configuration, which each have a journal."""
    models: dict[Config, list[str]] = {}
    for model in condition.activations:
        models.setdefault(condition.config(model), []).append(model)
    return models


def train_condition(condition: Condition, options: argparse.Namespace) -> None:
    """Train the runs of one condition that no journal has, of `--n-seeds` seeds at most."""
    for config, models in by_config(condition).items():
        check_config(config, [ACTIVATIONS[model] for model in models])
        journal = journal_of(config)
        finished = journal.read()
        have = {(run.record["seed"], run.record["model"]) for run in finished}
        seeds = planned_seeds(condition)[: options.n_seeds]
        missing = [(ACTIVATIONS[m], s) for s in seeds for m in models if (s, m) not in have]
        if not missing:
            continue
        journal.path.parent.mkdir(parents=True, exist_ok=True)
        journal.start(finished)
        executor = dask_executor(options.client) if options.client else None
        jobs = options.jobs or available_cores()
        # No headline seed: nothing here needs snapshots.
        runs = run_units(config, missing, -1, jobs, options.data_dir, executor)
        for run in with_progress(runs, len(missing), quiet=False):
            journal.append(run)


def planned_seeds(condition: Condition) -> range:
    """The seeds of one condition."""
    return range(condition.first_seed, condition.first_seed + condition.seeds)


def finished_runs(condition: Condition) -> list[Run]:
    """The planned runs of one condition that its journals have."""
    runs: list[Run] = []
    for config, models in by_config(condition).items():
        finished = {(r.record["seed"], r.record["model"]): r for r in journal_of(config).read()}
        wanted = [(seed, model) for seed in planned_seeds(condition) for model in models]
        runs += [finished[key] for key in wanted if key in finished]
    return runs


def succeeded(runs: Sequence[Run], model: str) -> dict[int, dict[str, Any]]:
    """The records of one activation's runs that neither diverged nor stayed untrained, by seed."""
    records = [run.record for run in runs]
    return {r["seed"]: r for r in records if r["model"] == model and r["status"] == "ok"}


def condition_row(condition: Condition, runs: Sequence[Run]) -> dict[str, Any]:
    """A row of `conditions` in study/NAME.json."""
    records = [run.record for run in runs]
    matrices = {
        model: [r["accuracy_matrix"] for r in succeeded(runs, model).values()]
        for model in condition.activations
    }

    def accuracy(after: int, task: int) -> dict[str, Any]:
        return {m: summarise([r[after][task] for r in of]) for m, of in matrices.items()}

    pair = [succeeded(runs, model) for model in PAIR]
    both = sorted(pair[0].keys() & pair[1].keys())
    totals = aggregate(records, condition.activations)
    return {
        "label": condition.label,
        "config": {model: asdict(condition.config(model)) for model in condition.activations},
        "seeds_planned": condition.seeds,
        "first_seed": condition.first_seed,
        "seeds_run": len(
            set.intersection(*({r["seed"] for r in records if r["model"] == m} for m in PAIR))
        ),
        "blas_kernels": dict(Counter(r["blas_kernel"] for r in records)),
        "n": totals["pairs"][0]["difference"]["n"],
        "aggregate": totals,
        **{
            f"{name}_difference": compare(*([value(of[seed]) for seed in both] for of in pair))
            for name, value in (
                ("average_accuracy", lambda r: r["average_accuracy"]),
                ("learned", lambda r: r["accuracy_matrix"][1][0]),
                ("kept", lambda r: r["accuracy_matrix"][-1][0]),
                ("last_task", lambda r: r["accuracy_matrix"][-1][-1]),
            )
        },
        "first_task_learned": accuracy(1, 0),
        "first_task_kept": accuracy(-1, 0),
        "last_task_accuracy": accuracy(-1, -1),
        "accuracy_matrix": {
            model: np.mean(of, axis=0).tolist() if of else None for model, of in matrices.items()
        },
        "epochs_used": {
            model: np.mean([r["epochs"] for r in succeeded(runs, model).values()], axis=0).tolist()
            if matrices[model]
            else None
            for model in condition.activations
        },
        "targets_missed": {
            model: sum(
                r.get("target_reached") is not None and not all(r["target_reached"])
                for r in succeeded(runs, model).values()
            )
            for model in condition.activations
        },
        "per_seed": [
            [r["seed"], r["model"], r["status"], r["forgetting"], r["average_accuracy"]]
            for r in records
        ],
    }


def change(condition: Condition, runs: Sequence[Run], base: Sequence[Run]) -> dict[str, Any]:
    """What a condition changes against another one, over the seeds that both have.

    Per activation the differences in forgetting and in average accuracy, this minus the other; the
    change of ReLU minus LWTA; and the ratio of the standard deviations of ReLU minus LWTA, with
    its 95 % interval from 10,000 bootstrap samples of seeds (percentiles).
    """
    found: dict[str, Any] = {"against": condition.against}
    for metric in ("forgetting", "average_accuracy"):
        found[metric] = {}
        for model in condition.activations:
            here, there = (
                {s: r[metric] for s, r in succeeded(of, model).items() if r[metric] is not None}
                for of in (runs, base)
            )
            both = sorted(here.keys() & there.keys())
            found[metric][model] = compare(
                [here[seed] for seed in both], [there[seed] for seed in both]
            )
    gaps = [
        {
            seed: relu[seed]["forgetting"] - lwta[seed]["forgetting"]
            for seed in relu.keys() & lwta.keys()
            if relu[seed]["forgetting"] is not None
        }
        for relu, lwta in ([succeeded(of, model) for model in PAIR] for of in (runs, base))
    ]
    both = sorted(gaps[0].keys() & gaps[1].keys())
    here, there = ([gap[seed] for seed in both] for gap in gaps)
    found["difference"] = compare(here, there)
    if len(both) >= 10:
        sample = np.random.default_rng(0).integers(len(both), size=(10_000, len(both)))
        here, there = np.array(here), np.array(there)
        with np.errstate(divide="ignore", invalid="ignore"):  # a sample may have no spread
            ratios = here[sample].std(axis=1) / there[sample].std(axis=1)
        found["spread_ratio"] = {
            "mean": float(here.std() / there.std()),
            "ci95": np.nanquantile(ratios, (0.025, 0.975)).tolist(),
        }
    return found


def pool(all_runs: Sequence[Sequence[Run]]) -> dict[str, Any]:
    """ReLU against LWTA with each seed's mean over several conditions, where all have its pair."""
    means: dict[str, list[float]] = {}
    pairs = [[succeeded(runs, model) for model in PAIR] for runs in all_runs]
    seeds = set.intersection(*(relu.keys() & lwta.keys() for relu, lwta in pairs))
    for place, model in enumerate(PAIR):
        means[model] = [
            float(np.mean([pair[place][seed]["forgetting"] for pair in pairs]))
            for seed in sorted(seeds)
        ]
    compared = compare(means["relu"], means["lwta"])
    return {
        "forgetting": {model: summarise(values) for model, values in means.items()},
        **compared,
        "verdict": verdict(*PAIR, compared),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def is_tested(name: str, condition: Condition) -> bool:
    """Whether a condition is one of its group's tests, over which p-values are adjusted.

    Not so where nothing can be forgotten, nor for the published configuration as a group's
    reference: of it the group `default` asks, with more seeds.
    """
    configs = [condition.config(model) for model in PAIR]
    is_reference = name != "default" and configs == [Config(paired=True)] * 2
    return not (configs[0].joint or is_reference)


def run_group(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of one group and write study/NAME.json."""
    group = GROUPS[name]
    rows, core_seconds, planned, unknown = [], 0.0, 0.0, []
    runs_of: dict[str, Sequence[Run]] = {}
    for number, condition in enumerate(group.conditions, start=1):
        if not options.finished_only:
            print(f"{name} {number}/{len(group.conditions)}: {condition.label}")
            train_condition(condition, options)
        # Fewer seeds this time leave nothing out that earlier times finished.
        runs = finished_runs(condition)
        core_seconds += sum(run.seconds for run in runs)
        for model in condition.activations:
            took = [run.seconds for run in runs if run.record["model"] == model]
            planned += condition.seeds * float(np.mean(took)) if took else 0.0
            unknown += [] if took else [f"{condition.label}, {label(model)}"]
        rows.append(condition_row(condition, runs))
        runs_of[condition.label] = runs
    for condition, row in zip(group.conditions, rows, strict=True):
        if condition.against:
            base = runs_of[condition.against]
            row["change"] = change(condition, runs_of[condition.label], base)
    tested = [
        pair_of(row)
        for condition, row in zip(group.conditions, rows, strict=True)
        if is_tested(name, condition) and row["n"]
    ]
    adjusted = holm([pair["sign_test_p"] for pair in tested])
    for row in rows:
        pair_of(row)["sign_test_p_holm"] = None
    for pair, p_value in zip(tested, adjusted, strict=True):
        pair["sign_test_p_holm"] = p_value
    result = {
        "schema": SCHEMA,
        "name": name,
        "question": group.question,
        "command": f"python3 study_open_questions.py {name}",
        "environment": environment(),  # of the tables; each condition counts its runs' kernels
        "core_seconds": core_seconds,
        "core_seconds_planned": planned,  # without what has no run to estimate it by:
        "cost_unknown": unknown,
        "conditions": rows,
    }
    if group.pooled:
        result["pooled"] = pool(list(runs_of.values()))
    write_or_stop(STUDY / f"{name}.json", to_json(result))
    return result


# --- Tables ---------------------------------------------------------------------------------------

# Groups whose activations are also shown one by one, with accuracies.
DETAILED = (
    *("five-task", "joint", "single-head", "scale"),
    *("paper", "paper-chosen", "paper-stopping"),
)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def estimate(summary: dict[str, Any], sign: str = "+") -> str:
    """A mean with its 95 % interval; a dash where there is none."""
    if summary["mean"] is None:
        return "-"
    if summary["ci95"] is None:
        return f"{summary['mean']:{sign}.3f}"
    low, high = summary["ci95"]
    return f"{summary['mean']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def pair_of(condition: dict[str, Any]) -> dict[str, Any]:
    """ReLU against LWTA."""
    return condition["aggregate"]["pairs"][0]


def pairs_text(row: dict[str, Any]) -> str:
    """How many pairs there are, how many were planned if more, and what failed."""
    failed = {model: count for model, count in pair_of(row)["failed"].items() if count}
    text = f"{row['n']}"
    if row["n"] < row["seeds_planned"]:
        text += f" of {row['seeds_planned']}"
    if row["seeds_run"] < row["seeds_planned"]:
        text += f", {row['seeds_run']} run"
    if failed:
        text += ", failed: " + ", ".join(f"{model} {count}" for model, count in failed.items())
    return text


def group_table(result: dict[str, Any]) -> str:
    """A group's conditions as a Markdown table: ReLU minus LWTA, with certainty and verdict."""
    rows = []
    for row in result["conditions"]:
        pair = pair_of(row)
        difference = pair["difference"]
        if row["config"]["relu"]["joint"]:
            continue  # it forgets nothing
        models = row["aggregate"]["models"]
        cells = [row["label"], pairs_text(row)]
        cells += [estimate(models[model]["forgetting"], "").partition(" ")[0] for model in PAIR]
        if difference["ci95"] is None:
            cells += ["-", "-", "-", "-", "-"]
        else:
            cells += [
                estimate(difference),
                f"{pair['wins']} of {difference['n']}",
                adjusted_p(pair),
                f"{pair['smallest_detectable']:.3f}",
                verdict_text(pair),
            ]
        cells += [estimate(row[f"{name}_difference"]["difference"]) for name in ("learned", "kept")]
        rows.append(cells)
    if "pooled" in result:
        rows.append(pooled_cells(result["pooled"]))
    head = ["condition", "pairs", "ReLU", "LWTA", "ReLU minus LWTA, 95 % interval"]
    head += [
        "wins",
        "p (Holm)",
        "could show",
        "verdict",
        "Task 1 learned, ReLU minus LWTA",
        "Task 1 at the end",
    ]
    return markdown(head, rows)


def verdict_text(pair: dict[str, Any]) -> str:
    """The verdict without its smallest difference, and where the sign test says another thing."""
    said = (pair["verdict"] or "").partition(":")[0]
    adjusted = pair.get("sign_test_p_holm")
    if adjusted is None:
        return said
    if adjusted < 0.05:
        signs = f"{favours(pair)} forgets less"
        return said if said == signs else f"{said}; by the sign test {signs}"
    if not said.endswith("forgets less"):
        return said
    return said + (", unadjusted" if pair["sign_test_p"] < 0.05 else ", by the interval alone")


def favours(pair: dict[str, Any]) -> str:
    """The activation that forgets less on more seeds."""
    return label("lwta" if pair["wins"] > pair["losses"] else "relu")


def adjusted_p(pair: dict[str, Any]) -> str:
    """The sign test's p-value, adjusted within its group; of a reference, where to look."""
    p_value = pair["sign_test_p_holm"]
    return "see `default`" if p_value is None else f"{p_value:.2g}"


def pooled_cells(pooled: dict[str, Any]) -> list[str]:
    """The row of a group's table for each seed's mean over all conditions."""
    difference = pooled["difference"]
    return [
        "each seed's mean over all of these",
        f"{difference['n']}",
        *(f"{pooled['forgetting'][model]['mean']:.3f}" for model in PAIR),
        estimate(difference),
        f"{pooled['wins']} of {difference['n']}",
        f"{pooled['sign_test_p']:.2g}, alone",
        f"{pooled['smallest_detectable']:.3f}",
        verdict_text(pooled),
        "",
        "",
    ]


def change_table(result: dict[str, Any]) -> str | None:
    """What the conditions change against the one that each is compared with, or None."""
    rows = []
    for row in result["conditions"]:
        if "change" in row:
            found = row["change"]
            cells = [f"{row['label']} against {found['against']}"]
            for metric in ("forgetting", "average_accuracy"):
                cells += [estimate(found[metric][model]["difference"]) for model in PAIR]
            spread = found.get("spread_ratio")
            cells += [
                estimate(found["difference"]["difference"]),
                estimate(spread, "") if spread else "-",
            ]
            rows.append(cells)
    if not rows:
        return None
    head = ["exploratory: change", "forgetting, ReLU", "forgetting, LWTA"]
    head += ["average accuracy, ReLU", "average accuracy, LWTA"]
    return markdown([*head, "of ReLU minus LWTA", "ratio of its std"], rows)


def trained(row: dict[str, Any], model: str) -> str:
    """How many of an activation's runs trained, how many were planned if more, how many did not
    reach the loss that ends a task."""
    totals = row["aggregate"]["models"][model]
    run = sum(totals[status] for status in STATUSES)
    text = f"{totals['ok']} of {run}"
    if run < row["seeds_planned"]:
        text += f", {row['seeds_planned']} planned"
    if row["targets_missed"][model]:
        text += f", {row['targets_missed'][model]} short of the target loss"
    return text


def models_table(result: dict[str, Any]) -> str:
    """Each activation by itself: accuracies, forgetting, transfer, means over its own runs."""
    rows = []
    for row in result["conditions"]:
        for model, totals in row["aggregate"]["models"].items():
            cells = [row["label"], label(model), trained(row, model)]
            for name in ("first_task_learned", "first_task_kept", "last_task_accuracy"):
                cells.append(estimate(row[name][model], "").partition(" ")[0])
            cells += [estimate(totals[name], "") for name in ("average_accuracy", "forgetting")]
            for name in ("backward_transfer", "forward_transfer"):
                cells.append(estimate(totals[name]).partition(" ")[0])
            rows.append(cells)
    head = ["condition", "activation", "trained", "first task learned", "first task at the end"]
    head += ["last task at the end", "average accuracy", "forgetting", "BWT", "FWT"]
    return markdown(head, rows)


def paper_table(result: dict[str, Any]) -> str:
    """Task 1's test errors as the paper's table has them, ours below the paper's."""
    rows = [
        ["the paper (second-hand)", label(model), "10"]
        + [f"{mean:.2f} ± {std:.2f} %" for mean, std in PAPER_ERRORS[model]]
        for model in ALL_THREE
    ]
    for row in result["conditions"]:
        for model in row["aggregate"]["models"]:
            errors = [row[name][model] for name in ("first_task_learned", "first_task_kept")]
            cells = [row["label"], label(model), trained(row, model)]
            for error in errors:
                text = "-" if error["mean"] is None else f"{100 * (1 - error['mean']):.2f}"
                if error["std"] is not None:
                    text += f" ± {100 * error['std']:.2f} %"
                    text += f", median {100 * (1 - error['median']):.2f} %"
                cells.append(text)
            rows.append(cells)
    head = ["Task 1 test error, mean ± std", "activation", "trained"]
    head += ["after Task 1", "after Task 2"]
    return markdown(head, rows)


def matrix_table(row: dict[str, Any]) -> str:
    """The mean accuracy matrix of each activation: a row after each task, a column per task."""
    tasks = row["config"]["relu"]["tasks"]
    rows = []
    for model, matrix in row["accuracy_matrix"].items():
        for number, accuracies in enumerate(matrix or []):
            after = f"after {tasks[number - 1]}" if number else "before training"
            rows.append([label(model), after, *(f"{accuracy:.3f}" for accuracy in accuracies)])
    return markdown(["mean test accuracy", "", *tasks], rows)


def group_report(result: dict[str, Any]) -> str:
    """Every table of a group, in Markdown."""
    parts = [group_table(result), change_table(result)]
    if result["name"] in DETAILED:
        parts.append(models_table(result))
    if result["name"] == "five-task":
        parts.append(matrix_table(result["conditions"][0]))
    if result["name"] == "paper-chosen":
        parts.insert(0, paper_table(result))
    return "\n\n".join(part for part in parts if part)


def outcome(result: dict[str, Any]) -> str:
    """One line: in how many conditions which activation forgets less."""
    rows = [row for row in result["conditions"] if not row["config"]["relu"]["joint"]]
    tested = [row for row in rows if pair_of(row)["sign_test_p_holm"] is not None]
    if not tested:
        return "Nothing to test."
    # Where both keep less than chance of Task 1, forgetting is only what they had learned of it.
    judged = [row for row in tested if max(row["first_task_kept"][m]["mean"] for m in PAIR) > 0.2]
    verdicts = Counter((pair_of(row)["verdict"] or "").partition(":")[0] for row in judged)
    counts = [f"{text} in {count}" for text, count in verdicts.most_common() if text]
    if len(judged) < len(tested):
        counts.append(f"both lose all of Task 1 in {len(tested) - len(judged)}")
    if missing := sum(row["n"] == 0 for row in rows):
        counts.append(f"no pairs in {missing}")
    standing = Counter(
        favours(pair_of(row)) for row in judged if pair_of(row)["sign_test_p_holm"] < 0.05
    )
    signs = ", ".join(f"{name} in {count}" for name, count in standing.items()) or "neither"
    return f"{', '.join(counts)}; the adjusted sign test favours {signs}."


# --- Figures --------------------------------------------------------------------------------------


def saved_groups() -> list[dict[str, Any]]:
    """The groups whose results are there, in the order of the table."""
    paths = [STUDY / f"{name}.json" for name in GROUPS]
    return [read_results(path) for path in paths if path.exists()]


def read_results(path: Path) -> dict[str, Any]:
    """A file of results; `InputError` if it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise InputError(f"{path}: damaged; make it again with --finished-only") from None


# Groups that only choose a setting, and the one in which both networks end at nothing.
NOT_SUMMARISED = ("dropout-rate", "paper", "single-head")


def summary_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """One row per condition: ReLU minus LWTA with its interval, sorted.

    A condition that stands in two groups is shown once.
    """
    rows, seen = [], set()
    for result in results:
        for row in result["conditions"]:
            difference = pair_of(row)["difference"]
            key = json.dumps([[row["config"][model] for model in PAIR], row["first_seed"]])
            if difference["ci95"] is None or key in seen or result["name"] in NOT_SUMMARISED:
                continue
            seen.add(key)
            name = result["name"]
            text = name if row["label"] == name else f"{name}: {row['label']}"
            of = f" of {row['seeds_planned']}" if row["n"] < row["seeds_planned"] else ""
            rows.append((difference["mean"], difference["ci95"], f"{text} (n = {row['n']}{of})"))
    rows.sort()
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.19 * len(rows)), layout="constrained")
    for y, (mean, (low, high), _) in enumerate(rows):
        shown = colour("lwta") if low > 0 else colour("relu") if high < 0 else "0.55"
        axes.plot([low, high], [y, y], "-", color=shown, linewidth=1.5)
        axes.plot([mean], [y], "o", color=shown, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [text for *_, text in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("forgetting of ReLU minus LWTA, 95 % interval, unadjusted")
    figure.suptitle(
        "Where LWTA forgets less (blue), ReLU does (orange), or neither is shown (grey),\n"
        "coloured by the unadjusted interval; each seed's mean over several conditions is not here",
        fontsize=10,
    )
    axes.grid(axis="x", alpha=0.2)
    return figure


def effective_rate(row: dict[str, Any]) -> float:
    """lr / (1 - momentum) of a condition: how far a constant gradient moves a parameter in all."""
    config = row["config"]["relu"]
    return config["lr"] / (1 - config["momentum"])


def paper_figure(result: dict[str, Any]) -> Figure:
    """Task 1's test error after Task 2 over the grid of the paper's protocol, a panel a depth."""
    depths = sorted({row["config"]["relu"]["depth"] for row in result["conditions"]})
    counts = [
        totals["ok"]
        for row in result["conditions"]
        for totals in row["aggregate"]["models"].values()
    ]
    fewest, most = min(filter(None, counts), default=0), max(counts)
    figure, panels = plt.subplots(
        1, len(depths), figsize=(11, 4.8), layout="constrained", sharey=True
    )
    for axes, depth in zip(panels, depths, strict=True):
        rows = [row for row in result["conditions"] if row["config"]["relu"]["depth"] == depth]
        rows.sort(key=effective_rate)
        for number, model in enumerate(ALL_THREE):
            draw_errors(axes, rows, model, number)
        ticks = [
            f"lr {row['config']['relu']['lr']}\nm {row['config']['relu']['momentum']}"
            for row in rows
        ]
        axes.set_xticks(range(len(rows)), ticks)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        axes.set(title=f"{depth} hidden layers", yscale="log", ylim=(1, 160))
        axes.set_xlabel("learning rate and momentum m, by lr / (1 - m)")
        axes.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
        axes.axhspan(FAILED[0] / 1.15, 160, color="0.93", zorder=0)
        axes.text(-0.45, 145, "runs that failed:", va="top", fontsize=7)
        axes.grid(alpha=0.2)
    panels[0].set_ylabel("Task 1 test error after Task 2, %")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8
    )
    figure.suptitle(
        "The paper's protocol: which learning rate and momentum come close to its errors?\n"
        f"Mean and standard deviation over the runs that trained, {fewest} to {most}; hollow: a "
        "single run; crosses: runs that failed; bands: the paper's own",
        fontsize=10,
    )
    return figure


FAILED = (80, 100, 125)  # where the paper's figure has the crosses of each activation's failed runs


def draw_errors(axes: Axes, rows: Sequence[dict[str, Any]], model: str, number: int) -> None:
    """One activation's errors over the grid, beside the paper's; `number` keeps it clear of others.

    Settings at which runs failed have a cross in a strip above the errors.
    """
    mean, std = PAPER_ERRORS[model][1]
    look = {"color": colour(model)}
    axes.axhspan(mean - std, mean + std, alpha=0.12, linewidth=0, **look)
    axes.axhline(mean, linestyle=":", label=f"the paper's {label(model)}", **look)
    shift, height = 0.12 * (number - 1), FAILED[number]
    places, errors, spreads, alone = [], [], [], []
    for place, row in enumerate(rows):
        kept = row["first_task_kept"][model]
        if kept["mean"] is not None:
            places.append(place + shift)
            errors.append(100 * (1 - kept["mean"]))
            spreads.append(100 * (kept["std"] or 0))
            alone.append(kept["n"] == 1)
        totals = row["aggregate"]["models"][model]
        failed = totals["diverged"] + totals["untrained"]
        if failed:
            axes.plot(place, height, "X", markersize=7, **look)
            text = f"{failed} of {failed + totals['ok']}"
            axes.text(place + 0.1, height, text, va="center", fontsize=7)
    axes.errorbar(places, errors, yerr=spreads, marker="o", capsize=3, label=label(model), **look)
    hollow = np.array([places, errors])[:, np.array(alone, bool)]
    axes.plot(*hollow, "o", color="white", markersize=3, zorder=3)


SATURATED = 0.05  # a difference in forgetting or accuracy with the full colour


def phase_figure(result: dict[str, Any]) -> Figure:
    """Forgetting over learning rate and momentum: the difference, both models, Task 2."""
    cells = {
        (c["config"]["relu"]["lr"], c["config"]["relu"]["momentum"]): c
        for c in result["conditions"]
    }

    def difference(c: dict[str, Any]) -> float | None:
        return pair_of(c)["difference"]["mean"]

    def forgetting(model: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda c: c["aggregate"]["models"][model]["forgetting"]["mean"]

    def last_task(c: dict[str, Any]) -> float | None:
        return c["last_task_difference"]["difference"]["mean"]

    panels = (
        (
            "Forgetting, ReLU minus LWTA (blue: LWTA forgets less)",
            *(difference, difference_lines, "RdBu", True),
        ),
        (
            "Task 2 accuracy, ReLU minus LWTA (purple: ReLU's is higher)",
            *(last_task, last_task_lines, "PuOr", True),
        ),
        ("Forgetting of ReLU", forgetting("relu"), mean_lines("relu"), "Oranges", False),
        ("Forgetting of LWTA", forgetting("lwta"), mean_lines("lwta"), "Blues", False),
    )
    figure, all_axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axes, (title, *panel) in zip(all_axes.flat, panels, strict=True):
        draw_cells(axes, cells, *panel)
        axes.set(xlabel="learning rate", ylabel="momentum")
        axes.set_title(title, fontsize=10)
        for model in PAIR:
            draw_edge(axes, cells, model)
    figure.legend(
        *all_axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    seeds = max(c["seeds_run"] for c in cells.values())
    figure.suptitle(
        f"Learning rate and momentum, {seeds} paired seeds a cell, no weight decay. ±: half the "
        "95 % interval; bold: it excludes zero.\nWhite: no run to show. R, L: share of ReLU's and "
        "LWTA's runs that diverged or did not learn. Colours of differences saturate at "
        f"{SATURATED}.",
        fontsize=10,
    )
    return figure


def draw_cells(
    axes: Axes,
    cells: dict[tuple[float, float], dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    lines: Callable[[dict[str, Any]], list[str]],
    colours: str,
    signed: bool,
) -> None:
    """A cell for each learning rate and momentum: coloured by a value, white without, with text.

    Where the value is `signed`, the colours are even about zero and saturate.
    """
    grid = np.full((len(MOMENTA), len(LEARNING_RATES)), np.nan)
    for (lr, m), condition in cells.items():
        y, x = MOMENTA.index(m), LEARNING_RATES.index(lr)
        found = value(condition)
        grid[y, x] = np.nan if found is None else found
        text = "\n".join(lines(condition))
        axes.text(x, y, text, ha="center", va="center", fontsize=7)
    limit = SATURATED if signed else np.nanmax([0.1, *grid[np.isfinite(grid)]])
    axes.imshow(
        grid,
        cmap=colours,
        vmin=-limit if signed else 0,
        vmax=limit,
        origin="lower",
        alpha=0.6,
        aspect="auto",
    )
    axes.set_xticks(range(len(LEARNING_RATES)), LEARNING_RATES)
    axes.set_yticks(range(len(MOMENTA)), MOMENTA)


def draw_edge(axes: Axes, cells: dict[tuple[float, float], dict[str, Any]], model: str) -> None:
    """A line around the cells where less than half of an activation's runs train.

    ReLU's is dashed, so that both are seen where they coincide.
    """
    lost = np.zeros((len(MOMENTA) + 2, len(LEARNING_RATES) + 2), bool)
    for (lr, m), condition in cells.items():
        share = pair_of(condition)["failed"][model] / max(condition["seeds_run"], 1)
        lost[MOMENTA.index(m) + 1, LEARNING_RATES.index(lr) + 1] = share > 0.5
    # Outside the grid as at its border, so that no line runs along the frame.
    lost[[0, -1]], lost[:, [0, -1]] = lost[[1, -2]], lost[:, [1, -2]]
    x, y = [], []
    for row, column in np.argwhere(lost[1:-1, 1:] != lost[1:-1, :-1]):
        x += [column - 0.5, column - 0.5, np.nan]
        y += [row - 0.5, row + 0.5, np.nan]
    for row, column in np.argwhere(lost[1:, 1:-1] != lost[:-1, 1:-1]):
        x += [column - 0.5, column + 0.5, np.nan]
        y += [row - 0.5, row - 0.5, np.nan]
    axes.plot(
        *(x, y),
        color=colour(model),
        linestyle="--" if model == "relu" else "-",
        linewidth=3 if model == "lwta" else 2,
        label=f"above and right of it most {label(model)} runs fail",
    )


def difference_lines(condition: dict[str, Any]) -> list[str]:
    """A cell's ReLU minus LWTA, bold where the interval excludes zero, and what failed."""
    summary = pair_of(condition)["difference"]
    lines = []
    if summary["mean"] is not None:
        lines.append(difference_text(summary))
        if summary["ci95"]:
            low, high = summary["ci95"]
            lines.append(f"± {(high - low) / 2:.3f}")
    return [*lines, *failed_lines(condition)]


def difference_text(summary: dict[str, Any]) -> str:
    """A mean difference, bold where its interval excludes zero."""
    low, high = summary["ci95"] or (-math.inf, math.inf)
    text = f"{summary['mean']:+.3f}"
    return rf"$\mathbf{{{text}}}$" if low > 0 or high < 0 else text


def last_task_lines(condition: dict[str, Any]) -> list[str]:
    """A cell's final accuracies on Task 2, each over all its runs, and their paired difference."""
    means = {model: condition["last_task_accuracy"][model]["mean"] for model in PAIR}
    lines = [f"{label(model)} {mean:.3f}" for model, mean in means.items() if mean is not None]
    summary = condition["last_task_difference"]["difference"]
    return lines if summary["mean"] is None else [difference_text(summary), *lines]


def mean_lines(model: str) -> Callable[[dict[str, Any]], list[str]]:
    """What makes the lines of a cell of one activation's forgetting."""

    def lines(condition: dict[str, Any]) -> list[str]:
        mean = condition["aggregate"]["models"][model]["forgetting"]["mean"]
        return [*([] if mean is None else [f"{mean:.3f}"]), *failed_lines(condition)]

    return lines


def failed_lines(condition: dict[str, Any]) -> list[str]:
    """The share of each activation's runs that failed, where one did."""
    failed = pair_of(condition)["failed"]
    if not any(failed.values()):
        return []
    shares = {m: failed[m] / condition["seeds_run"] for m in PAIR}
    return [f"R {shares['relu']:.0%} L {shares['lwta']:.0%}"]


def study_parser(description: str, kind: str, names: Iterable[str]) -> OneLineParser:
    """What the studies have in common on their command lines; `names` are those of one kind."""
    parser = OneLineParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "names", nargs="*", metavar=kind.upper(), help=f"{kind}s: {'; '.join(names)}"
    )
    parser.add_argument(
        "--n-seeds",
        type=int,
        default=None,
        help="train at most so many seeds (default: as planned)",
    )
    parser.add_argument("--jobs", type=int, default=None, help="side by side (default: the cores)")
    parser.add_argument(
        "--data-dir",
        default=None,
        help="the four MNIST files (default: $MNIST_DIR, else the cache)",
    )
    parser.add_argument(
        "--finished-only",
        action="store_true",
        help="train nothing: tables and figures from the units that the journals hold",
    )
    return parser


def check_study(options: argparse.Namespace, kind: str, names: Iterable[str]) -> None:
    """Raise `InputError` for names that are not there and counts that make no study."""
    for name in options.names:
        if name not in names:
            raise InputError(f"{name}: no such {kind}; there are {'; '.join(names)}")
    for name in ("n_seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"{flag(name)} must be 1 or more, not {value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups named, or all; the exit status."""
    description = "Answer the open questions, each over many paired seeds."
    parser = study_parser(description, "group", GROUPS)
    parser.add_argument(
        "--dask", default=None, metavar="ADDRESS", help="a Dask scheduler (default: this machine)"
    )
    options = parser.parse_args(arguments)
    check_study(options, "group", GROUPS)
    for name in (*(options.names or GROUPS), "summary"):
        check_writable(STUDY / f"{name}.json")
    options.client = None
    if not options.finished_only:
        load_mnist(options.data_dir)
        options.client = dask_client(options.dask) if options.dask else None
    for name in options.names or GROUPS:
        result = run_group(name, options)
        print(f"\n{result['question']} {outcome(result)}\n\n{group_report(result)}\n")
        if name == "optimiser":
            save_figure(phase_figure(result), STUDY / "phase_diagram.png")
        if name == "paper":
            save_figure(paper_figure(result), STUDY / "paper.png")
    save_figure(summary_figure(saved_groups()), STUDY / "summary.png")
    return 0


if __name__ == "__main__":
    run_script(main)
