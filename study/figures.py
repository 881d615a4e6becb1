"""Figures of the studies, from their results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from compete_to_compute import label
from study.analysis import PAPER_ERRORS, POOLED, Numbers, Result, analyse, carried, inside
from study.explanations import CURVES, curve, distances, mean_of, trained_cells
from study.families import SMALL_START, activation_of
from study.runs import ALL_THREE, PAIR
from study.tables import number
from visualize_compete_to_compute import colour

# Scales at which the layers of the small setting start with a standard deviation of 0.01, which the
# authors' later library (IDSIA/brainstorm) has in its MNIST example: of layer 2, of layer 1.
PAPER_SCALES = (0.01 / np.sqrt(2 / 400), 0.01 / np.sqrt(2 / 784))
LEARNED = 0.9  # Task 1 accuracy after Task 1, below which a cell is not coloured
STAR = {model: {"color": colour(model), "markeredgecolor": "black"} for model in PAIR}


def legend_below(figure: Figure, axes: Axes, columns: int, size: float = 8) -> None:
    """Put one panel's legend, which is that of all, below the panels."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize=size)


def show_zero(axes: Axes) -> None:
    """Mark zero on the x axis, and let the eye follow its ticks."""
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", alpha=0.2)


def draw_interval(axes: Axes, summary: Numbers, y: float, **look: Any) -> None:
    """Draw a mean and its 95 % interval at a height."""
    half = summary["ci95"][1] - summary["mean"]
    axes.errorbar(summary["mean"], y, xerr=half, **look)


# --- Initial weights ------------------------------------------------------------------------------


def start_line_figure() -> Figure:
    """Forgetting and average accuracy of both networks against the scale of the initial weights."""
    line = [
        (result.condition.changes["init_scale"], result.numbers)
        for result in analyse()["start-rate"].values()
        if result.condition.changes["lr"] == SMALL_START["lr"]
    ]
    fresh = analyse()["small-start"]["the small setting"].numbers
    scales = [scale for scale, _ in line]
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained")
    panels[0].set_ylabel("forgetting: Task 1 accuracy lost to Task 2")
    panels[1].set_ylabel("average accuracy after both tasks")
    for axes, name in zip(panels, ("forgetting", "average_accuracy"), strict=True):
        for model, mark in zip(PAIR, "os", strict=True):
            means, low, high = np.array(
                [(s["mean"], *s["ci95"]) for s in (numbers[model][name] for _, numbers in line)]
            ).T
            bars, look = (means - low, high - means), {"color": colour(model), "capsize": 3}
            axes.errorbar(scales, means, bars, fmt=f"-{mark}", ms=5, label=label(model), **look)
            mean = fresh[model][name]["mean"]
            again = f"{label(model)}, {fresh['difference']['n']} fresh pairs"
            axes.plot(SMALL_START["init_scale"], mean, "*", ms=14, label=again, **STAR[model])
        axes.set(xscale="log", xlabel="scale of the initial weights (1: He, as in the small run)")
        axes.set_xticks(scales, scales)
        axes.minorticks_off()
        axes.grid(alpha=0.2)
        axes.axvspan(*PAPER_SCALES, color="0.9", zorder=0)
        place = {"transform": axes.get_xaxis_transform(), "ha": "center", "fontsize": 8}
        axes.text(np.sqrt(np.prod(PAPER_SCALES)), 0.02, "std .01", **place)
    legend_below(figure, panels[0], 4)
    pairs = sorted({numbers["difference"]["n"] for _, numbers in line})
    told = " to ".join(map(str, pairs[:: max(1, len(pairs) - 1)]))
    figure.suptitle(
        "Small initial weights make both networks forget, and below 0.7 ReLU more\n"
        f"lr 0.01, 20 epochs a task; lines: exploration, {told} pairs a point, 95 % intervals;\n"
        "stars: confirmation; grey: standard deviation .01, as in the authors' later library; "
        "the paper's is not known",
        fontsize=10,
    )
    return figure


