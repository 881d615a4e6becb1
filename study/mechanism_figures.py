"""Figures of the study of the mechanism, from its numbers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from study.mechanism import CONDITIONS, MODELS
from study.mechanism_analysis import analyse
from study.runs import FIGURES, PAIR
from visualize_compete_to_compute import colour, save_figure


def layers_figure() -> Figure:
    """Segregation and overlap, layer by layer, before and after each task."""
    shown = (
        ("information", "information_chance", "bits a gate has\nabout the task"),
        ("gap", "gap_chance", "gap |a - b|"),
        ("overlap_tasks", "overlap_chance", "overlap across tasks"),
    )
    moments = (("before", ":"), ("after1", "--"), ("after2", "-"))
    figure, grid = plt.subplots(2, 3, figsize=(8, 6), layout="constrained")
    figure.suptitle(
        "How differently the tasks use each layer. Crosses, after Task 2, left and middle: the\n"
        "other 125 ways to part the digits 5 to 5; right: independent units as often active",
        fontsize=10,
    )
    for row, name in zip(grid, ("default", "four layers"), strict=True):
        layers = range(1, CONDITIONS[name].config("relu").depth + 1)
        for axes, (measure, chance, text) in zip(row, shown, strict=True):
            for model in PAIR:
                found, label = analyse()[name][model], MODELS[model].label
                look = {"color": colour(model), "marker": "o", "markersize": 4}
                for moment, line in moments:
                    values = [found[f"{measure}.layer{n}.{moment}"] for n in layers]
                    words = moment.replace("after", "after Task ")
                    means = np.array([value["mean"] for value in values])
                    half = np.array([value["ci95"][1] for value in values]) - means
                    look |= {"linestyle": line, "label": f"{label}, {words}"}
                    axes.errorbar(layers, means, half, **look)
                values = [found[f"{chance}.layer{n}.after2"]["mean"] for n in layers]
                axes.plot(layers, values, "x", color=colour(model), label=f"{label}, to compare")
            axes.set(xlabel="hidden layer", title=name)
            axes.set_ylabel(text, fontsize=9)
            axes.set_xticks(list(layers))
            axes.grid(alpha=0.2)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5
    )
    return figure


def controls_figure() -> Figure:
    """What is lost on Task 1, and of that by a refitted probe: LWTA, ReLU and the controls."""
    networks = [(MODELS[model].label, "default", model) for model in MODELS]
    networks += [(name, name, "lwta") for name in ("LWTA with 304 units", "LWTA with 200 units")]
    marks = {
        "forgetting": ("o", "at the end of Task 2 (forgetting)"),
        "lost.at0.925": ("s", "when Task 2 first reaches 92.5 %, if most runs get there"),
        "probe.lost": ("D", "by a linear probe refitted on the last hidden layer"),
    }
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    for place, (measure, (mark, words)) in enumerate(marks.items()):
        axes.plot([], [], mark, color="0.4", label=words)
        for y, (_, name, model) in enumerate(networks):
            if summary := analyse()[name][model].get(measure):
                half = summary["ci95"][1] - summary["mean"]
                look = {"color": colour(model), "marker": mark, "capsize": 3}
                axes.errorbar(summary["mean"], y + 0.22 * (place - 1), xerr=half, **look)
    axes.set_yticks(range(len(networks)), [text for text, *_ in networks], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.2)
    figure.legend(loc="outside lower center", fontsize=8)
    axes.set_xlabel("loss of Task 1 accuracy, mean and 95 % interval")
    axes.set_title("Networks that have a part of competition", fontsize=10)
    return figure


def draw_all() -> None:
    """Write every figure of the study of the mechanism."""
    for name, draw_figure in {"layers": layers_figure, "controls": controls_figure}.items():
        save_figure(draw_figure(), FIGURES / f"{name}.png")
