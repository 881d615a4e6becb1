"""What the runs of `readout` show so far, in Markdown: conditions, and the links of declared.md.

python3 -m study.readout_analysis
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from compete_to_compute import ALIKE, adjust, compare, student_t_quantile, summarise
from study.analysis import declared_word, minus, shared
from study.conditions import START_SCALES, random_splits
from study.readout import CELLS, OTHERS, SHARES, SIGNALS, Cell, read_rows, run_key
from study.runs import PAIR
from study.tables import MISSING, Column, estimate, markdown, number

Values = dict[int, float]  # by seed
Row = dict[str, Any]
SHARE_MARGIN = 0.020  # of "alike at an equal share", and of the curve
CURVE_CELLS = tuple({0.2: "small", 1.0: "usual"}.get(s, f"init scale {s}") for s in START_SCALES)

# --- Values of runs -------------------------------------------------------------------------------


@cache
def all_rows() -> dict[str, Row]:
    """The file's rows by `run_key`."""
    return read_rows()


@cache
def rows_of(label: str, model: str) -> dict[int, Row]:
    """The rows there are of a condition and model whose run is ok, by seed."""
    cell = CELLS[label]
    keys = {seed: run_key(cell.row_identity(model, seed)) for seed in cell.all_seeds}
    rows = {seed: all_rows()[key] for seed, key in keys.items() if key in all_rows()}
    return {seed: row for seed, row in rows.items() if row["status"] == "ok"}


def inside(name: str) -> Callable[[Row], float | None]:
    """A reader of a measure inside; of several later tasks their mean."""

    def read(row: Row) -> float | None:
        present = [value for value in row["inside"][name] if value is not None]
        return float(np.mean(present)) if present else None

    return read


MEASURES: dict[str, Callable[[Row], float | None]] = {
    "forgetting": lambda row: row["forgetting"],
    "average_accuracy": lambda row: row["average_accuracy"],
    "last_task": lambda row: row["accuracy_matrix"][-1][-1],
    **{
        name: inside(name)
        for name in ("overlap", "overlap_before", "feature_overlap", "effective_rank")
    },
    **{name: inside(name) for name in ("signal_share", "drift", "drift_outside", "rows_norm")},
}


def values(label: str, model: str, measure: str = "forgetting") -> Values:
    """A measure of a condition's runs that are ok, by seed."""
    read = {seed: MEASURES[measure](row) for seed, row in rows_of(label, model).items()}
    return {seed: value for seed, value in read.items() if value is not None}


def gap(label: str, measure: str = "forgetting") -> Values:
    """ReLU minus LWTA, over the seeds that both have."""
    relu, lwta = (values(label, model, measure) for model in PAIR)
    return {seed: relu[seed] - lwta[seed] for seed in sorted(relu.keys() & lwta.keys())}


# --- Tests ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Test:
    """One difference of a declared family: first minus second, seed by seed."""

    label: str
    first: Values
    second: Values


def gap_test(label: str) -> Test:
    """The gap of a condition."""
    return Test(f"gap, {label}", values(label, "relu"), values(label, "lwta"))


def change_test(without: str, with_it: str) -> Test:
    """The change of the gap: that of `without` minus that of `with_it`."""
    return Test(f"gap, {without} minus {with_it}", gap(without), gap(with_it))


def families() -> dict[str, list[Test]]:
    """The declared families of tests, by name."""
    elsewhere = ["one layer", "three layers", *random_splits(3000, 5), "five tasks", "published"]
    elsewhere += ["usual", *(c for c in CURVE_CELLS if c not in ("small", "usual"))]
    elsewhere += ["paper, three layers"]
    fashion = [label for label in CELLS if label.startswith("fashion")]
    elsewhere += [label for label in fashion if "protected" not in label]
    standing = [f"small, share {share}, rows stand still" for share in SHARES]
    turned = [f"{start}, share {share}" for start in ("small", "usual") for share in SHARES]
    protected = "small, protected"
    return {
        "readout-removed": [
            test
            for label in ("small", "paper")
            for test in (change_test(label, f"{label}, protected"), gap_test(f"{label}, protected"))
        ],
        "readout-controls": [change_test(f"small, signal {how}", protected) for how in SIGNALS],
        "readout-shares": [gap_test(label) for label in (*turned, *standing)],
        "readout-features": [change_test("small", f"small, feature overlap {OTHERS}")],
        "readout-elsewhere": [change_test(label, f"{label}, protected") for label in elsewhere],
        "readout-fashion": [gap_test(label) for label in fashion],
    }