def bridge_figure() -> Figure:
    """The gap at each combination of the ingredients, and what each ingredient adds to it."""
    cells = list(analyse()["bridge"].values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.9), layout="constrained")
    for y, result in enumerate(reversed(cells)):
        shade = colour("lwta") if result.numbers["verdict"].startswith("LWTA") else "0.5"
        draw_interval(left, result.numbers["difference"], y, fmt="o", color=shade)
    names = [
        "start {init_scale}, lr {lr}, {epochs} epochs".format(**r.condition.changes) for r in cells
    ]
    left.set_yticks(range(len(cells)), reversed(names), fontsize=8)
    left.set_title("forgetting, ReLU minus LWTA; blue: LWTA forgets less", fontsize=9)
    for y, row in enumerate(reversed(carried())):
        draw_interval(right, row["out"], y + 0.12, fmt="s", color="0.2", mfc="w")
        draw_interval(right, row["back"], y - 0.12, fmt="D", color="0.2", mfc="0.2")
    right.set_yticks(range(3), [row["label"] for row in reversed(carried())], fontsize=8)
    right.set_ylim(-0.6, 2.6)
    right.set_title(
        "added to the gap: open, to the published\nsetting; full, where the others are small",
        fontsize=9,
    )
    show_zero(left)
    show_zero(right)
    pairs = min(result.numbers["difference"]["n"] for result in cells)
    figure.suptitle(
        f"From the published setting to the small one: {pairs} pairs, 95 % intervals", fontsize=10
    )
    return figure


# --- Phase diagrams -------------------------------------------------------------------------------


def phase_figure(family: str, x: str, y: str, limit: float) -> Figure:
    """Four panels over two `Config` fields: ReLU minus LWTA, also in Task 2, and each forgetting.

    A difference of `limit` or more has the full colour.
    """
    results = [r for r in analyse()[family].values() if {x, y} <= r.condition.changes.keys()]
    panels: tuple[tuple[str, Callable[[Numbers], Any], str, Sequence[str]], ...] = (
        ("Forgetting, ReLU minus LWTA", lambda n: n["difference"], "RdBu", PAIR),
        ("Task 2, ReLU minus LWTA", lambda n: n["last_task"], "PuOr", PAIR),
        ("Forgetting, ReLU", lambda n: n["relu"]["forgetting"], "Oranges", ["relu"]),
        ("Forgetting, LWTA", lambda n: n["lwta"]["forgetting"], "Blues", ["lwta"]),
    )
    figure, grid = plt.subplots(2, 2, figsize=(9, 8.5), layout="constrained")
    for axes, (name, summary, colours, models) in zip(grid.flat, panels, strict=True):
        top = limit if len(models) == 2 else None
        draw_cells(axes, results, (x, y), summary, colours, models, top)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(x.replace("_", " ").replace("lr", "learning rate"))
        axes.set_ylabel(y.replace("_", " "))
    figure.suptitle(
        "n: pairs above, runs below. Bold: the 95 % interval excludes zero. White: none is left. "
        f"Grey: Task 1 below {LEARNED} when learned.\n"
        "R, L: share of ReLU's and LWTA's runs that fail. Differences have their full colour at "
        f"{limit}.",
        fontsize=10,
    )
    return figure


def draw_cells(
    axes: Axes,
    results: Sequence[Result],
    fields: tuple[str, str],
    summary: Callable[[Numbers], Any],
    colours: str,
    models: Sequence[str],
    limit: float | None,
) -> None:
    """A cell a condition: its mean as colour and text, of how many, and which runs failed of whom.

    With a `limit` the colours are even about zero and saturate there, and a mean is bold where its
    interval excludes zero.
    """
    x, y = (sorted({result.condition.changes[name] for result in results}) for name in fields)
    means = np.full((len(y), len(x)), np.nan)
    for result in results:
        column, row = (
            values.index(result.condition.changes[name])
            for values, name in zip((x, y), fields, strict=True)
        )
        numbers, lines = summary(result.numbers), []
        if numbers["n"]:
            means[row, column] = numbers["mean"]
            text = f"{numbers['mean']:{'+' if limit else ''}.3f}"
            is_shown = limit and numbers["ci95"] and np.prod(numbers["ci95"]) > 0
            lines = [rf"$\mathbf{{{text}}}$" if is_shown else text, f"n = {numbers['n']}"]
            if min(result.numbers[m]["learned"]["mean"] for m in models) < LEARNED:
                means[row, column] = np.nan
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="0.85"))
        failed = {m: result.numbers[m]["failed"] / max(result.numbers[m]["run"], 1) for m in models}
        lines += [f"{m[0].upper()} {share:.0%} fail" for m, share in failed.items() if share]
        axes.text(column, row, "\n".join(lines), ha="center", va="center", fontsize=6.5)
    top = limit or np.nanmax([0.1, *means[np.isfinite(means)]])
    look = {"cmap": colours, "origin": "lower", "aspect": "auto", "alpha": 0.6}
    axes.imshow(means, vmin=-top if limit else 0, vmax=top, **look)
    axes.set_xticks(range(len(x)), x)
    axes.set_yticks(range(len(y)), y)


# --- Tested conditions ----------------------------------------------------------------------------


