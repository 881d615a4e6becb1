"""A condition's numbers from its runs, by the one rule of inference, and their tables.

    quantity("block/k 16, equal units:difference.low")   a number by family, condition and name
    tables()                                             all of them as Markdown, by title

Every pair of runs is tested in one family only, the first that declares it; a condition with such
pairs is a reference in later families. Holm's adjustment is over a family's tested conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from compete_to_compute import (
    METRICS,
    STATUSES,
    InputError,
    adjust,
    chance,
    compare,
    label,
    summarise,
    verdict,
)
from study.conditions import FAMILIES, Condition, Row, by_key, finished_runs
from study.runs import CONDITIONS, PAIR, record_from
from study.tables import MISSING, Column, estimate, markdown, number

Record = dict[str, Any]  # a row of `per_seed` in results.json
Numbers = dict[str, Any]

# What is summarised of each run; the first task is the one that has longest to be forgotten.
MEASURES: dict[str, Callable[[Record], float | None]] = {
    **{metric: lambda record, metric=metric: record[metric] for metric in METRICS},
    "learned": lambda record: record["accuracy_matrix"][1][0],
    "kept": lambda record: record["accuracy_matrix"][-1][0],
    "last_task": lambda record: record["accuracy_matrix"][-1][-1],
    "error_learned": lambda record: 100 * (1 - record["accuracy_matrix"][1][0]),  # in %
    "error_kept": lambda record: 100 * (1 - record["accuracy_matrix"][-1][0]),
}
# Task 1's test error in %, after Task 1 and after Task 2, mean and standard deviation over ten
# initialisations, as reported by the paper; read second-hand.
PAPER_ERRORS = {
    "lwta": ((1.55, 0.20), (6.12, 3.39)),
    "sigmoid": ((1.38, 0.06), (57.84, 1.13)),
    "relu": ((1.30, 0.13), (16.63, 6.07)),
}
POOLED = "each seed's mean over all of these"
VERDICTS = ("LWTA forgets less", "ReLU forgets less", "alike", "undecided")


@dataclass
class Result:
    """What the runs of a condition show.

    `records` are all runs by activation and seed; `tested_in` is the family that tests them, None
    where nothing is tested. `numbers` has for each activation how many runs are there (`run`; `ok`
    and the other statuses; `failed`; `missed` the target loss) and the means over those that are
    ok; for ReLU minus LWTA what `compare` gives, `verdict`, and `differences` in other measures;
    `at_chance` if any run failed; `change` against another condition; and `kernels`.
    """

    family: str
    condition: Condition
    records: dict[str, dict[int, Record]]
    tested_in: str | None = None
    numbers: Numbers = field(default_factory=dict)

    def row(self, model: str | None = None) -> Numbers:
        """Its numbers, or those of one activation, beside what they are of: a table's row."""
        names = {"label": self.condition.label, "planned": self.condition.seeds, "model": model}
        places = {"family": self.family, "tested_in": self.tested_in}
        return {**names, **places, **(self.numbers[model] if model else self.numbers)}

    def values(self, model: str, measure: str = "forgetting") -> dict[int, float]:
        """A measure of the runs that are ok and have it, by seed."""
        values = {
            seed: MEASURES[measure](record)
            for seed, record in self.records[model].items()
            if record["status"] == "ok"
        }
        return {seed: value for seed, value in values.items() if value is not None}

    def gap(self) -> dict[int, float]:
        """ReLU's forgetting minus LWTA's, by seed."""
        relu, lwta = map(self.values, PAIR)
        return {seed: relu[seed] - lwta[seed] for seed in relu.keys() & lwta.keys()}


# --- Numbers --------------------------------------------------------------------------------------


def shared(first: dict[int, float], second: dict[int, float]) -> list[list[float]]:
    """The values of both on the seeds that both have."""
    seeds = sorted(first.keys() & second.keys())
    return [[values[seed] for seed in seeds] for values in (first, second)]


def described(first: dict[int, float], second: dict[int, float]) -> Numbers:
    """A paired comparison without a test."""
    difference = [round(a - b, 9) for a, b in zip(*shared(first, second), strict=True)]
    wins, losses = sum(d > 0 for d in difference), sum(d < 0 for d in difference)
    return {"difference": summarise(difference), "wins": wins, "losses": losses}


