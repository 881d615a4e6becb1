"""The numbers of the study of the mechanism, from its runs, and their tables.

    quantity("mechanism/default:relu-lwta.forgetting.low")   a number by condition and name
    tables()                                                 the tables as Markdown, by title

A condition has sets of summaries (as of `summarise`) of measures by name:

    relu                over the seeds of a model
    relu-lwta           of the paired difference of two models

The measures are forgetting; task2 (its accuracy at the end); lost.at0.9 (on Task 1 when Task 2
first reaches .9); those of `measures`, by moment (probe.after1, and probe.lost, what Task 2 takes),
by layer and moment (gap.layer1.after2; and gap.layer2-layer1.after2, what the deeper layer has
more), by layer and task (moved.layer1.task2); what Task 1 has lost with exchanged heads
(lost.old_head); those of the start (logit_std); and those of `seen_in_figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from typing import Any

from compete_to_compute import summarise
from study.analysis import CONDITION, summary
from study.conditions import by_key, finished_runs
from study.measures import OF_NETWORK
from study.mechanism import CONDITIONS, MODELS
from study.runs import MECHANISM, PAIR, record_from
from study.tables import Column, look_up, markdown

Numbers = dict[str, Any]
BySeed = dict[int, dict[str, float]]  # each seed's measures

# --- Measures of a run ----------------------------------------------------------------------------

LEVELS = (0.9, 0.925)  # of Task 2 accuracy
MOMENTS = ("before", "after1", "after2")


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


def measures_of(row: Numbers) -> dict[str, float]:
    """Every measure of one run by its name."""
    values = {"forgetting": record_from(row)["forgetting"], "task2": row["accuracy_matrix"][-1][-1]}
    if "layers" not in row:
        return values | row.get("seen", {})
    for kind in {"layers", "directions"} & row.keys():
        for moment, layers in zip(MOMENTS, row[kind], strict=True):
            for number, layer in enumerate(layers, start=1):
                for name, value in layer.items():
                    values[f"{name}.layer{number}.{moment}"] = value
                    if number > 1:
                        values[f"{name}.layer{number}-layer1.{moment}"] = value - layers[0][name]
    for name in OF_NETWORK & row.keys():
        accuracies = list(row[name].values())
        values |= {f"{name}.{m}": a for m, a in zip(MOMENTS, accuracies, strict=True)}
        values[f"{name}.lost"] = accuracies[1] - accuracies[2]
    for task, layers in enumerate(row.get("moved", ()), start=1):
        for number, layer in enumerate(layers, start=1):
            values |= {f"{name}.layer{number}.task{task}": v for name, v in layer.items()}
    learned = row["accuracy_matrix"][1][0]
    values |= {f"lost.{name}": learned - v for name, v in row.get("heads", {}).items()}
    values |= row.get("start", {})
    lost = {f"lost.at{level}": lost_at(row["trajectory"], level) for level in LEVELS}
    return values | {name: value for name, value in lost.items() if value is not None}


# --- Numbers of a condition -----------------------------------------------------------------------


def minus(first: BySeed, second: BySeed) -> BySeed:
    """The differences in every measure that a seed has in both, up to rounding of accuracies."""
    return {
        seed: {
            name: round(value - second[seed][name], 9)
            for name, value in first[seed].items()
            if name in second[seed]
        }
        for seed in sorted(first.keys() & second.keys())
    }


def summaries(by_seed: BySeed) -> dict[str, Numbers]:
    """`summarise` of each measure over the seeds, but of those that over a fifth do not have.

    A level of Task 2 accuracy that few runs reach would be told of those alone.
    """
    names = dict.fromkeys(name for values in by_seed.values() for name in values)
    present = {name: [run[name] for run in by_seed.values() if name in run] for name in names}
    return {
        name: summarise(values)
        for name, values in present.items()
        if len(values) >= 0.8 * len(by_seed)
    }


@cache
def runs() -> dict[str, dict[str, dict[int, Numbers]]]:
    """The rows of all conditions by name, model and seed."""
    table = by_key(MECHANISM.read())
    return {name: finished_runs(condition, table) for name, condition in CONDITIONS.items()}


def trained(name: str, model: str) -> dict[int, Numbers]:
    """The rows of a condition's model that neither diverged nor stayed untrained, by seed."""
    return {seed: row for seed, row in runs()[name][model].items() if row["status"] == "ok"}


def measured(name: str) -> dict[str, BySeed]:
    """The measures of a condition's models, and of ReLU minus LWTA."""
    values = {
        model: {seed: measures_of(row) for seed, row in trained(name, model).items()}
        for model in CONDITIONS[name].activations
    }
    pairs = [(first, second) for first, second in combinations(values, 2) if first in PAIR]
    return values | {f"{a}-{b}": minus(values[a], values[b]) for a, b in pairs}


@cache
def analyse() -> dict[str, Numbers]:
    """Of each condition its sets of summaries, and how many runs of each model `failed`."""
    return {
        name: {
            **{of: summaries(by_seed) for of, by_seed in measured(name).items()},
            "failed": {
                model: sum(row["status"] != "ok" for row in by_seed.values())
                for model, by_seed in by_model.items()
            },
        }
        for name, by_model in runs().items()
    }


def quantity(place: str) -> Any:
    """A number, by condition and name, or a word: "mechanism/default:relu-lwta.forgetting.low".

    Names are those of `analyse` with dots between: a set, a measure, and of its summary low, high
    or n, without which it stands for its mean; failed.relu. Raises `InputError` where
    there is nothing.
    """
    where, _, name = place.rpartition(":")
    return look_up(analyse().get(where.partition("/")[2]), name, place)


# --- Tables ---------------------------------------------------------------------------------------

OF_LAYER = ("activity.layer{}.after2", "information.layer{}.after2", "overlap_tasks.layer{}.after2")
OF_A_NETWORK = (  # measures, by the names that prose may cite
    *("forgetting", "task2", "lost.at0.925", "probe.lost"),
    *(name.format(layer) for name in OF_LAYER for layer in (1, 2)),
)
NETWORKS_TABLE = (
    CONDITION,
    Column("network", lambda row: row["network"]),
    Column("failed runs", lambda row: f"{row['failed']}"),
    *(summary(name, "own", name, sign=False) for name in OF_A_NETWORK),
    summary("ReLU's forgetting minus its", "relu", "forgetting"),
    summary("LWTA's forgetting minus its", "lwta", "forgetting"),
)


def tables() -> dict[str, str]:
    """The table of the study of the mechanism in Markdown, by its title."""
    networks = [
        {
            **{"label": name, "network": MODELS[model].label, "own": row[model]},
            **{"failed": row["failed"][model]},
            **{first: row.get(f"{first}-{model}") for first in PAIR},
        }
        for name, row in analyse().items()
        for model in row["failed"]
    ]
    return {"mechanism: networks": markdown(NETWORKS_TABLE, networks)}
