"""A condition's numbers from its runs, by the one rule of inference, and their tables.

    quantity("block/k 16, equal units:difference.low")   a number by family, condition and name
    quantity("mechanism/default:relu-lwta.forgetting")   the same of what is looked into
    tables()                                             all of them as Markdown, by title

Every pair of runs is tested in one family only, the first that declares it; a condition with such
pairs is a reference in later families. Holm's adjustment is over a family's tested conditions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations
from typing import Any

import numpy as np

from compete.files import InputError
from compete.inference import ALIKE, LEVEL, STATUSES, adjust, compare, summarise, verdict
from compete.runs import Row
from compete_to_compute import chance, label
from study.families import FAMILIES, INSIDE, Condition, Family, Finished, activation_of, finished_in
from study.runs import CONDITIONS, MECHANISM, PAIR
from study.tables import MISSING, Column, estimate, look_up, markdown, number, summary, table

Numbers = dict[str, Any]
BySeed = dict[int, dict[str, float]]  # each seed's measures

# What every run has; the first task is the one that has longest to be forgotten.
MEASURES: dict[str, Callable[[Row], float | None]] = {
    "forgetting": lambda row: row["forgetting"],
    "average_accuracy": lambda row: row["average_accuracy"],
    "learned": lambda row: row["accuracy_matrix"][1][0],
    "kept": lambda row: row["accuracy_matrix"][-1][0],
    "last_task": lambda row: row["accuracy_matrix"][-1][-1],
    "task2": lambda row: row["accuracy_matrix"][-1][-1],  # the same where there are two
    "error_learned": lambda row: 100 * (1 - row["accuracy_matrix"][1][0]),  # in %
    "error_kept": lambda row: 100 * (1 - row["accuracy_matrix"][-1][0]),
}
# Task 1's test error in %, after Task 1 and after Task 2, mean and standard deviation over ten
# initialisations, as reported by the paper; read second-hand.
PAPER_ERRORS = {
    "lwta": ((1.55, 0.20), (6.12, 3.39)),
    "sigmoid": ((1.38, 0.06), (57.84, 1.13)),
    "relu": ((1.30, 0.13), (16.63, 6.07)),
}
POOLED = "each seed's mean over all of these"
DIFFERENCE = "-".join(PAIR)


@dataclass
class Result:
    """What the runs of a condition show.

    `rows` are all runs by activation and seed; `tested_in` is the family that tests them, None
    where nothing is tested. `numbers`, a table's row, has for each activation how many runs are
    there (`run`; `ok` and the other statuses; `failed`; `missed` the target loss) and a summary of
    each measure over those that are ok; for two activations, as in "relu-lwta", summaries of the
    paired differences; for ReLU minus LWTA also what `compare` gives, `verdict`, `last_task`,
    `average_accuracy`, and `at_chance`, which is average accuracy with failed runs as guessing;
    `change` against another condition; and `ratio`, LWTA's mean forgetting over ReLU's.
    """

    family: str
    condition: Condition
    rows: dict[str, dict[int, Row]]
    tested_in: str | None = None
    numbers: Numbers = field(default_factory=dict)

    @cached_property
    def measures(self) -> dict[str, BySeed]:
        """The measures of the runs that are ok, by activation, and the differences of two."""
        ok = {
            model: {s: measures_of(row) for s, row in rows.items() if row["status"] == "ok"}
            for model, rows in self.rows.items()
        }
        pairs = [(a, b) for a, b in combinations(ok, 2) if a in PAIR]
        return ok | {f"{a}-{b}": minus(ok[a], ok[b]) for a, b in pairs}

    def values(self, of: str, measure: str = "forgetting") -> dict[int, float]:
        """A measure of an activation, or of a difference, over the seeds that have it."""
        return {s: run[measure] for s, run in self.measures[of].items() if measure in run}

    def reached(self, model: str) -> dict[int, float]:
        """The forgetting of the runs that reached the target loss on every task, by seed."""
        rows = self.rows[model]
        return {s: v for s, v in self.values(model).items() if all(rows[s]["target_reached"] or [])}

    def of_model(self, model: str) -> Numbers:
        """Its numbers, and those of one activation beside them: a table's row."""
        return {**self.numbers, **self.numbers[model], "model": model}


# --- Numbers --------------------------------------------------------------------------------------