def model_numbers(result: Result, model: str) -> Numbers:
    """The numbers of one activation by itself."""
    records = list(result.records[model].values())
    ok = [record for record in records if record["status"] == "ok"]
    counts = Counter(record["status"] for record in records)

    def mean(name: str) -> list[Any] | None:
        return np.mean([record[name] for record in ok], axis=0).tolist() if ok else None

    return {
        **{status: counts[status] for status in STATUSES},
        **{"run": len(records), "failed": len(records) - len(ok)},
        "missed": sum(not all(record["target_reached"] or [True]) for record in ok),
        **{"epochs": mean("epochs"), "matrix": mean("accuracy_matrix")},
        **{name: summarise([value(record) for record in ok]) for name, value in MEASURES.items()},
    }


def pair_numbers(result: Result) -> Numbers:
    """ReLU against LWTA, with a test only if the condition is one of its family's tests."""
    relu, lwta = map(result.values, PAIR)
    is_tested = result.tested_in == result.family
    numbers = compare(*shared(relu, lwta)) if is_tested else described(relu, lwta)
    numbers["differences"] = {
        name: described(*(result.values(m, name) for m in PAIR))["difference"] for name in MEASURES
    }
    both = result.records["relu"].keys() & result.records["lwta"].keys()
    numbers["pairs_run"] = len(both)
    if any(result.records[model][seed]["status"] != "ok" for model in PAIR for seed in both):
        # Failed runs count as guessing, so that nobody wins by failing.
        worth = {
            model: {
                seed: chance(result.condition.config(model))
                if result.records[model][seed]["status"] != "ok"
                else result.records[model][seed]["average_accuracy"]
                for seed in both
            }
            for model in PAIR
        }
        numbers["at_chance"] = {m: summarise(list(values.values())) for m, values in worth.items()}
        numbers["at_chance"]["difference"] = described(*worth.values())["difference"]
    return numbers


def changed(result: Result, base: Result) -> Numbers:
    """What a condition changes against another one, over the seeds that both have.

    Per activation the differences in forgetting and average accuracy, this minus the other; the
    change of ReLU minus LWTA; and the ratio of the standard deviations of ReLU minus LWTA, with
    its 95 % interval from 10,000 bootstrap samples of seeds (percentiles).
    """
    numbers: Numbers = {
        model: {
            metric: described(*(r.values(model, metric) for r in (result, base)))["difference"]
            for metric in ("forgetting", "average_accuracy")
        }
        for model in result.condition.activations
    }
    numbers["difference"] = described(result.gap(), base.gap())["difference"]
    here, there = map(np.array, shared(result.gap(), base.gap()))
    if len(here) >= 10:
        sample = np.random.default_rng(0).integers(len(here), size=(10_000, len(here)))
        with np.errstate(divide="ignore", invalid="ignore"):  # a sample may have no spread
            ratios = here[sample].std(axis=1) / there[sample].std(axis=1)
        interval = np.nanquantile(ratios, (0.025, 0.975)).tolist()
        numbers["spread_ratio"] = {"mean": float(here.std() / there.std()), "ci95": interval}
    return numbers


def pool(results: Sequence[Result]) -> Result:
    """Each seed's mean over several conditions, where all have its pair, as a result of its own."""
    records: dict[str, dict[int, Record]] = {model: {} for model in PAIR}
    for seed in sorted(set.intersection(*(set(result.gap()) for result in results))):
        for model in PAIR:
            several = [result.records[model][seed] for result in results]
            means = {metric: float(np.mean([r[metric] for r in several])) for metric in METRICS}
            matrix = np.mean([r["accuracy_matrix"] for r in several], axis=0).tolist()
            records[model][seed] = {**several[0], **means, "accuracy_matrix": matrix}
    condition = Condition(POOLED, seeds=results[0].condition.seeds)
    return Result(results[0].family, condition, records, results[0].family)


@cache
def analyse() -> dict[str, dict[str, Result]]:
    """The results of all families, by family and condition's label, from the table of runs."""
    table = by_key(CONDITIONS.read())
    tested_in: dict[Any, str] = {}
    return {name: analyse_family(name, table, tested_in) for name in FAMILIES}