def summary_figure(places: Collection[str]) -> Figure:
    """A row for each tested condition among these: ReLU minus LWTA, coloured by the verdict.

    A place is "family/condition", as `quantity` has it; of others nothing is shown.
    """
    rows = []
    for family, results in analyse().items():
        for name, result in results.items():
            place = f"{family}/{'pooled' if name == POOLED else name}"
            if result.numbers.get("verdict") and place in places:
                text = family if name == family else place.replace("/", ": ")
                rows.append((result.numbers["difference"], result.numbers["verdict"], text))
    rows.sort(key=lambda row: row[0]["mean"])
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.19 * len(rows)), layout="constrained")
    shades = {"LWTA forgets less": colour("lwta"), "ReLU forgets less": colour("relu")}
    shades |= {"alike": "black", "a difference, perhaps": "0.3", "undecided": "0.6"}
    for said, shade in shades.items():
        axes.errorbar([], [], xerr=[], fmt="o", color=shade, ms=4, label=said)
        for y, (difference, found, _) in enumerate(rows):
            if found.startswith(said):
                draw_interval(axes, difference, y, fmt="o", color=shade, ms=4)
    show_zero(axes)
    labels = [f"{text} (n = {difference['n']})" for difference, _, text in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("forgetting of ReLU minus LWTA, 95 % interval, unadjusted")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(
        "Who forgets less in the tested conditions that the report gives numbers of;\n"
        "n: pairs; colour: the verdict",
        fontsize=10,
    )
    return figure


# --- The paper's protocol -------------------------------------------------------------------------


def paper_figure() -> Figure:
    """Task 1's test error after Task 2 under the paper's protocol, from usual and small weights."""
    figure, grid = plt.subplots(2, 4, figsize=(10, 6.4), layout="constrained", sharey=True)
    for depth, (usual, *small) in zip((2, 3), grid, strict=True):
        results = paper_results("paper", depth=depth)
        results.sort(
            key=lambda r: r.condition.changes["lr"] / (1 - r.condition.changes["momentum"])
        )
        ticks = ["{lr}\n{momentum}".format(**r.condition.changes) for r in results]
        draw_errors(usual, results, range(len(results)))
        usual.set_xticks(range(len(results)), ticks, fontsize=8)
        usual.set_title(f"{depth} hidden layers, usual weights", fontsize=9)
        for axes, lr in zip(small, (0.003, 0.01, 0.03), strict=True):
            cells = paper_results("paper-grid", depth=depth, lr=lr)
            scales = [r.condition.changes["init_scale"] for r in cells]
            draw_errors(axes, cells, range(len(cells)))
            for family, models in (("paper-start", PAIR), ("paper-sigmoid", ["sigmoid"])):
                fresh = paper_results(family, depth=depth, lr=lr)
                places = [scales.index(r.condition.changes["init_scale"]) for r in fresh]
                draw_errors(axes, fresh, places, models, "*")
            axes.set_xticks(range(len(scales)), scales, fontsize=8)
            axes.set_title(f"{depth} hidden layers, rate {lr}", fontsize=9)
    for axes in grid.flat:
        for model in ALL_THREE:
            mean, std = PAPER_ERRORS[model][1]
            look = {"color": colour(model), "zorder": 0}
            axes.axhspan(mean - std, mean + std, alpha=0.12, linewidth=0, **look)
            axes.axhline(mean, linestyle=":", label=f"the paper's {label(model)}", **look)
        axes.margins(x=0.08)
        axes.grid(alpha=0.2)
    grid[1, 0].set_xlabel("learning rate, and momentum below it")
    for axes in grid[1, 1:]:
        axes.set_xlabel("scale of the initial weights")
    figure.supylabel("Task 1 test error after Task 2, %", fontsize=10)
    grid[0, 0].set(yscale="log", ylim=(1, 130))
    grid[0, 0].set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, "fails"])
    legend_below(figure, grid[0, 0], 6)
    figure.suptitle(
        "The paper's protocol: mean and standard deviation of the runs that trained; crosses: runs "
        "fail; bands: the paper's own errors.\nCircles: exploration, from small weights 3 "
        "pairs each; stars: fresh seeds, 20 pairs each, sigmoid 10 runs",
        fontsize=10,
    )
    return figure


def paper_results(family: str, **changes: float) -> list[Result]:
    """The conditions of a family that have these changes."""
    return [
        result
        for result in analyse()[family].values()
        if changes.items() <= result.condition.changes.items()
    ]


