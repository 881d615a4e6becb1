"""Why the small start brings a gap: the tests that declared.md names, with tables and figures.

The means and correlations are over the seeds of the mechanism's cells, the frontier is over the
cells of `start-rate`. Intervals, no verdicts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import norm, spearmanr

from compete_to_compute import label, summarise
from study import analysis, mechanism_analysis
from study.mechanism import MODELS
from study.mechanism_analysis import BySeed, minus
from study.runs import FIGURES, PAIR
from study.tables import MISSING, Column, estimate, markdown, number
from visualize_compete_to_compute import colour, save_figure

Numbers = dict[str, Any]
SMALL, HE = "init scale 0.2, 2 layers", "init scale 1.0, 2 layers"
ROWS_AT = ", Task 2's output rows at "
DIFFERENCE = "-".join(PAIR)
CURVES = {  # what might hold both networks on one curve
    "logit_std": "standard deviation of the logits at the start",
    "tangent_trace": "trace of the tangent kernel at the start, a logit and image",
    "moved.layer1.task2": "relative change of layer 1 in Task 2",
    "rank.layer1.after1": "effective rank of layer 1 after Task 1",
}
WITHIN = {
    "rank.layer1.after1": "effective rank of layer 1 after Task 1",
    "rank.layer2.after1": "effective rank of layer 2 after Task 1",
    "cosine.layer1.after1": "mean cosine of layer 1's incoming weights, absolute",
    "moved.layer1.task2": "relative change of layer 1 in Task 2",
    "moved.layer2.task2": "relative change of layer 2 in Task 2",
}
MEASURES = {
    "forgetting": "forgetting",
    "task2": "Task 2 accuracy",
    "lost.at0.9": "lost when Task 2 is first at .90",
    "rank.layer1.before": "effective rank of layer 1 before training",
    **WITHIN,
    "moved.layer3.task2": "relative change of the output layer in Task 2",
    "moved_rank.layer1.task1": "effective rank of what Task 1 changes in layer 1",
    "dead.layer1.after1": "share of layer 1's units that no test image activates",
    "overlap_tasks.layer1.after1": "overlap of active sets across tasks, layer 1",
    "lost.old_head": "lost with the old output rows on the new features",
    "lost.new_head": "lost with the new output rows on the old features",
    "lost.offsets": "lost with five class offsets refitted",
    "five_shot.lost": "lost by five images a class, nearest mean",
    "probe.lost": "lost by a linear probe",
    "information_share.layer1.after2": "share of a unit's entropy that tells the task, layer 1",
    "information_share_chance.layer1.after2": "the same for other partings of the digits",
    "information_share.layer2.after2": "share of a unit's entropy that tells the task, layer 2",
    "information_share_chance.layer2.after2": "the same for other partings of the digits, layer 2",
}
DEPTHS = ("1 layer", "2 layers", "3 layers")
LEAST_TASK_2 = (0.92, 0.93, 0.94, 0.945, 0.95)


@cache
def cell(name: str) -> dict[str, BySeed]:
    """The measures of a cell's networks by seed, and of ReLU minus LWTA."""
    return mechanism_analysis.measured(name)


def cells() -> list[str]:
    """The mechanism's cells of two layers, by the scale of their initial weights."""
    return [name for name in mechanism_analysis.CONDITIONS if name.endswith("2 layers")]


def values(by_seed: BySeed, measure: str) -> list[float]:
    """A measure over the seeds that have it."""
    return [run[measure] for run in by_seed.values() if measure in run]


def correlation(by_seed: BySeed, measure: str) -> Numbers:
    """Spearman's correlation of a measure with forgetting over seeds, as a summary has it.

    The 95 % interval is Fisher's, of standard error 1 / sqrt(n - 3).
    """
    x, y = values(by_seed, measure), values(by_seed, "forgetting")
    rho = float(spearmanr(x, y).statistic)
    half = norm.ppf(0.975) / np.sqrt(len(x) - 3)
    ends = [float(np.tanh(np.arctanh(rho) + side * half)) for side in (-1, 1)]
    return {"mean": rho, "ci95": ends}


def curve(measure: str) -> dict[str, np.ndarray]:
    """For each network the cells' means of a measure and of forgetting, (2, cells)."""
    return {
        model: np.array(
            [
                [np.mean(values(cell(name)[model], which)) for name in cells()]
                for which in (measure, "forgetting")
            ]
        )
        for model in PAIR
    }


def distance(measure: str) -> Numbers:
    """How far LWTA's cells lie from ReLU's curve, straight in log x, where x is in its range."""
    both = curve(measure)
    (x, y), (lwta_x, lwta_y) = (both[model] for model in PAIR)
    order = np.argsort(x)
    inside = (lwta_x >= x.min()) & (lwta_x <= x.max())
    expected = np.interp(np.log(lwta_x[inside]), np.log(x[order]), y[order])
    away = (lwta_y[inside] - expected).tolist()
    mean = float(np.mean(away)) if away else None
    farthest = max(away, key=abs, default=None)
    return {"label": CURVES[measure], "cells": len(away), "mean": mean, "farthest": farthest}