def family_table(tests: Sequence[Test]) -> str:
    """The tests of a family, adjusted over those that have pairs."""
    results = [(test.label, compare(*shared(test.first, test.second))) for test in tests]
    adjust([numbers for _, numbers in results])

    def word(numbers: Row) -> str:
        """What a difference is, in words that name no activation."""
        said = declared_word(numbers) or MISSING
        low, high = numbers["difference"]["ci95"] or (0, 0)
        return "shown" if "forgets less" in said and (low > ALIKE or high < -ALIKE) else said

    columns = (
        Column("difference", lambda row: row[0]),
        Column("pairs", lambda row: str(row[1]["difference"]["n"])),
        Column("mean (95 %)", lambda row: estimate(row[1]["difference"])),
        Column("p, adjusted", lambda row: number(row[1]["p_adjusted"], 4)),
        Column("90 %", lambda row: " to ".join(number(v, 3, True) for v in row[1]["ci90"] or ())),
        Column("verdict", lambda row: word(row[1])),
    )
    return markdown(columns, results)


# --- Conditions -----------------------------------------------------------------------------------


def mean_of(label: str, measure: str, digits: int = 3) -> str:
    """The means of a measure over both activations' runs, ReLU then LWTA."""
    means = [summarise(list(values(label, m, measure).values()))["mean"] for m in PAIR]
    return " ".join(number(mean, digits) for mean in means)


def condition_table() -> str:
    """All conditions of ReLU and LWTA that have runs."""
    there = [cell for cell in CELLS.values() if cell.activations == PAIR and gap(cell.label)]

    def column(head: str, measure: str, digits: int = 3) -> Column:
        return Column(head, lambda cell: mean_of(cell.label, measure, digits))

    def failed(cell: Cell) -> int:
        keys = (run_key(cell.row_identity(m, s)) for m in PAIR for s in cell.all_seeds)
        return sum(all_rows()[key]["status"] != "ok" for key in keys if key in all_rows())

    columns = (
        Column("condition", lambda cell: cell.label),
        Column("pairs", lambda cell: f"{len(gap(cell.label))} of {cell.seeds}"),
        Column("failed", lambda cell: str(failed(cell))),
        column("forgetting, ReLU LWTA", "forgetting"),
        Column("difference (95 %)", lambda c: estimate(summarise([*gap(c.label).values()]))),
        column("overlap", "overlap", 2),
        Column(
            "difference in overlap",
            lambda cell: estimate(summarise([*gap(cell.label, "overlap").values()]), 2),
        ),
        column("feature overlap", "feature_overlap", 2),
        column("signal share", "signal_share", 2),
        column("drift in span", "drift", 2),
        column("effective rank", "effective_rank", 1),
        column("Task 2", "last_task"),
        column("average accuracy", "average_accuracy"),
    )
    return markdown(columns, there)


def other_table() -> str:
    """The conditions of other networks, a row each."""
    rows = [
        (cell.label, model)
        for cell in CELLS.values()
        if cell.activations != PAIR
        for model in cell.activations
        if rows_of(cell.label, model)
    ]

    def column(head: str, measure: str) -> Column:
        return Column(head, lambda row: estimate(summarise([*values(*row, measure).values()]), 2))

    measures = ("forgetting", "overlap", "feature_overlap", "last_task")
    columns = [Column("condition", " ".join), *(column(m.replace("_", " "), m) for m in measures)]
    return markdown(columns, rows)


# --- Links ----------------------------------------------------------------------------------------