def draw_errors(
    axes: Axes,
    results: Sequence[Result],
    places: Sequence[int],
    models: Sequence[str] = ALL_THREE,
    mark: str = "o",
) -> None:
    """The models' errors at some settings; circles are joined by a line."""
    for shift, model in zip((-0.12, 0, 0.12), models, strict=False):  # clear of each other
        here = [
            (place + shift, result.numbers[model])
            for place, result in zip(places, results, strict=True)
            if model in result.numbers
        ]
        if not here:
            continue
        x = np.array([place for place, _ in here])
        errors = np.array([numbers["error_kept"]["mean"] for _, numbers in here], float)
        spreads = [numbers["error_kept"]["std"] or 0 for _, numbers in here]
        if mark == "o":
            look = {"fmt": "o-", "ms": 4, "label": label(model)}
        else:
            look = {"fmt": mark, "ms": 12, "mec": "black"}
        axes.errorbar(x, errors, spreads, capsize=3, color=colour(model), **look)
        failing = x[[numbers["failed"] > 0 for _, numbers in here]]
        axes.plot(failing, np.full(len(failing), 100), "X", ms=7, color=colour(model))


# --- What is looked into --------------------------------------------------------------------------


def layers_figure() -> Figure:
    """Segregation and overlap, layer by layer, before and after each task."""
    shown = (
        ("information", "information_chance", "bits a gate has\nabout the task"),
        ("gap", "gap_chance", "gap |a - b|"),
        ("overlap_tasks", "overlap_chance", "overlap across tasks"),
    )
    cells = inside()
    moments = (("before", ":"), ("after1", "--"), ("after2", "-"))
    figure, grid = plt.subplots(2, 3, figsize=(8, 6), layout="constrained")
    figure.suptitle(
        "How differently the tasks use each layer. Crosses, after Task 2, left and middle: the\n"
        "other 125 ways to part the digits 5 to 5; right: independent units as often active",
        fontsize=10,
    )
    for row, name in zip(grid, ("default", "four layers"), strict=True):
        layers = range(1, cells[name].condition.config("relu").depth + 1)
        for axes, (measure, chance, text) in zip(row, shown, strict=True):
            for model in PAIR:
                found = cells[name].numbers[model]
                look = {"color": colour(model), "marker": "o", "markersize": 4}
                for moment, line in moments:
                    values = [found[f"{measure}.layer{n}.{moment}"] for n in layers]
                    words = moment.replace("after", "after Task ")
                    means = np.array([value["mean"] for value in values])
                    half = np.array([value["ci95"][1] for value in values]) - means
                    look |= {"linestyle": line, "label": f"{label(model)}, {words}"}
                    axes.errorbar(layers, means, half, **look)
                values = [found[f"{chance}.layer{n}.after2"]["mean"] for n in layers]
                words = f"{label(model)}, to compare"
                axes.plot(layers, values, "x", color=colour(model), label=words)
            axes.set(xlabel="hidden layer", title=name)
            axes.set_ylabel(text, fontsize=9)
            axes.set_xticks(list(layers))
            axes.grid(alpha=0.2)
    legend_below(figure, grid[0, 0], 4, 7.5)
    return figure


def controls_figure() -> Figure:
    """What is lost on Task 1, and of that by a refitted probe: LWTA, ReLU and the controls."""
    cells = inside()
    networks = [(activation_of(m).label, "default", m) for m in cells["default"].rows]
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
            if summary := cells[name].numbers[model].get(measure):
                look = {"color": colour(model), "marker": mark, "capsize": 3}
                draw_interval(axes, summary, y + 0.22 * (place - 1), **look)
    axes.set_yticks(range(len(networks)), [text for text, *_ in networks], fontsize=8)
    axes.invert_yaxis()
    show_zero(axes)
    figure.legend(loc="outside lower center", fontsize=8)
    axes.set_xlabel("loss of Task 1 accuracy, mean and 95 % interval")
    axes.set_title("Networks that have a part of competition", fontsize=10)
    return figure


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
        mean = mean_of(distances(measure))
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
            cells = trained_cells(model).values()
            points = np.array([(n[accuracy]["mean"], n["forgetting"]["mean"]) for n in cells])
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


def draw_all(places: Collection[str]) -> dict[str, Figure]:
    """Draw every figure of the runs; `places` are the conditions that the pages speak of."""
    return {
        "phase_diagram": phase_figure("optimiser", "lr", "momentum", 0.05),
        "start_line": start_line_figure(),
        "bridge": bridge_figure(),
        "start": phase_figure("start-rate", "lr", "init_scale", 0.15),
        "summary": summary_figure(places),
        "paper": paper_figure(),
        "layers": layers_figure(),
        "controls": controls_figure(),
        "curves": curves_figure(),
        "frontier": frontier_figure(),
    }