def frontier() -> list[Numbers]:
    """The least mean forgetting of each network at a least Task 2 accuracy, over start and rate."""
    rows: list[Numbers] = [
        {"label": f"Task 2 at least {least:.3f}".rstrip("0")} for least in LEAST_TASK_2
    ]
    rows.append({"label": "the highest average accuracy"})
    for model in PAIR:
        trained = trained_cells(model)
        for row, least in zip(rows, LEAST_TASK_2, strict=False):
            reached = [
                (cell["forgetting"]["mean"], name)
                for name, cell in trained.items()
                if cell["last_task"]["mean"] >= least
            ]
            row[model] = min(reached, default=(None, MISSING))
        rows[-1][model] = max((c["average_accuracy"]["mean"], n) for n, c in trained.items())
    return rows


def trained_cells(model: str) -> dict[str, Numbers]:
    """A network's numbers in the cells of `start-rate` in which none of its runs failed."""
    cells = {n: result.numbers[model] for n, result in analysis.analyse()["start-rate"].items()}
    return {name: cell for name, cell in cells.items() if not cell["failed"]}


# --- Tables ---------------------------------------------------------------------------------------


def summary_of(name: str, of: str, measure: str, sign: bool = False) -> str:
    """A cell's mean and interval of a measure, as text."""
    present = values(cell(name).get(of, {}), measure)
    return estimate(summarise(present), sign=sign) if present else MISSING


def means_table() -> str:
    """Every measure in the small and in the He cell, also with Task 2's output rows exchanged."""
    columns = [Column("measure", lambda row: MEASURES[row])]
    exchanged = (
        (f"{SMALL}{ROWS_AT}1.0", "small, He rows"),
        (f"{HE}{ROWS_AT}0.2", "He, small rows"),
    )
    for name, words in ((SMALL, "small"), (HE, "He"), *exchanged):
        for of, who in ((PAIR[0], "ReLU"), (PAIR[1], "LWTA"), (DIFFERENCE, "ReLU minus LWTA")):
            columns.append(
                Column(
                    f"{words}: {who}",
                    lambda row, name=name, of=of: summary_of(name, of, row, of == DIFFERENCE),
                )
            )
    return markdown(columns, MEASURES)


def correlations_table() -> str:
    """How forgetting goes with each measure over the small cell's seeds."""
    columns = [Column("goes with forgetting", lambda row: WITHIN[row])]
    for of, who in ((PAIR[0], "ReLU"), (PAIR[1], "LWTA"), (DIFFERENCE, "ReLU minus LWTA")):
        columns.append(
            Column(who, lambda row, of=of: estimate(correlation(cell(SMALL)[of], row), 2))
        )
    return markdown(columns, WITHIN)


def rows_table() -> str:
    """What Task 2's output rows do that start at another scale than the rest of the network."""
    rows = []
    for base, scales in {SMALL: (0.2, 1.0), HE: (1.0, 0.2)}.items():
        for scale in scales:
            is_base = scale == scales[0]
            name = base if is_base else f"{base}{ROWS_AT}{scale}"
            gaps = minus(cell(name)[DIFFERENCE], cell(base)[DIFFERENCE])
            change = "" if is_base else estimate(summarise(values(gaps, "forgetting")))
            rows.append({"scales": (scales[0], scale), "name": name, "change": change})
    measures = [
        *(("forgetting, ReLU", "relu", "forgetting"), ("LWTA", "lwta", "forgetting")),
        ("ReLU minus LWTA", DIFFERENCE, "forgetting"),
        *(("Task 2, ReLU", "relu", "task2"), ("LWTA", "lwta", "task2")),
    ]
    columns = (
        Column("network from", lambda row: f"{row['scales'][0]}"),
        Column("Task 2's output rows from", lambda row: f"{row['scales'][1]}"),
        *(
            Column(head, lambda row, of=of, m=m: summary_of(row["name"], of, m, of == DIFFERENCE))
            for head, of, m in measures
        ),
        Column("change of ReLU minus LWTA", lambda row: row["change"]),
    )
    return markdown(columns, rows)


def depths_table() -> str:
    """The two measures that should go with the gap, at each depth, from either start."""

    def goes_with(measure: str) -> Column:
        return Column(
            "goes with the gap",
            lambda name: estimate(correlation(cell(name)[DIFFERENCE], measure), 2),
        )

    def difference(head: str, measure: str) -> Column:
        return Column(head, lambda name: summary_of(name, DIFFERENCE, measure, sign=True))

    rank, moved = "rank.layer1.after1", "moved.layer1.task2"
    columns = (
        Column("cell", lambda name: name),
        Column("forgetting, ReLU", lambda name: summary_of(name, "relu", "forgetting")),
        Column("LWTA", lambda name: summary_of(name, "lwta", "forgetting")),
        difference("ReLU minus LWTA", "forgetting"),
        difference("effective rank of layer 1, ReLU minus LWTA", rank),
        goes_with(rank),
        difference("relative change of layer 1, ReLU minus LWTA", moved),
        goes_with(moved),
    )
    names = [f"init scale {scale}, {depth}" for depth in DEPTHS for scale in (0.2, 1.0)]
    return markdown(columns, names)