def analyse_family(
    name: str, table: dict[Any, list[Row]], tested_in: dict[Any, str]
) -> dict[str, Result]:
    """The results of one family; `tested_in` has the family of each pair of runs so far."""
    family, results = FAMILIES[name], {}
    for condition in family.conditions:
        records = {
            model: {seed: record_from(row) for seed, row in rows.items()}
            for model, rows in finished_runs(condition, table).items()
        }
        result = results[condition.label] = Result(name, condition, records)
        if not family.exploratory and not condition.config("relu").joint:
            pairs = list(zip(*(condition.keys(model).values() for model in PAIR), strict=True))
            earlier = [tested_in[pair] for pair in pairs if pair in tested_in]
            result.tested_in = earlier[0] if earlier else name
            tested_in |= dict.fromkeys(pairs, result.tested_in)
    for result in results.values():
        models = {model: model_numbers(result, model) for model in result.condition.activations}
        kernels = Counter(r["blas_kernel"] for m in models for r in result.records[m].values())
        result.numbers = {**models, **pair_numbers(result), "kernels": dict(kernels)}
        if base := family.base(result.condition):
            result.numbers["change"] = changed(result, results[base.label])
    if family.pooled:
        result = results[POOLED] = pool(list(results.values()))
        result.numbers = {**{m: model_numbers(result, m) for m in PAIR}, **pair_numbers(result)}
    tested = [result.numbers for result in results.values() if result.tested_in == name]
    adjust(tested)
    for numbers in tested:
        numbers["verdict"] = verdict(*map(label, PAIR), numbers)
    return results


def totals(name: str) -> Numbers:
    """A family's counts of runs, and of verdicts over its tests; the range of its differences."""
    results = list(analyse()[name].values())
    runs = [
        record
        for condition in FAMILIES[name].conditions
        for by_seed in analyse()[name][condition.label].records.values()
        for record in by_seed.values()
    ]
    words = [result.numbers.get("verdict") or "" for result in results]
    means = [r.numbers["difference"]["mean"] for r in results if r.numbers["difference"]["n"]]
    return {
        "conditions": len(FAMILIES[name].conditions),
        "planned": sum(c.seeds * len(c.activations) for c in FAMILIES[name].conditions),
        "runs": len(runs),
        "failed": sum(record["status"] != "ok" for record in runs),
        "tested": sum(result.tested_in == name for result in results),
        **{text: sum(word.startswith(text) for word in words) for text in VERDICTS},
        **({"least": min(means), "most": max(means)} if means else {}),
    }


def quantity(place: str) -> Any:
    """A number or a word: "family/condition:name", or "family:name" for its `totals`.

    Names are those of `Result.row` with dots between, like "relu.forgetting.std",
    "difference.low", "change.lwta.forgetting", "relu.matrix.2.0", and "records.relu.0.forgetting"
    of seed 0. A summary alone stands for its mean. Raises `InputError` where there is nothing.
    """
    where, _, name = place.rpartition(":")
    family, _, condition = where.partition("/")
    try:
        value: Any = totals(family)
        if condition:
            result = analyse()[family][POOLED if condition == "pooled" else condition]
            value = {**result.row(), "records": result.records}
        for part in name.split("."):
            if part in ("low", "high"):
                value = value["ci95"][part == "high"]
            else:
                value = value[int(part) if part.isdecimal() else part]
        return value["mean"] if isinstance(value, dict) else value
    except (KeyError, IndexError, TypeError):
        raise InputError(f"{place}: there is no such quantity") from None


# --- Tables ---------------------------------------------------------------------------------------


def pairs_text(row: Numbers) -> str:
    """How many pairs there are, how many were planned if more, and what failed."""
    n, planned = row["difference"]["n"], row["planned"]
    text = f"{n} of {planned}" if n < planned else f"{n}"
    if row["pairs_run"] < planned:
        text += f", {row['pairs_run']} run"
    failed = [f"{label(m)} {row[m]['failed']}" for m in PAIR if row[m]["failed"]]
    return text + (f", failed: {', '.join(failed)}" if failed else "")


def verdict_text(row: Numbers) -> str:
    """The verdict without the difference that could have been shown; for a reference, where."""
    if row["tested_in"] not in (None, row["family"]):
        return f"tested in `{row['tested_in']}`"
    return (row.get("verdict") or MISSING).partition(":")[0]


def p_text(row: Numbers) -> str:
    """The adjusted p-value of what is tested."""
    return MISSING if row.get("p_adjusted") is None else f"{row['p_adjusted']:.3g}"


def ratio_text(row: Numbers) -> str:
    """LWTA's mean forgetting over ReLU's."""
    relu, lwta = (row[model]["forgetting"]["mean"] for model in PAIR)
    return number(lwta / relu if relu and lwta is not None else None, 2)


def trained_text(row: Numbers) -> str:
    """How many of an activation's runs trained, and how many missed the loss that ends a task."""
    text = f"{row['ok']} of {row['run']}"
    if row["run"] < row["planned"]:
        text += f", {row['planned']} planned"
    return text + (f", {row['missed']} missed the target loss" if row["missed"] else "")


def error_text(error: Numbers) -> str:
    """A test error in %: mean, standard deviation and median."""
    if error["std"] is None:
        return number(error["mean"], 2)
    return f"{error['mean']:.2f} ± {error['std']:.2f}, median {error['median']:.2f}"


