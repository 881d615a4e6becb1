"""The numbers of the study of the mechanism, from its runs, and their tables.

    quantity("mechanism/default:relu-lwta.forgetting.low")   a number by condition and name
    tables()                                                 all of them as Markdown, by title

A condition has sets of summaries (n, mean, ci95 and more) of measures by name:

    relu                over the seeds of a model
    relu-lwta           of the paired difference of two models
    change-relu         of the paired difference to the condition that it is `against`, of a model
    change-relu-lwta    or of ReLU minus LWTA
    relu~forgetting     rank correlations with forgetting over the seeds of a model, as means

The measures are forgetting; task2 (its accuracy at the end); lost.at0.9 (on Task 1 when Task 2
first reaches .9); dip (the most that is lost on Task 1 within 40 updates of Task 2); probe.before,
.after1, .after2, .lost and .learned (a refitted probe's accuracy, what Task 2 and Task 1 change);
sharpness.task1, gradient.task1 and .task2 (at the switch); sharpness.step (Task 2's, times the
learning rate over 2 (1 + momentum)); by layer gates, silenced, untouched, carrying
(silenced.layer1); by layer and moment those of `layer_measures` (gap.layer1.before, .after1,
.after2, and gap.layer2-layer1.after2, what the deeper layer has more); and of `seen_in_figures`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from scipy.stats import spearmanr

from compete_to_compute import Config, InputError, adjust, aggregate, chance, summarise, verdict
from study.analysis import CONDITION, p_text, summary
from study.conditions import by_key, finished_runs
from study.mechanism import CONDITIONS, IN_FIGURES, MODELS, FollowedCondition
from study.runs import MECHANISM, PAIR, record_from
from study.tables import Column, estimate, markdown

Numbers = dict[str, Any]
BySeed = dict[int, dict[str, float]]  # each seed's measures

# --- Measures of a run ----------------------------------------------------------------------------

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95)  # of Task 2 accuracy
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
    values = {"forgetting": record_from(row)["forgetting"], **row.get("seen", {})}
    values["task2"] = row["accuracy_matrix"][-1][-1]
    if "layers" not in row:
        return values
    for moment, layers in zip(MOMENTS, row["layers"], strict=True):
        for number, layer in enumerate(layers, start=1):
            values |= {f"{name}.layer{number}.{moment}": value for name, value in layer.items()}
            for name in ("gap", "information", "overlap_tasks") if number > 1 else ():
                values[f"{name}.layer{number}-layer1.{moment}"] = layer[name] - layers[0][name]
    for number, (gates, weights) in enumerate(zip(row["changed"], row["weights"], strict=True), 1):
        values |= {f"{name}.layer{number}": value for name, value in (gates | weights).items()}
    values |= {
        f"probe.{moment}": accuracy
        for moment, accuracy in zip(MOMENTS, row["probe"].values(), strict=True)
    }
    values["probe.lost"] = values["probe.after1"] - values["probe.after2"]
    values["probe.learned"] = values["probe.after1"] - values["probe.before"]
    for task in (1, 2):
        values[f"sharpness.task{task}"] = row["switch"][f"sharpness of Task {task}"]
        values[f"gradient.task{task}"] = row["switch"][f"gradient norm of Task {task}"]
    config = Config(**row["changes"])
    # Above 1 gradient descent with momentum climbs out of a bowl (Cohen et al. 2021).
    values["sharpness.step"] = values["sharpness.task2"] * config.lr / (2 * (1 + config.momentum))
    lost = {f"lost.at{level}": lost_at(row["trajectory"], level) for level in LEVELS}
    values |= {name: value for name, value in lost.items() if value is not None}
    early = [first for update, first, _ in row["trajectory"] if update <= 40]
    return values | {"dip": early[0] - min(early)}


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
    """`summarise` of each measure over the seeds, and how many are above and below zero.

    A level of Task 2 accuracy that few runs reach would be told of those alone: left out is what
    more than a fifth of the seeds do not have.
    """
    result = {}
    for name in dict.fromkeys(name for values in by_seed.values() for name in values):
        values = [values[name] for values in by_seed.values() if name in values]
        if len(values) >= 0.8 * len(by_seed):
            counts = {"above": sum(v > 0 for v in values), "below": sum(v < 0 for v in values)}
            result[name] = summarise(values) | counts
    return result


def correlations(by_seed: BySeed) -> dict[str, Numbers]:
    """Each measure's rank correlation with forgetting, where it can be told."""
    result = {}
    for name in summaries(by_seed):
        pairs = [(run[name], run["forgetting"]) for run in by_seed.values() if name in run]
        x, y = zip(*pairs, strict=True)
        if len(x) > 4 and len({*x}) > 1 and len({*y}) > 1:
            result[name] = correlation(x, y)
    return result