def measures_of(row: Row) -> dict[str, float]:
    """Every measure of a run that it has, by name.

    Of "gap.after2", a list, "gap.layer1.after2" is the first, and "gap.layer2-layer1.after2" what
    the second has more.
    """
    values = {name: of(row) for name, of in MEASURES.items()}
    for name, value in row.get("measures", {}).items():
        if not isinstance(value, list):
            values[name] = value
            continue
        measure, _, when = name.partition(".")
        values |= {f"{measure}.layer{n}.{when}": v for n, v in enumerate(value, start=1)}
        deeper = enumerate(value[1:], start=2)
        values |= {f"{measure}.layer{n}-layer1.{when}": v - value[0] for n, v in deeper}
    return {name: value for name, value in values.items() if value is not None}


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


def summarised(by_seed: BySeed, measure: str = "forgetting") -> Numbers:
    """`summarise` of a measure over the seeds that have it."""
    return summarise([run[measure] for run in by_seed.values() if measure in run])


def summaries(by_seed: BySeed) -> Numbers:
    """`summarised` of each measure, but of those inside that over a fifth of the seeds do not have.

    A level of Task 2 accuracy that few runs reach would be told of those alone.
    """
    count = Counter(name for run in by_seed.values() for name in run)
    often = [name for name in count if count[name] >= 0.8 * len(by_seed)]
    return {name: summarised(by_seed, name) for name in {**MEASURES, **dict.fromkeys(often)}}


def shared(first: dict[int, float], second: dict[int, float]) -> list[list[float]]:
    """The values of both on the seeds that both have."""
    seeds = sorted(first.keys() & second.keys())
    return [[values[seed] for seed in seeds] for values in (first, second)]


def set_numbers(result: Result, base: Result | None = None) -> None:
    """Fill in a result's numbers, tested if its family does; `base` is what it is compared with."""
    condition, numbers = result.condition, result.numbers
    numbers |= {"label": condition.label, "planned": condition.seeds}
    numbers |= {"family": result.family, "tested_in": result.tested_in}
    numbers |= {of: summaries(by_seed) for of, by_seed in result.measures.items()}
    for model, rows in result.rows.items():
        counts = Counter(row["status"] for row in rows.values())
        ok = [row for row in rows.values() if row["status"] == "ok"]
        missed = sum(not all(row["target_reached"] or []) for row in ok)
        numbers[model] |= {status: counts[status] for status in STATUSES}
        numbers[model] |= {"run": len(rows), "failed": len(rows) - len(ok), "missed": missed}
    numbers["failed"] = {model: numbers[model]["failed"] for model in result.rows}
    if result.tested_in == result.family:
        numbers |= compare(*shared(*map(result.values, PAIR)))
    else:
        gaps = result.values(DIFFERENCE).values()
        numbers |= {"wins": sum(gap > 0 for gap in gaps), "losses": sum(gap < 0 for gap in gaps)}
        numbers["difference"] = numbers[DIFFERENCE]["forgetting"]
    means = [numbers[model]["forgetting"]["mean"] for model in PAIR]
    numbers["ratio"] = means[1] / means[0] if None not in means and means[0] else None
    numbers |= {name: numbers[DIFFERENCE][name] for name in ("last_task", "average_accuracy")}
    guessing = chance(condition.config(PAIR[0]))
    worth: list[BySeed] = [
        {s: {"worth": r["average_accuracy"] if r["status"] == "ok" else guessing} for s, r in rows}
        for rows in (result.rows[model].items() for model in PAIR)
    ]
    numbers["at_chance"] = summarised(minus(*worth), "worth")  # so that nobody wins by failing
    if base:
        numbers["change"] = changed(result, base)


def changed(result: Result, base: Result) -> Numbers:
    """What a condition changes against another one, over the seeds that both have.

    Each activation's forgetting, and ReLU minus LWTA, this minus the other; and the ratio of the
    standard deviations of ReLU minus LWTA, with its 95 % interval from 10,000 bootstrap samples of
    seeds (percentiles).
    """
    changes = {
        of: summarised(minus(result.measures[of], base.measures[of]))
        for of in (*result.rows, DIFFERENCE)
    }
    numbers = {**changes, "difference": changes[DIFFERENCE]}
    here, there = map(np.array, shared(*(each.values(DIFFERENCE) for each in (result, base))))
    if len(here) >= 10:
        sample = np.random.default_rng(0).integers(len(here), size=(10_000, len(here)))
        with np.errstate(divide="ignore", invalid="ignore"):  # a sample may have no spread
            ratios = here[sample].std(axis=1) / there[sample].std(axis=1)
        interval = np.nanquantile(ratios, (0.025, 0.975)).tolist()
        numbers["spread_ratio"] = {"mean": float(here.std() / there.std()), "ci95": interval}
    return numbers


