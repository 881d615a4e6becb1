"""Figures of the study of the mechanism, from its numbers."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.mechanism import CONDITIONS, MODELS
from study.mechanism_analysis import LEVELS, analyse, trained
from study.runs import FIGURES, PAIR
from visualize_compete_to_compute import colour, save_figure

FOLLOWED = (
    *("default", "lr 0.05, momentum 0", "lr 0.02, momentum 0.95", "lr 0.05, momentum 0.95"),
    "paper",
)


def panels(rows: int, columns: int, height: float, title: str) -> tuple[Figure, np.ndarray]:
    """A figure of panels, with a title over all of them."""
    figure, grid = plt.subplots(rows, columns, figsize=(8, height), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes in grid.flat:
        axes.grid(alpha=0.2)
    return figure, grid


def draw(axes: Axes, x: Any, summaries: list[dict[str, Any]], **look: Any) -> None:
    """Means with their 95 % intervals, upwards over x."""
    means = np.array([summary["mean"] for summary in summaries])
    half = np.array([summary["ci95"][1] for summary in summaries]) - means
    axes.errorbar(x, means, half, **{"marker": "o", "markersize": 4, "capsize": 2, **look})


def rows_figure(
    rows: list[tuple[str, list[tuple[dict[str, Any], str]]]], marks: tuple[str, ...], height: float
) -> tuple[Figure, Axes]:
    """A label a row, and below each other its summaries with their colours; `marks` names those."""
    figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
    for y, (_, summaries) in enumerate(rows):
        for place, (summary, shade) in enumerate(summaries):
            if summary and summary["ci95"]:
                half = summary["ci95"][1] - summary["mean"]
                at = y + 0.22 * (place - 1)
                look = {"color": shade, "marker": "osD"[place], "capsize": 3}
                axes.errorbar(summary["mean"], at, xerr=half, **look)
    axes.set_yticks(range(len(rows)), [text for text, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.2)
    for marker, text in zip("osD", marks, strict=True):
        axes.plot([], [], marker, color="0.4", label=text)
    figure.legend(loc="outside lower center", fontsize=8)
    return figure, axes


def matching_figure() -> Figure:
    """Task 1 accuracy against Task 2 accuracy, and the loss when Task 2 is known equally well."""
    figure, grid = panels(
        *(len(FOLLOWED), 2, 11.5),
        "Left: while Task 2 is learned; thin: a seed, thick: the mean. Right: the loss of Task 1\n"
        "accuracy when Task 2 is first known this well, 95 % intervals; above zero LWTA lost less",
    )
    for (left, right), name in zip(grid, FOLLOWED, strict=True):
        for model in PAIR:
            trajectories = [row["trajectory"] for row in trained(name, model).values()]
            shared = min(map(len, trajectories))
            mean = np.mean([trajectory[:shared] for trajectory in trajectories], axis=0)
            for trajectory in trajectories:
                _, first, second = np.transpose(trajectory)
                left.plot(second, first, color=colour(model), linewidth=0.4, alpha=0.25)
            look = {"color": colour(model), "label": MODELS[model].label, "zorder": 3}
            left.plot(mean[:, 2], mean[:, 1], linewidth=2.5, **look)
        difference = analyse()[name]["relu-lwta"]
        levels = [level for level in LEVELS if f"lost.at{level}" in difference]
        draw(right, levels, [difference[f"lost.at{level}"] for level in levels], color="black")
        right.axhline(0, color="black", linewidth=0.6)
        left.set(xlim=(0.5, 1), ylim=(0.5, 1), ylabel="Task 1 accuracy")
        left.set_title(name, fontsize=10)
        right.set_ylabel("loss, ReLU minus LWTA")
        right.set_title(f"{difference['forgetting']['n']} pairs", fontsize=10)
    grid[-1, 0].set_xlabel("Task 2 accuracy")
    grid[-1, 1].set_xlabel("Task 2 accuracy, first reached")
    grid[0, 0].legend(fontsize=8)
    return figure


def layers_figure() -> Figure:
    """Segregation and overlap, layer by layer, before and after each task."""
    shown = (
        ("information", "information_chance", "bits a gate has\nabout the task"),
        ("gap", "gap_chance", "gap |a - b|"),
        ("overlap_tasks", "overlap_chance", "overlap across tasks"),
    )
    moments = (("before", ":"), ("after1", "--"), ("after2", "-"))
    figure, grid = panels(
        *(2, 3, 6),
        "How differently the tasks use each layer. Crosses, after Task 2, left and middle: the\n"
        "other 125 ways to part the digits 5 to 5; right: independent units as often active",
    )
    for row, name in zip(grid, ("default", "four layers"), strict=True):
        layers = range(1, CONDITIONS[name].config("relu").depth + 1)
        for axes, (measure, chance, text) in zip(row, shown, strict=True):
            for model in PAIR:
                found, label = analyse()[name][model], MODELS[model].label
                look = {"color": colour(model), "capsize": 0}
                for moment, line in moments:
                    values = [found[f"{measure}.layer{n}.{moment}"] for n in layers]
                    words = moment.replace("after", "after Task ")
                    draw(axes, layers, values, linestyle=line, label=f"{label}, {words}", **look)
                values = [found[f"{chance}.layer{n}.after2"]["mean"] for n in layers]
                axes.plot(layers, values, "x", color=colour(model), label=f"{label}, to compare")
            axes.set(xlabel="hidden layer", title=name)
            axes.set_ylabel(text, fontsize=9)
            axes.set_xticks(list(layers))
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5
    )
    return figure


def controls_figure() -> Figure:
    """What is lost on Task 1, and of that by a refitted probe: LWTA, ReLU and the controls."""
    networks = [(MODELS[model].label, "default", model) for model in MODELS]
    networks += [(name, name, "lwta") for name in ("LWTA with 304 units", "LWTA with 200 units")]
    marks = {
        "forgetting": "at the end of Task 2 (forgetting)",
        "lost.at0.925": "when Task 2 first reaches 92.5 %, if most runs get there",
        "probe.lost": "by a linear probe refitted on the last hidden layer",
    }
    rows = [
        (text, [(analyse()[name][model].get(measure), colour(model)) for measure in marks])
        for text, name, model in networks
    ]
    figure, axes = rows_figure(rows, tuple(marks.values()), 6)
    axes.set_xlabel("loss of Task 1 accuracy, mean and 95 % interval")
    axes.set_title("Networks that have a part of competition", fontsize=10)
    return figure


def explanations_figure() -> Figure:
    """For each experiment: ReLU minus LWTA in its condition, without that, the change."""

    def mark(summary: dict[str, Any]) -> tuple[dict[str, Any], str]:
        low, high = summary["ci95"]
        return summary, colour("lwta") if low > 0 else colour("relu") if high < 0 else "0.55"

    rows = []
    for name, numbers in analyse().items():
        if against := CONDITIONS[name].against:
            before, after = (row["relu-lwta"] for row in (analyse()[against], numbers))
            summaries = (before, after, numbers["change-relu-lwta"])
            rows.append((name.replace(", ", "\n"), [mark(s["forgetting"]) for s in summaries]))
    marks = ("before", "with the last change named", "difference, seed by seed")
    figure, axes = rows_figure(rows, marks, 4.8)
    axes.set_xlabel("forgetting of ReLU minus LWTA, mean and 95 % interval, unadjusted")
    axes.set_title(
        "What carries the difference? Blue: LWTA forgets less, or more so; orange: ReLU;\n"
        "grey: the interval holds zero",
        fontsize=10,
    )
    return figure


def reach_figure() -> Figure:
    """How far Task 2 reaches: weights it leaves alone, and active units of Task 1 it silences."""
    shown = (
        ("no decay, restarted", "untouched", PAIR, "weights left alone"),
        ("lr 0.05, momentum 0", "untouched", PAIR, "weights left alone"),
        ("default", "silenced", (*PAIR, "shifted"), "active units silenced"),
    )
    figure, row = panels(1, 3, 3.4, "What Task 2 leaves of what Task 1 uses; 95 % intervals")
    for axes, (name, measure, models, text) in zip(row, shown, strict=True):
        for place, model in enumerate(models):
            values = [analyse()[name][model][f"{measure}.layer{n}"] for n in (1, 2)]
            look = {"color": colour(model), "label": MODELS[model].label, "linestyle": ""}
            draw(axes, np.array([1, 2]) + 0.1 * place, values, **look)
        axes.set(xlabel="hidden layer", ylabel=f"share of {text}", xlim=(0.7, 2.6))
        axes.set_title(name, fontsize=10)
        axes.set_xticks([1, 2])
        axes.set_ylim(bottom=-0.04 * axes.get_ylim()[1])  # so that a mark at zero is not cut
    figure.legend(
        *row[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8
    )
    return figure


def draw_all() -> None:
    """Write every figure of the study of the mechanism."""
    for name, draw_figure in {
        "matching_rule": matching_figure,
        "layers": layers_figure,
        "controls": controls_figure,
        "explanations": explanations_figure,
        "reach": reach_figure,
    }.items():
        save_figure(draw_figure(), FIGURES / f"{name}.png")