def correlation(x: Sequence[float], y: Sequence[float]) -> Numbers:
    """Spearman's rank correlation, which no single seed decides, with its 95 % interval.

    The interval is Fisher's with the standard error of Bonett and Wright (2000) for ranks.
    """
    r, n = float(spearmanr(x, y).statistic), len(x)
    half = 1.959964 * math.sqrt((1 + r * r / 2) / (n - 3))
    z = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12))
    return {"n": n, "mean": r, "ci95": [math.tanh(z - half), math.tanh(z + half)]}


@cache
def runs() -> dict[str, dict[str, dict[int, Numbers]]]:
    """The rows of all conditions by name, model and seed."""
    table = by_key(MECHANISM.read())
    return {name: finished_runs(condition, table) for name, condition in CONDITIONS.items()}


def trained(name: str, model: str) -> dict[int, Numbers]:
    """The rows of a condition's model that neither diverged nor stayed untrained, by seed."""
    return {seed: row for seed, row in runs()[name][model].items() if row["status"] == "ok"}


def measured(name: str) -> dict[str, BySeed]:
    """The measures of a condition's models."""
    return {
        model: {seed: measures_of(row) for seed, row in trained(name, model).items()}
        for model in CONDITIONS[name].activations
    }


def sets_of(condition: FollowedCondition) -> Numbers:
    """A condition's sets of summaries."""
    values, sets = measured(condition.label), {}
    for place, (model, by_seed) in enumerate(values.items()):
        sets[model] = summaries(by_seed)
        sets[f"{model}~forgetting"] = correlations(by_seed)
        for first in PAIR[:place]:
            sets[f"{first}-{model}"] = summaries(minus(values[first], by_seed))
    if condition.against:
        base = measured(condition.against)
        gap, base_gap = (minus(*(models[m] for m in PAIR)) for models in (values, base))
        sets |= {f"change-{m}": summaries(minus(values[m], base[m])) for m in PAIR}
        sets["change-relu-lwta"] = summaries(minus(gap, base_gap))
    return sets


@cache
def analyse() -> dict[str, Numbers]:
    """Of each condition its sets of summaries, its comparison and what it counts.

    The comparison of ReLU and LWTA is `aggregate`'s of a pair; its family is all of this study but
    what the figures show, whose runs are those of another study. `run` and `failed` count the runs
    of each model, of `planned` seeds.
    """
    numbers: dict[str, Numbers] = {}
    for name, condition in CONDITIONS.items():
        numbers[name] = {"label": name, "planned": condition.seeds, **sets_of(condition)}
        if condition.besides != IN_FIGURES:
            records = [record_from(row) for m in PAIR for row in runs()[name][m].values()]
            guessing = chance(condition.config("relu"))
            numbers[name] |= aggregate(records, PAIR, guessing)["pairs"][0]
        rows = runs()[name].items()
        numbers[name]["run"] = {model: len(by_seed) for model, by_seed in rows}
        numbers[name]["failed"] = {
            model: sum(row["status"] != "ok" for row in by_seed.values()) for model, by_seed in rows
        }
    family = [of_condition for of_condition in numbers.values() if "p" in of_condition]
    adjust(family)
    for comparison in family:
        comparison["verdict"] = verdict(*(MODELS[model].label for model in PAIR), comparison)
    return numbers


def quantity(place: str) -> Any:
    """A number or a word: "mechanism/default:relu-lwta.forgetting.low".

    Names are those of `analyse` with dots between: a set, a measure, and of its summary low, high,
    n, above or below, without which it stands for its mean; verdict, p_adjusted, at_chance;
    failed.relu. "mechanism:relu-lwta.dip.above", and below, count the conditions whose interval is
    above zero, of n that have one. Raises `InputError` where there is nothing.
    """
    where, _, name = place.rpartition(":")
    condition = where.partition("/")[2]
    try:
        if condition:
            value = look_up(analyse()[condition], name)
            return value["mean"] if isinstance(value, dict) else value
        models, _, measure = name.partition(".")
        measure, _, count = measure.rpartition(".")
        every = [numbers.get(models, {}).get(measure) for numbers in analyse().values()]
        intervals = [summary["ci95"] for summary in every if summary and summary["ci95"]]
        counts = {"above": sum(low > 0 for low, _ in intervals), "n": len(intervals)}
        return {**counts, "below": sum(high < 0 for _, high in intervals)}[count]
    except (KeyError, TypeError):
        raise InputError(f"{place}: there is no such quantity") from None


