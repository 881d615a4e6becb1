"""Figures of the study of the mechanism, from its numbers."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.mechanism import CONDITIONS, MODELS
from study.mechanism_analysis import analyse
from study.runs import FIGURES, PAIR
from visualize_compete_to_compute import colour, save_figure


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


def draw_all() -> None:
    """Write every figure of the study of the mechanism."""
    for name, draw_figure in {"layers": layers_figure, "controls": controls_figure}.items():
        save_figure(draw_figure(), FIGURES / f"{name}.png")