def pool(results: Sequence[Result]) -> Result:
    """Each seed's mean over several conditions, where all have its pair, as a result of its own."""
    rows: dict[str, dict[int, Row]] = {model: {} for model in PAIR}
    for seed in sorted(set.intersection(*(set(result.values(DIFFERENCE)) for result in results))):
        for model in PAIR:
            several = [result.rows[model][seed] for result in results]
            rows[model][seed] = {"status": "ok", "target_reached": None} | {
                name: np.mean([row[name] for row in several], axis=0).tolist()
                for name in ("forgetting", "average_accuracy", "accuracy_matrix")
            }
    family = results[0].family
    return Result(family, Condition(POOLED, seeds=results[0].condition.seeds), rows, family)


@cache
def analyse() -> dict[str, dict[str, Result]]:
    """The results of all families, by family and condition's label, from the committed runs."""
    rows, tested_in = finished_in(CONDITIONS.rows()), {}
    return {name: analyse_family(name, of, rows, tested_in) for name, of in FAMILIES.items()}


@cache
def inside() -> dict[str, Result]:
    """The results of what is looked into, by condition's label."""
    return analyse_family("mechanism", INSIDE, finished_in(MECHANISM.rows()), {})


def analyse_family(
    name: str, family: Family, rows: Finished, tested_in: dict[Any, str]
) -> dict[str, Result]:
    """The results of one family; `tested_in` has the family of each pair of runs so far."""
    results = {}
    for condition in family.conditions:
        result = results[condition.label] = Result(name, condition, condition.finished(rows))
        if not family.exploratory and not condition.config(PAIR[0]).joint:
            pairs = list(zip(*(condition.keys(model).values() for model in PAIR), strict=True))
            result.tested_in = next((tested_in[pair] for pair in pairs if pair in tested_in), name)
            tested_in |= dict.fromkeys(pairs, result.tested_in)
    for place, result in results.items():
        base = result.condition.against
        set_numbers(result, results[base] if base not in (None, place) else None)
    if family.pooled:
        results[POOLED] = pool(list(results.values()))
        set_numbers(results[POOLED])
    tested = [result.numbers for result in results.values() if result.tested_in == name]
    also = []
    for result in results.values() if family.accuracy_too else ():
        also.append(compare(*shared(*(result.values(m, "average_accuracy") for m in PAIR))))
        result.numbers["accuracy_test"] = also[-1]
    adjust([*tested, *also])
    for numbers in tested:
        numbers["verdict"] = verdict(*map(label, PAIR), numbers)
    if family.declared:
        judge_declared([result for result in results.values() if result.tested_in == name])
    return results


def judge_declared(results: Sequence[Result]) -> None:
    """Set the verdicts of a family by the rule of declared.md; none until all its runs are there.

    Beside the one rule, the 95 % interval must lie beyond `ALIKE`; at most a fifth of the pairs
    may fail; and the pairs in which both networks reached the target loss must say the same.
    """
    reached = [compare(*shared(*map(result.reached, PAIR))) for result in results]
    adjust(reached)
    missing = any(len(r.rows[m]) < r.condition.seeds for r in results for m in PAIR)
    for result, short in zip(results, reached, strict=True):
        planned = result.condition.seeds
        left = planned - result.numbers["difference"]["n"]
        words = declared_word(result.numbers)
        if left > planned / 5:
            words = f"no verdict: {left} of {planned} pairs failed"
        elif declared_word(short) != words and short["difference"]["n"] < planned - left:
            words = "undecided: runs short of the loss decide"
        result.numbers["verdict"] = None if missing else words


def declared_word(comparison: Numbers) -> str | None:
    """What a comparison says by declared.md."""
    said = verdict(*map(label, PAIR), comparison)
    if said is None or comparison["p_adjusted"] >= LEVEL:
        return said
    low, high = comparison["difference"]["ci95"]
    if low > ALIKE or high < -ALIKE:
        return said
    return f"a difference, perhaps below {ALIKE:.3f}"


def result_at(place: str) -> Result:
    """The result of "family/condition"; `InputError` where there is none."""
    family, _, condition = place.partition("/")
    try:
        results = inside() if family == "mechanism" else analyse()[family]
        return results[POOLED if condition == "pooled" else condition]
    except KeyError:
        raise InputError(f"{place}: there is no such condition") from None


def quantity(place: str) -> Any:
    """A number or a word: "family/condition:name"; the condition may be "pooled".

    Names are those of `Result.numbers` with dots between, like "relu.forgetting.std",
    "difference.low", "change.lwta", and "records.relu.0.forgetting" of seed 0. A summary alone
    stands for its mean. Raises `InputError` where there is nothing.
    """
    where, _, name = place.rpartition(":")
    result = result_at(where)
    return look_up({**result.numbers, "records": result.rows}, name, place)