def look_up(value: Any, name: str) -> Any:
    """What nested dictionaries have under a name with dots; a key may have dots of its own."""
    if not name:
        return value
    if name in ("low", "high"):
        return value["ci95"][name == "high"]
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        key = ".".join(parts[:end])
        if key in value:
            return look_up(value[key], ".".join(parts[end:]))
    raise KeyError(name)


# --- Tables ---------------------------------------------------------------------------------------


def pairs_text(row: Numbers) -> str:
    """How many pairs there are, how many were planned if more, and what failed."""
    n, planned = row["difference"]["n"], row["planned"]
    failed = [f"{MODELS[m].label} {row['failed'][m]}" for m in PAIR if row["failed"][m]]
    text = f"{n} of {planned}" if n < planned else f"{n}"
    return text + (f", failed: {', '.join(failed)}" if failed else "")


def level_columns(name: str, levels: Sequence[float]) -> list[Column]:
    """What Task 1 has lost at some levels of Task 2 accuracy."""
    return [summary(f"at {level:.1%} on Task 2", name, f"lost.at{level}") for level in levels]


FORGETTING = (
    CONDITION,
    Column("pairs", pairs_text),
    summary("forgetting, ReLU", "relu", "forgetting", sign=False),
    summary("LWTA", "lwta", "forgetting", sign=False),
    summary("ReLU minus LWTA", "difference"),
    Column("p, adjusted", p_text),
    Column("verdict", lambda row: row["verdict"] or ""),
    *level_columns("relu-lwta", LEVELS[3:]),
    summary("in average accuracy, failed runs at chance", "at_chance"),
)
EXPERIMENTS = (
    Column("experiment", lambda row: row["label"]),
    Column("against", lambda row: CONDITIONS[row["label"]].against or ""),
    summary("change of forgetting, ReLU", "change-relu", "forgetting"),
    summary("LWTA", "change-lwta", "forgetting"),
    summary("ReLU minus LWTA", "change-relu-lwta", "forgetting"),
)
CONTROLLED = (
    CONDITION,
    Column("network", lambda row: row["network"]),
    Column("failed runs", lambda row: f"{row['failed']}"),
    summary("active, layer 1", "own", "activity.layer1.after2", sign=False),
    summary("layer 2", "own", "activity.layer2.after2", sign=False),
    summary("forgetting", "own", "forgetting", sign=False),
    summary("Task 2 at the end", "own", "task2", sign=False),
    summary("ReLU's forgetting minus its", "relu", "forgetting"),
    *level_columns("relu", [0.925]),
    summary("LWTA's forgetting minus its", "lwta", "forgetting"),
    *level_columns("lwta", [0.925]),
)
MEASURED = (
    Column("measure", lambda row: row[0]),
    *(
        Column(head, lambda row, n=n: estimate(row[n], 4, sign=n > 2) if row[n] else "")
        for n, head in enumerate(
            ("ReLU", "LWTA", "ReLU minus LWTA", "rank correlation with forgetting, ReLU", "LWTA"), 1
        )
    ),
)


def tables() -> dict[str, str]:
    """Every table of the study of the mechanism in Markdown, by its title."""
    every = analyse().values()
    controlled = [
        {
            **{"label": row["label"], "network": MODELS[model].label, "own": row[model]},
            **{"failed": row["failed"][model]},
            **{first: row.get(f"{first}-{model}") for first in PAIR},
        }
        for row in every
        for model in row["run"]
        if len(row["run"]) > 2 or CONDITIONS[row["label"]].of_model
    ]
    experiments = [row for row in every if "change-relu" in row]
    pages = {
        "mechanism: forgetting": markdown(FORGETTING, [row for row in every if "p" in row]),
        "mechanism: experiments": markdown(EXPERIMENTS, experiments),
        "mechanism: controls": markdown(CONTROLLED, controlled),
    }
    sets = ("relu", "lwta", "relu-lwta", "relu~forgetting", "lwta~forgetting")
    for row in every:
        measures = [(name, *(row[which].get(name) for which in sets)) for name in row["relu"]]
        pages[f"mechanism: {row['label']}, everything measured"] = markdown(MEASURED, measures)
    return pages