def networks_table() -> str:
    """What the networks that do not compete forget from the small start."""
    lwta = cell(SMALL)["lwta"]
    columns = (
        Column("network", lambda model: MODELS[model].label),
        Column("forgetting", lambda model: summary_of(SMALL, model, "forgetting")),
        Column("Task 2", lambda model: summary_of(SMALL, model, "task2")),
        Column(
            "forgetting minus LWTA's",
            lambda model: estimate(
                summarise(values(minus(cell(SMALL)[model], lwta), "forgetting"))
            ),
        ),
        Column("lost when Task 2 is first at .90", lambda m: summary_of(SMALL, m, "lost.at0.9")),
    )
    return markdown(columns, MODELS)


def tables() -> dict[str, str]:
    """The tables in Markdown, by title."""
    best = (
        Column("", lambda row: row["label"]),
        *(
            Column(
                f"{label(model)}, and where",
                lambda row, m=model: f"{number(row[m][0])}, {row[m][1]}",
            )
            for model in PAIR
        ),
    )
    curves = (
        Column("forgetting against", lambda row: row["label"]),
        Column("LWTA's cells within ReLU's range", lambda row: f"{row['cells']}"),
        Column("their mean distance from ReLU's curve", lambda row: number(row["mean"], sign=True)),
        Column("the farthest", lambda row: number(row["farthest"], sign=True)),
    )
    return {
        "why: inside the networks": means_table(),
        "why: within the small cell": correlations_table(),
        "why: Task 2's output rows": rows_table(),
        "why: at other depths": depths_table(),
        "why: one curve for both networks": markdown(curves, map(distance, CURVES)),
        "why: the frontier": markdown(best, frontier()),
        "why: networks that do not compete": networks_table(),
    }


# --- Figures --------------------------------------------------------------------------------------


def curves_figure() -> Figure:
    """Forgetting of both networks over the scales against what might hold them on one curve."""
    figure, panels = plt.subplots(2, 2, figsize=(9, 7), layout="constrained", sharey=True)
    for axes, (measure, words) in zip(panels.flat, CURVES.items(), strict=True):
        for model, (x, y) in curve(measure).items():
            order = np.argsort(x)
            axes.plot(x[order], y[order], "-o", color=colour(model), label=label(model))
        axes.set(xscale="log", xlabel=words)
        axes.xaxis.set_minor_formatter(NullFormatter())
        if x.max() < 100 * x.min():  # few powers of ten
            ticks = [m * 10.0**power for power in (-2, -1, 0, 1) for m in (1, 2, 5)]
            low, high = axes.get_xlim()
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xlim(low, high)
        axes.grid(alpha=0.2)
        mean = distance(measure)["mean"]
        axes.set_title(f"LWTA from ReLU's curve: {number(mean, sign=True)}", fontsize=10)
    for axes in panels[:, 0]:
        axes.set_ylabel("forgetting")
    panels[0, 0].legend()
    figure.suptitle("Is competition a larger start in disguise? Means over the scales of the start")
    return figure


def frontier_figure() -> Figure:
    """Accuracy against forgetting over all starts and learning rates, for each network."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.8), layout="constrained", sharey=True)
    names = {"last_task": "Task 2 accuracy", "average_accuracy": "average accuracy on both tasks"}
    for axes, (accuracy, name) in zip(panels, names.items(), strict=True):
        for model, mark in zip(PAIR, "os", strict=True):
            points = np.array(
                [
                    (cell[accuracy]["mean"], cell["forgetting"]["mean"])
                    for cell in trained_cells(model).values()
                ]
            )
            axes.plot(*points.T, mark, color=colour(model), alpha=0.35, ms=5)
            order = points[np.argsort(-points[:, 0])]
            least = np.minimum.accumulate(order[:, 1])
            axes.step(order[:, 0], least, where="post", color=colour(model), label=label(model))
        axes.set(xlabel=f"{name}, mean of a cell", yscale="log")
        axes.grid(alpha=0.2)
    panels[0].set(ylabel="forgetting", xlim=(0.9, None))
    panels[1].set(xlim=(0.7, None))
    panels[1].legend(title="the least that is reached")
    figure.suptitle("Forgetting against accuracy, a mark a start and learning rate")
    return figure


def draw_all() -> None:
    """Write the figures."""
    save_figure(curves_figure(), FIGURES / "curves.png")
    save_figure(frontier_figure(), FIGURES / "frontier.png")