# --- The bridge -----------------------------------------------------------------------------------

# What differs between the published setting and the small one: its words, and its two values.
INGREDIENTS = {
    "init_scale": ("initial weights, 1 to 0.2", 1.0, 0.2),
    "lr": ("learning rate, 0.05 to 0.01", 0.05, 0.01),
    "epochs": ("epochs a task, 5 to 20", 5, 20),
}


def carried() -> list[Numbers]:
    """How much of the gap each ingredient carries, a row each, by the rule of declared.md.

    `out`: what it adds to the gap of the published setting; `back`: what it adds to that of the
    small one, to which the other two already belong. Both are seed by seed.
    """
    gaps = {
        tuple(result.condition.changes[name] for name in INGREDIENTS): result.measures[DIFFERENCE]
        for result in analyse()["bridge"].values()
    }
    published, small = zip(*(values for _, *values in INGREDIENTS.values()), strict=True)
    rows = []
    for place, (words, *_) in enumerate(INGREDIENTS.values()):
        alone = (*published[:place], small[place], *published[place + 1 :])
        missing = (*small[:place], published[place], *small[place + 1 :])
        out = summarised(minus(gaps[alone], gaps[published]))
        back = summarised(minus(gaps[small], gaps[missing]))
        ends = [way["ci95"] or (-1, 1) for way in (out, back)]
        word = "undecided"
        if any(low > ALIKE for low, _ in ends):
            word = "carries the gap"
        elif all(low > -ALIKE and high < ALIKE for low, high in ends):
            word = "passenger"
        rows.append({"label": words, "out": out, "back": back, "word": word})
    return rows


# --- The paper ------------------------------------------------------------------------------------


def distance_from_paper(numbers: Numbers) -> float | None:
    """How far a cell's two errors are from the paper's, by declared.md; None if it is no candidate.

    The sum of the squared distances on Task 1 after Task 2, in the paper's standard deviations.
    """
    failed, missed = (sum(numbers[model][name] for model in PAIR) for name in ("failed", "missed"))
    if numbers["difference"]["n"] < 3 or failed or missed > 1:
        return None
    errors = ((numbers[model]["error_kept"]["mean"], *PAPER_ERRORS[model][1]) for model in PAIR)
    return sum(((ours - theirs) / std) ** 2 for ours, theirs, std in errors)


# --- Tables ---------------------------------------------------------------------------------------


def pairs_text(row: Numbers) -> str:
    """How many pairs there are, how many were planned if more, and what failed."""
    n, planned = row["difference"]["n"], row["planned"]
    failed = [f"{label(model)} {row[model]['failed']}" for model in PAIR if row[model]["failed"]]
    text = f"{n} of {planned}" if n < planned else f"{n}"
    return text + (f", failed: {', '.join(failed)}" if failed else "")


def p_text(row: Numbers) -> str:
    """The adjusted p-value of what is tested."""
    return MISSING if row.get("p_adjusted") is None else f"{row['p_adjusted']:.3g}"


def verdict_text(row: Numbers) -> str:
    """The verdict, and whether its evidence is weak; for a reference, where it is tested."""
    if row["tested_in"] not in (None, row["family"]):
        return f"not tested alone, part of `{row['tested_in']}`"
    words = row.get("verdict") or MISSING
    return f"{words}, weakly" if "forgets less" in words and row["p_adjusted"] >= 0.01 else words


def trained_text(row: Numbers) -> str:
    """How many of an activation's runs trained, and how many missed the loss that ends a task."""
    text = f"{row['ok']} of {row['run']}"
    if row["run"] < row["planned"]:
        text += f", {row['planned']} planned"
    return text + (f", {row['missed']} missed the target loss" if row["missed"] else "")