def summary(head: str, *names: str, sign: bool = True) -> Column:
    """A column with one of a row's summaries; empty where it has none."""

    def text(row: Numbers) -> str:
        for name in names:
            row = row.get(name) or {}
        return estimate(row, sign=sign) if row else ""

    return Column(head, text)


CONDITION = Column("condition", lambda row: row["label"])
FORGETTING = (
    CONDITION,
    Column("pairs", pairs_text),
    Column("ReLU", lambda row: number(row["relu"]["forgetting"]["mean"])),
    Column("LWTA", lambda row: number(row["lwta"]["forgetting"]["mean"])),
    summary("ReLU minus LWTA, 95 % interval", "difference"),
    Column("median", lambda row: number(row["difference"]["median"], sign=True)),
    Column("LWTA's wins", lambda row: f"{row['wins']}"),
)
TESTED = (
    Column("p, adjusted", p_text),
    Column("could show", lambda row: number(row.get("smallest_detectable"))),
    Column("verdict", verdict_text),
)
EXPLORED = (Column("LWTA over ReLU", ratio_text),)
BESIDE = (
    summary("ReLU minus LWTA: Task 1 learned", "differences", "learned"),
    summary("last task", "differences", "last_task"),
    summary("average accuracy", "differences", "average_accuracy"),
)
AT_CHANCE = summary("the same, failed runs at chance", "at_chance", "difference")
CHANGES = (
    CONDITION,
    summary("forgetting, ReLU", "change", "relu", "forgetting"),
    summary("forgetting, LWTA", "change", "lwta", "forgetting"),
    summary("average accuracy, ReLU", "change", "relu", "average_accuracy"),
    summary("average accuracy, LWTA", "change", "lwta", "average_accuracy"),
    summary("of ReLU minus LWTA", "change", "difference"),
    summary("ratio of its std", "change", "spread_ratio", sign=False),
)
ACTIVATION = (
    CONDITION,
    Column("activation", lambda row: label(row["model"])),
    Column("trained", trained_text),
)
MODELS = (
    *ACTIVATION,
    summary("first task learned", "learned", sign=False),
    summary("first task at the end", "kept", sign=False),
    summary("last task at the end", "last_task", sign=False),
    summary("average accuracy", "average_accuracy", sign=False),
    summary("forgetting", "forgetting", sign=False),
    summary("forward transfer", "forward_transfer", sign=False),
)
PAPER = (
    *ACTIVATION,
    Column("test error of Task 1 after Task 1, %", lambda row: error_text(row["error_learned"])),
    Column("the paper's", lambda row: "{:.2f} ± {:.2f}".format(*PAPER_ERRORS[row["model"]][0])),
    Column("after Task 2, %", lambda row: error_text(row["error_kept"])),
    Column("the paper's", lambda row: "{:.2f} ± {:.2f}".format(*PAPER_ERRORS[row["model"]][1])),
)
MATRIX = (
    Column("activation", lambda row: label(row["model"])),
    Column(
        "mean accuracy on each task: before training, then after each task",
        lambda row: "; ".join(" ".join(map(number, accuracies)) for accuracies in row["matrix"]),
    ),
)
OVERVIEW = (
    Column("family", lambda name: f"`{name}`"),
    Column("question", lambda name: FAMILIES[name].question),
    *(
        Column(text, lambda name, text=text: f"{totals(name)[text]}")
        for text in ("conditions", "tested", *VERDICTS, "runs", "planned", "failed")
    ),
)


def tables() -> dict[str, str]:
    """Every table of the study of conditions in Markdown, by its title."""
    pages = {"families": markdown(OVERVIEW, FAMILIES)}
    for name, family in FAMILIES.items():
        results = analyse()[name].values()
        rows = [r.row() for r in results if not r.condition.config("relu").joint]
        columns = [*FORGETTING, *(EXPLORED if family.exploratory else TESTED), *BESIDE]
        if any("at_chance" in row for row in rows):
            columns.append(AT_CHANCE)
        pages[f"{name}: {family.question}"] = markdown(columns, rows)
        if moved := [row for row in rows if "change" in row]:
            pages[f"{name}: change against another condition"] = markdown(CHANGES, moved)
        if family.detailed:
            rows = [r.row(model) for r in results for model in r.condition.activations]
            pages[f"{name}: each activation"] = markdown(MODELS, rows)
            if name == "paper-chosen":
                pages[f"{name}: the paper's table"] = markdown(PAPER, rows)
            if name == "five-task":
                pages[f"{name}: accuracies"] = markdown(MATRIX, rows)
    return pages