def put_in_table() -> str:
    """Forgetting at a share of .8 minus at 0, by start and network; at .8 minus .2 of features."""
    places = [(f"{start}, share 0.8", f"{start}, share 0.0") for start in ("small", "usual")]
    places += [("small, feature overlap 0.8", "small, feature overlap 0.2")]
    rows = [(*place, model) for place in places for model in PAIR]

    def column(measure: str) -> Column:
        def text(row: tuple[str, str, str]) -> str:
            high, low, model = row
            return estimate(minus(values(high, model, measure), values(low, model, measure)))

        return Column(measure, text)

    columns = [Column("first minus second", lambda row: f"{row[0]} minus {row[1]}, {row[2]}")]
    return markdown([*columns, column("forgetting"), column("overlap")], rows)


def left_line(label: str) -> str:
    """Gap left by protection minus half the gap, seed by seed: "for the most part" if below 0."""
    whole, left = gap(label), gap(f"{label}, protected")
    difference = minus(left, {seed: value / 2 for seed, value in whole.items()})
    return f"{label}: gap left minus half the gap {estimate(difference)}, {difference['n']} pairs"


def curve_distance(measure: str = "overlap") -> tuple[float, int] | None:
    """Mean distance of LWTA's cell means from ReLU's curve of forgetting, and of how many cells."""
    points = {
        model: [
            (np.mean(list(x.values())), np.mean(list(values(label, model).values())))
            for label in CURVE_CELLS
            if (x := values(label, model, measure))
        ]
        for model in PAIR
    }
    if not all(points.values()):
        return None
    (x, y), (own_x, own_y) = (np.array(sorted(points[model])).T for model in PAIR)
    inner = (own_x >= x[0]) & (own_x <= x[-1])
    distance = own_y[inner] - np.interp(np.log(own_x[inner]), np.log(x), y)
    return float(distance.mean()), int(inner.sum())


def spearman(first: Values, second: Values) -> str:
    """Spearman's correlation over the seeds of both, with Fisher's 95 % interval."""
    x, y = shared(first, second)
    if len(x) < 5:
        return MISSING
    r = float(spearmanr(x, y).statistic)
    ends = np.tanh(np.arctanh(r) + np.array([-1, 1]) * 1.96 / np.sqrt(len(x) - 3))
    return f"{r:+.2f} ({ends[0]:+.2f} to {ends[1]:+.2f}), {len(x)}"


def before_task_2() -> list[str]:
    """Whether feature overlap at the switch goes with overlap and forgetting in the small cell."""
    lines = []
    for measure in ("overlap", "forgetting"):
        for model in PAIR:
            pair = (values("small", model, m) for m in ("feature_overlap", measure))
            lines.append(f"{model}, feature overlap and {measure}: {spearman(*pair)}")
        pair = (gap("small", m) for m in ("feature_overlap", measure))
        lines.append(f"differences, feature overlap and {measure}: {spearman(*pair)}")
    return lines


def regression_line(label: str) -> str:
    """The gap at equal overlap within a cell: intercept of gap on the difference in overlap."""
    overlap, forgetting = (np.array(v) for v in shared(gap(label, "overlap"), gap(label)))
    n = len(overlap)
    if n < 5:
        return f"{label}: {MISSING}"
    design = np.column_stack([np.ones(n), overlap])
    solution, squares, *_ = np.linalg.lstsq(design, forgetting, rcond=None)
    covariance = np.linalg.inv(design.T @ design) * squares[0] / (n - 2)
    half = student_t_quantile(0.975, n - 2) * np.sqrt(np.diag(covariance))
    (at_zero, slope), (low, more) = solution, half
    return (
        f"{label}: gap at equal overlap {at_zero:+.3f} (+- {low:.3f}), "
        f"slope {slope:+.2f} (+- {more:.2f}), {n} pairs"
    )


def report() -> str:
    """Everything there is, in Markdown."""
    parts = ["# Readout runs so far", condition_table(), other_table()]
    for name, tests in families().items():
        parts += [f"## {name}", family_table(tests)]
    lines = [*map(left_line, ("small", "paper")), f"curve: {curve_distance()}", *before_task_2()]
    lines += map(regression_line, ("small", "usual", "paper"))
    return "\n\n".join([*parts, "## Links", put_in_table(), "\n".join(f"- {x}" for x in lines)])


if __name__ == "__main__":
    print(report())