CONDITION = Column("condition", lambda row: row["label"])
FORGETTING = (
    CONDITION,
    Column("pairs", pairs_text),
    Column("ReLU forgets", lambda row: number(row["relu"]["forgetting"]["mean"])),
    Column("LWTA", lambda row: number(row["lwta"]["forgetting"]["mean"])),
    summary("ReLU minus LWTA, 95 % interval", "difference"),
    Column("LWTA over ReLU", lambda row: number(row["ratio"], 2)),
    Column("LWTA's wins", lambda row: f"{row['wins']}"),
    summary("last task's accuracy, ReLU minus LWTA", "last_task"),
    summary("average accuracy, failed runs as guessing", "at_chance"),
)
PAGE = (
    *FORGETTING[:6],
    Column(
        "last task's accuracy, ReLU minus LWTA",
        lambda row: number(row["last_task"]["mean"], sign=True),
    ),
    Column(
        "average, ReLU minus LWTA", lambda row: number(row["average_accuracy"]["mean"], sign=True)
    ),
)
TESTED = (Column("p, adjusted", p_text), Column("verdict", verdict_text))
CHANGES = (
    CONDITION,
    summary("forgetting, ReLU", "change", "relu"),
    summary("forgetting, LWTA", "change", "lwta"),
    summary("ReLU minus LWTA", "change", "difference"),
    summary("ratio of its std", "change", "spread_ratio", sign=False),
)
ACTIVATION = (
    CONDITION,
    Column("activation", lambda row: label(row["model"])),
    Column("trained", trained_text),
    summary("forgetting", "forgetting", sign=False),
)
ACCURACIES = (
    *ACTIVATION,
    summary("first task learned", "learned", sign=False),
    summary("at the end", "kept", sign=False),
    summary("last task at the end", "last_task", sign=False),
    summary("average accuracy", "average_accuracy", sign=False),
)


def paper_columns(head: str, name: str, moment: int) -> list[Column]:
    """Task 1's test error in %, mean and standard deviation, beside the paper's."""
    ours, theirs = (lambda row: row[name]), (lambda row: PAPER_ERRORS[row["model"]][moment])
    return [
        Column(head, lambda row: f"{number(ours(row)['mean'], 2)} ± {number(ours(row)['std'], 2)}"),
        Column("the paper's", lambda row: "{:.2f} ± {:.2f}".format(*theirs(row))),
    ]


CARRIED = (
    Column("ingredient", lambda row: row["label"]),
    summary("adds to the published setting's gap", "out"),
    summary("adds to the gap where the others are small already", "back"),
    Column("by the declared rule", lambda row: row["word"]),
)
DISTANCE = Column("distance from the paper", lambda row: number(distance_from_paper(row), 2))
PAPER = (
    *ACTIVATION,
    *paper_columns("Task 1 error after Task 1, %", "error_learned", 0),
    *paper_columns("after Task 2, %", "error_kept", 1),
)


OF_A_NETWORK = (  # measures, by the names that prose may cite
    *("forgetting", "task2", "lost.at0.925", "probe.lost", "activity.layer1.after2"),
    *("activity.layer2.after2", "information.layer1.after2", "information.layer2.after2"),
    *("overlap_tasks.layer1.after2", "overlap_tasks.layer2.after2"),
)


def chosen_rows(head: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of some results in Markdown, each with a label of its own and its place."""
    numbers = [{**result_at(place).numbers, "label": text} for text, place in rows]
    columns = (Column(head, CONDITION.text), *PAGE[1:], TESTED[1])
    return markdown(
        columns if any(row.get("verdict") for row in numbers) else columns[:-1], numbers
    )


def tables() -> dict[str, str]:
    """Every table of the study of conditions in Markdown, by its title."""
    pages = {}
    for name, family in FAMILIES.items():
        results = analyse()[name].values()
        rows = [r.numbers for r in results if not r.condition.config(PAIR[0]).joint]
        columns = FORGETTING if family.exploratory else (*FORGETTING, *TESTED)
        is_paper = name.startswith("paper")
        columns = (*columns, DISTANCE) if is_paper else columns
        pages[f"{name}: {family.question}"] = markdown(columns, rows)
        if moved := [row for row in rows if "change" in row]:
            pages[f"{name}: change against another condition"] = markdown(CHANGES, moved)
        by_model = [r.of_model(model) for r in results for model in r.rows]
        columns = PAPER if is_paper else ACCURACIES
        pages[f"{name}: each activation"] = markdown(columns, by_model)
        if name == "bridge":
            pages["bridge: what carries the gap"] = markdown(CARRIED, carried())
    return pages


def inside_tables() -> dict[str, str]:
    """The table of all networks that are looked into, by its title."""
    rows = []
    for name, result in inside().items():
        for model in result.rows:
            own = result.numbers[model]
            less = [result.numbers.get(f"{first}-{model}", {}).get("forgetting") for first in PAIR]
            cells = [estimate(own[m], sign=False) if m in own else "" for m in OF_A_NETWORK]
            cells += [estimate(difference) if difference else "" for difference in less]
            rows.append([name, activation_of(model).label, f"{own['failed']}", *cells])
    heads = ["condition", "network", "failed runs", *OF_A_NETWORK]
    heads += [f"{label(model)}'s forgetting minus its" for model in PAIR]
    return {"mechanism: networks": table(heads, rows)}
