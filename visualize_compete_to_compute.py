#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8",
#                 "pillow>=10.1", "markdown>=3.4"]
# ///
"""Draw the figures from what a run saved; nothing is trained.

    python3 visualize_compete_to_compute.py

reads viz/snapshots.npz and writes viz/*.png. Where results.json holds several seeds, it also draws
each seed's forgetting, viz/seeds.png. Only these files are needed, not MNIST. With --html it also
writes viz/report.html: one page with the run, and the report of the study where study/ is there.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Figures look the same for everyone: a notebook's backend and a user's matplotlibrc are set aside.
os.environ["MPLBACKEND"] = "Agg"
try:
    import matplotlib as mpl

    mpl.rcdefaults()
    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

    from compete_to_compute import (
        PIXELS,
        Config,
        InputError,
        OneLineParser,
        check_writable,
        label,
        print_report,
        run_script,
        summarise,
        write_or_stop,
    )
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(f"{missing.name} is missing: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

# Okabe and Ito's colours, which colour-blind readers can tell apart; the same in every figure.
COLOURS = {"relu": "#D55E00", "lwta": "#0072B2", "sigmoid": "#009E73"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # for other models in turn
SNAPSHOTS = Path("viz/snapshots.npz")
STUDY_REPORT = Path(__file__).resolve().parent / "study" / "README.md"
WIDTH, DPI = 7.5, 100  # inches and pixels an inch: a usual figure is 750 pixels wide
SIDE = 28  # pixels of an image's side


def colour(model: str) -> str:
    """The model's colour in every figure; another model gets the next of `OTHERS`."""
    return COLOURS.setdefault(model, OTHERS[len(COLOURS) % len(OTHERS) - 3])


# --- What a run left ------------------------------------------------------------------------------


@dataclass(frozen=True)
class SavedRun:
    """One model at one seed; `kind` is numpy's dtype.kind, `axes` what each axis counts.

    accuracy: on every task's test images at every evaluation. task, update: how many tasks had
    begun and how many updates were done by then. W1: weights of the first hundred units, or fewer,
    after training. active: shares of test images on which a unit is active, at last after training.
    curve: of every seed that is ok a row a test with update, task and accuracies, nan behind it.
    """

    model: str
    accuracy: np.ndarray = field(metadata={"kind": "f", "axes": "evaluations tasks"})
    task: np.ndarray = field(metadata={"kind": "i", "axes": "evaluations"})
    update: np.ndarray = field(metadata={"kind": "i", "axes": "evaluations"})
    W1: np.ndarray = field(metadata={"kind": "f", "axes": "pixels pictured"})
    active: np.ndarray = field(metadata={"kind": "f", "axes": "checkpoints layers tasks units"})
    curve: np.ndarray = field(metadata={"kind": "f", "axes": "seeds tests columns"})

    @property
    def curves(self) -> list[np.ndarray]:
        """Each seed's tests, (tests, 2 + tasks)."""
        return [seed[np.isfinite(seed[:, 0])] for seed in self.curve]

    def kept(self) -> np.ndarray:
        """Accuracy on Task 1 after Task 1 and at the end, a row a seed."""
        return np.array([[c[c[:, 1] < 2][-1, 2], c[-1, 2]] for c in self.curves])

    @property
    def switches(self) -> np.ndarray:
        """The updates after which a next task began, in ascending order."""
        return self.update[:-1][(np.diff(self.task) > 0) & (self.task[:-1] > 0)]


@dataclass(frozen=True)
class Snapshots:
    """snapshots.npz: what one seed left for drawing; `W1_init`: every run's `W1` at the start."""

    config: dict[str, Any]
    seed: int
    W1_init: np.ndarray
    runs: list[SavedRun]


def load_snapshots(path: Path) -> Snapshots:
    """Read snapshots.npz, without pickles; `InputError` says what is missing or wrong in it."""
    first = "run compete_to_compute.py first, or name the file with --snapshots"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        config = json.loads(str(arrays["config"]))
        tasks = len(config["tasks"])
        begun = range(2 if config["joint"] else tasks + 1)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged bytes
        reason = getattr(error, "strerror", None) or f"damaged, or no snapshots ({error!r})"
        raise InputError(f"{path}: {reason}; {first}") from None
    lengths = {"pixels": PIXELS, "tasks": tasks, "columns": 2 + tasks}

    def take(name: str, kind: str, axes: str = "") -> np.ndarray:
        """An array, checked; an axis whose length is not known yet enters `lengths`."""
        value, counted = arrays.get(name, np.empty(0)), axes.split()
        is_right = value.size and (value.dtype.kind, value.ndim) == (kind, len(counted))
        for axis, length in zip(counted, value.shape, strict=False):
            is_right = is_right and lengths.setdefault(axis, length) == length
        if not is_right:
            raise InputError(f"{path}: {name} is missing or not what a run saves; {first}")
        return value

    initial = take("W1_init", "f", "pixels pictured")
    runs = []
    for model in map(str, take("models", "U", "models")):
        for axis in ("evaluations", "seeds", "tests"):
            lengths.pop(axis, None)  # of which models may have different numbers
        saved = (take(f"{item.name}_{model}", **item.metadata) for item in fields(SavedRun)[1:])
        run = SavedRun(model, *saved)
        finite = all(np.isfinite(a).all() for a in (initial, run.W1, run.accuracy, run.active))
        if not (finite and run.active[-1].any() and np.array_equal(np.unique(run.task), begun)):
            reason = f"{model} diverged at this seed, or its arrays do not reach the last task"
            raise InputError(f"{path}: {reason}; draw another run")
        runs.append(run)
    return Snapshots(config, int(take("seed", "i")), initial, runs)


# What is drawn from results.json; the rest of what is read in it is printed.
RUN = {"seed": int, "model": str, "status": str, "forgetting": float | None}
ESTIMATE = {"mean": float | None, "ci95": list | None}
PAIR = {"first": str, "second": str, "verdict": str | None}


def load_results(path: Path) -> dict[str, Any] | None:
    """results.json, and as `printed` what the run said; None where there is no such file.

    `InputError` names what is missing, or is not of the type that is drawn.
    """
    printed = io.StringIO()
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        models = results["aggregate"]["models"].items()
        for name, row, kinds in (
            *((f"per_seed[{i}]", row, RUN) for i, row in enumerate(results["per_seed"])),
            *((f"pairs[{i}]", row, PAIR) for i, row in enumerate(results["aggregate"]["pairs"])),
            *((f"{model}.forgetting", row["forgetting"], ESTIMATE) for model, row in models),
        ):
            for key, kind in kinds.items():
                if not isinstance(row[key], kind):
                    raise TypeError(f"{name}.{key} is {row[key]!r}")
        results["environment"].pop("mnist_sha256", None)
        with redirect_stdout(printed):
            print_report(results)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a results file ({error!r}); run the sweep again") from None
    return {**results, "printed": printed.getvalue()}


# --- Figures --------------------------------------------------------------------------------------


def segregation(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How differently two tasks use a layer, from the units' shares a and b, (units,) each.

    `selectivity`: the mean of |a - b| / (a + b) over the units active at all, high for units that
    are rarely active. `gap`: the mean of |a - b| over all units, high for units that are often
    active. `exclusive`: the share of all units whose selectivity is above 0.9, so that one task
    activates them at least 19 times as often as the other.
    """
    gap, total = np.abs(first - second), first + second
    selectivity = np.divide(gap, total, out=np.full(len(gap), np.nan), where=total > 0)
    return {
        "selectivity": float(np.nanmean(selectivity)),
        "gap": float(gap.mean()),
        "exclusive": float((selectivity > 0.9).mean()),
    }


def field_spread(weights: np.ndarray) -> np.ndarray:
    """How far each receptive field spreads, in pixels: weights (784, units) to (units,).

    The root mean square distance from its centre, both weighted by the squared weights: 11.4 for
    energy spread evenly over the image, smaller for a localised field, nan for weights all zero.
    """
    energy = np.square(weights, dtype=float)
    total = energy.sum(axis=0)
    energy = np.divide(energy, total, out=np.full_like(energy, np.nan), where=total > 0)
    grid = np.indices((SIDE, SIDE)).reshape(2, PIXELS, 1)
    centre = (grid * energy).sum(axis=1, keepdims=True)
    return np.sqrt(((grid - centre) ** 2 * energy).sum(axis=(0, 1)))


LEGEND_BELOW = {"loc": "outside lower center", "ncols": 2, "frameon": False}


def mark_switches(axes: Axes, snapshots: Snapshots) -> None:
    """A vertical line at each task switch: the last test of one task, no update of the next."""
    for update in {int(update) for run in snapshots.runs for update in run.switches}:
        axes.axvline(update, color="0.35", linewidth=1, linestyle=":")


def draw_seeds(
    axes: Axes,
    run: SavedRun,
    task: int,
    line: str,
    since: float = 0,
    until: float = np.inf,
    name: str = "",
) -> np.ndarray:
    """Accuracy on a task between two updates: thin each seed, bold their mean with its interval.

    Where seeds were tested at different updates there is no mean, and the headline is bold. Returns
    the bold line, (tests, 2) of update and accuracy.
    """
    curves = [c[(c[:, 0] >= since) & (c[:, 0] <= until)][:, [0, 2 + task]] for c in run.curves]
    style = {"color": colour(run.model)}
    bold = curves[0]
    if len(curves) > 1:
        for seed in curves:
            axes.plot(*seed.T, line, linewidth=0.6, alpha=0.35, **style)
        if all(np.array_equal(seed[:, 0], bold[:, 0]) for seed in curves):
            together = [summarise(at_once) for at_once in np.array(curves)[:, :, 1].T]
            bold = np.column_stack([bold[:, 0], [s["mean"] for s in together]])
            low, high = np.array([s["ci95"] for s in together]).reshape(-1, 2).T
            axes.fill_between(bold[:, 0], low, high, alpha=0.2, linewidth=0, **style)
    axes.plot(*bold.T, f"{line}o", markersize=3, label=name, **style)
    return bold


def seeds_text(snapshots: Snapshots) -> str:
    """What a figure's lines are, for its title."""
    seeds = max(len(run.curves) for run in snapshots.runs)
    if seeds == 1:
        return f"Seed {snapshots.seed}; one seed cannot tell"
    return f"{seeds} seeds: thin lines; bold: their mean and its 95 % interval"


def draw_curves(axes: Axes, snapshots: Snapshots, until: float = np.inf) -> None:
    """Test accuracy of each model on the first and the last task, up to an update."""
    tasks = snapshots.config["tasks"]
    for run in snapshots.runs:
        for task in sorted({0, len(tasks) - 1}):
            name = f"{label(run.model)}, Task {task + 1} ({tasks[task]})"
            draw_seeds(axes, run, task, "--" if task else "-", until=until, name=name)
    axes.set(xlabel="updates", ylabel="test accuracy", ylim=(-0.02, 1.02))
    mark_switches(axes, snapshots)


def draw_task_1_later(axes: Axes, snapshots: Snapshots) -> None:
    """Accuracy on Task 1 from the first switch on, each run labelled with where it ends."""
    for rank, run in enumerate(sorted(snapshots.runs, key=lambda run: run.kept()[:, 1].mean())):
        update, accuracy = draw_seeds(axes, run, 0, "-", since=run.switches[0]).T
        ink = colour(run.model)
        axes.axhline(accuracy[0], color=ink, linewidth=0.8, linestyle=(0, (1, 3)))
        # Ends that are close together stay readable.
        beside = {"textcoords": "offset points", "color": ink, "va": "bottom" if rank else "top"}
        text, end = f"{label(run.model)} {accuracy[-1]:.3f}", (update[-1], accuracy[-1])
        axes.annotate(text, end, (6, 0), **beside)
    axes.set(xlabel="updates", ylabel="test accuracy on Task 1")
    axes.set_title("Task 1 after the switch", fontsize=11)
    axes.margins(y=0.08)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.5 * (right - left))  # room for the labels
    mark_switches(axes, snapshots)


def training_curves(snapshots: Snapshots) -> Figure:
    """Both tasks through training, and the first task alone from the first switch on."""
    in_turn = len(snapshots.runs[0].switches) > 0
    usual = {"figsize": (WIDTH, 4.4), "layout": "constrained"}
    figure, ((axes, *more),) = plt.subplots(1, 1 + in_turn, squeeze=False, **usual)
    draw_curves(axes, snapshots)
    axes.set_title("All of the training", fontsize=11)
    for beside in more:
        draw_task_1_later(beside, snapshots)
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND_BELOW)
    figure.suptitle(f"{seeds_text(snapshots)}; dotted: a switch of task")
    return figure


def forgetting_bar(snapshots: Snapshots) -> Figure:
    """Task 1 accuracy right after Task 1 and at the end, with the drop."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    places, inks = range(len(snapshots.runs)), [colour(run.model) for run in snapshots.runs]
    before, after = np.array([run.kept().mean(axis=0) for run in snapshots.runs]).T
    for column, (offset, heights, alpha) in enumerate(((-0.2, before, 1), (0.2, after, 0.45))):
        bars = axes.bar(np.add(places, offset), heights, 0.38, color=inks, alpha=alpha)
        axes.bar_label(bars, fmt="%.3f", padding=2, label_type="center")
        for place, run in zip(places, snapshots.runs, strict=True):
            seeds = run.kept()[:, column]
            if len(seeds) > 1:
                spread = place + offset + np.linspace(-0.12, 0.12, len(seeds))
                axes.plot(spread, seeds, ".", color="black", markersize=4, alpha=0.6)
    for place, drop in zip(places, before - after, strict=True):
        axes.text(place, 1.1, f"loses {drop:.3f}", ha="center", fontweight="bold")
    axes.set_xticks(places, [label(run.model) for run in snapshots.runs])
    axes.set(ylim=(0, 1.2), ylabel="test accuracy on Task 1", yticks=np.linspace(0, 1, 6))
    seeds = max(len(run.curves) for run in snapshots.runs)
    told = f"means of {seeds} seeds, a dot each" if seeds > 1 else seeds_text(snapshots).lower()
    axes.set_title(f"Task 1 before (full) and after (pale) later training; {told}", fontsize=11)
    return figure


def receptive_fields(snapshots: Snapshots, run: SavedRun) -> Figure:
    """The first hundred units' weights as images, and beside them what training changed."""
    change = run.W1 - snapshots.W1_init
    levels = mpl.colormaps["RdBu_r"].resampled(41)  # a third of the bytes of 256 levels
    # Larger than the other figures, so that each weight is seen.
    figure, panels = plt.subplots(1, 2, figsize=(10, 6.2), layout="constrained")
    drawn = {"weights after training": run.W1, "what training changed": change}
    for axes, (title, weights) in zip(panels, drawn.items(), strict=True):
        tiles = np.full((100, SIDE + 1, SIDE + 1), np.nan)
        tiles[: weights.shape[1], :SIDE, :SIDE] = weights.T.reshape(-1, SIDE, SIDE)
        grid = np.block([[*row] for row in tiles.reshape(10, 10, SIDE + 1, -1)])[:-1, :-1]
        limit = np.abs(weights).max()
        image = axes.imshow(grid, levels, vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_axis_off()
        spreads = field_spread(weights)
        still = np.isnan(spreads).sum()
        told = [f"{still} of {len(spreads)} all zero"] if still else []
        if still < len(spreads):
            told.insert(0, f"spread {np.nanmean(spreads):.2f} (even: 11.42)")
        axes.set_title(f"{title}\n{'; '.join(told)}", fontsize=14)
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.8)
        bar.set_label("weight", fontsize=13)
        bar.ax.tick_params(labelsize=12)
    share = (change**2).sum() / (run.W1**2).sum()
    title = f"{label(run.model)}, first layer, seed {snapshots.seed}"
    figure.suptitle(
        f"{title}: the change has {share:.0%} of the weights' energy; spread in pixels", fontsize=15
    )
    return figure


def draw_use(axes: Axes, run: SavedRun, layer: int) -> None:
    """One layer's shares of images: on the first task upwards, on the last task downwards."""
    shares = run.active[-1, layer]
    order = np.argsort(shares[0] - shares[-1])
    first, last, units = shares[0, order], shares[-1, order], np.arange(len(order))
    axes.fill_between(units, first, step="mid", color=colour(run.model), label="on Task 1")
    axes.fill_between(units, -last, step="mid", color="0.7", label=f"on Task {len(shares)}")
    axes.plot(units, first - last, color="black", label="difference", linewidth=1.5)
    numbers = "S {selectivity:.2f}, gap {gap:.3f}, exclusive {exclusive:.0%}"
    silent = np.sum((first == 0) & (last == 0))
    if silent == len(units):
        numbers = "every unit is silent"
    elif min(first.min(), last.min()) == 1:  # sigmoid's are
        numbers = "every unit is always active"
    else:
        numbers = numbers.format(**segregation(first, last))
        numbers += f"; {silent} of {len(units)} units silent" if silent else ""
    axes.set_title(f"{label(run.model)}, layer {layer + 1}\n{numbers}", fontsize=9)
    axes.set(ylim=(-1.02, 1.02), xlim=(-1, len(units)))
    axes.set_yticks([-1, -0.5, 0, 0.5, 1], ["1", ".5", "0", ".5", "1"])


def winner_frequency(snapshots: Snapshots) -> Figure:
    """How often each unit is active on Task 1's and on the last task's images, by layer."""
    layers, columns = snapshots.runs[0].active.shape[1], len(snapshots.runs)
    size = max(WIDTH, 3.4 * columns), 2.3 * layers + 1.5
    figure = plt.figure(figsize=size, layout="constrained")
    panels = figure.subplots(layers, columns, sharey=True, squeeze=False)
    for run, column in zip(snapshots.runs, panels.T, strict=True):
        for layer, axes in enumerate(column):
            draw_use(axes, run, layer)
        column[-1].set_xlabel("units, sorted by the difference")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25), "frameon": False}
        column[-1].legend(ncols=3, fontsize=8, **below)
    figure.supylabel("share of images", fontsize=10)
    figure.suptitle(
        f"Use of each unit after training, seed {snapshots.seed}\n"
        "a and b: a unit's shares of the two tasks' images. S: mean of |a - b| / (a + b);\n"
        "gap: mean of |a - b|; exclusive: units with |a - b| / (a + b) > 0.9",
        fontsize=10,
    )
    return figure


def seeds_figure(results: dict[str, Any]) -> Figure | None:
    """Each seed's forgetting, joined across models, with mean and interval; None for one seed."""
    models = results["aggregate"]["models"]
    lost = {
        (row["seed"], row["model"]): row["forgetting"]
        for row in results["per_seed"]
        if row["status"] == "ok" and row["forgetting"] is not None
    }
    seeds = sorted({seed for seed, _ in lost})
    if len(seeds) < 2:
        return None
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6), layout="constrained")
    # A row a seed; what is missing becomes not-a-number.
    values = np.array([[lost.get((seed, model)) for model in models] for seed in seeds], float)
    axes.plot(values.T, "-", color="0.75", linewidth=0.8)
    for x, (model, row) in enumerate(models.items()):
        summary, ink = row["forgetting"], colour(model)
        axes.plot([x] * len(seeds), values[:, x], "o", color=ink, markersize=4, alpha=0.6)
        if summary["ci95"] is not None:
            side = x + 0.22 if x else x - 0.22
            axes.plot([side, side], summary["ci95"], "-", color=ink, linewidth=2.5)
            axes.plot([side], [summary["mean"]], "D", color=ink, markersize=8)
    axes.axhline(0, color="0.35", linewidth=0.8)
    axes.set_xticks(range(len(models)), map(label, models))
    several = len(results["config"]["tasks"]) > 2
    lost_in = "mean over tasks" if several else "Task 1 accuracy lost"
    axes.set(xlim=(-0.6, len(models) - 0.4), ylabel=f"forgetting, {lost_in}")
    lines = [f"{len(seeds)} seeds; a line is a seed, diamonds are means, bars 95 % intervals"]
    for pair in results["aggregate"]["pairs"]:
        if pair["verdict"]:
            names = f"{label(pair['first'])} against {label(pair['second'])}"
            lines.append(f"{names}: {pair['verdict']}")
    axes.set_title("\n".join(lines), fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    plt.close(figure)
    write_or_stop(path, buffer.getvalue())
    print(f"Wrote {path}")


# --- The page of --html ---------------------------------------------------------------------------

COLOURS_ON_PAGE = 128  # of each image, so that the page stays below 1.5 MB
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<title>Compete to Compute</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1rem; max-width: 50rem; overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
img { display: block; max-width: 100%; height: auto; margin: 1.5rem auto; background: white; }
pre, table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid gray; }
</style>
</head><body>
<h1>Compete to Compute</h1>
<p>Networks that differ in the hidden activation learn one task after another. Forgetting is test
accuracy on the first task before the later training minus after it. Luck moves it by hundredths:
one seed cannot tell which network forgets less.</p>
<nav aria-label="Contents">CONTENTS</nav>
<main>BODY</main></body></html>
"""


def picture(figure: Figure, path: Path) -> str:
    """A saved figure in Markdown; for those who cannot see it, the words and numbers in it."""
    words = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    words += [text.get_text() for axes in figure.axes for text in axes.texts]
    alternative = "; ".join(filter(None, words)).replace("\n", ", ")
    return f"![{alternative}](<{path.resolve().as_posix()}>)"


def run_report(run: Snapshots, results: dict[str, Any] | None, pictures: list[str]) -> str:
    """The run in Markdown: what it printed, how it was made, and its figures."""
    defaults = json.loads(json.dumps(asdict(Config())))
    made = {n: value for n, value in run.config.items() if value != defaults.get(n)}
    printed = "There is no results file of this run."
    if results:
        printed, made = textwrap.indent(results["printed"], "    "), made | results["environment"]
    rows = [f"| {name.replace('_', ' ')} | `{value}` |" for name, value in made.items()]
    table = "\n".join(["| what | value |", "| --- | --- |", *rows])
    heads = ["# This run", "## Its figures", "## Machine, and settings that are not the defaults"]
    return "\n\n".join([heads[0], printed, heads[1], *pictures, heads[2], table])


def embed(match: re.Match[str]) -> str:
    """The `src` of an image, with the image itself as a PNG of few colours."""
    path = STUDY_REPORT.parent / html.unescape(match[1])
    buffer = io.BytesIO()
    with Image.open(path) as image:
        reduced = image.convert("RGB").quantize(COLOURS_ON_PAGE, dither=Image.Dither.NONE)
    reduced.save(buffer, "png", optimize=True)
    return f'src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"'


def write_page(path: Path, report: str) -> None:
    """Write the page: the run, the study where it is; it needs no network and no other file."""
    from markdown import Markdown
    from markdown.extensions.toc import TocExtension

    study = STUDY_REPORT.read_text(encoding="utf-8") if STUDY_REPORT.is_file() else ""
    # Without the comments that mark the study's numbers, which Markdown takes for paragraphs.
    text = re.sub("<!--.*?-->", "", f"{report}\n\n{study}", flags=re.DOTALL)
    # Headings begin at the second level, since the page has the first.
    headings = TocExtension(baselevel=2, toc_depth="2-3")
    converter = Markdown(extensions=["tables", "fenced_code", headings])
    body = converter.convert(text)
    # Of a link to another file only the text is left.
    body = re.sub(r'<a href="(?!#|https?:)[^>]*>(.*?)</a>', r"\1", body, flags=re.DOTALL)
    body = re.sub(r'src="([^"]*)"', embed, body)
    content = PAGE.replace("CONTENTS", converter.toc).replace("BODY", body).encode()
    write_or_stop(path, content)
    print(f"Wrote {path}, {len(content) // 1000} KB")


def snapshots_parser(description: str) -> OneLineParser:
    """A parser that knows where the snapshots are."""
    parser = OneLineParser(description=description)
    usual = f"what a run saved (default: {SNAPSHOTS})"
    parser.add_argument("--snapshots", type=Path, default=SNAPSHOTS, help=usual)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every figure; the exit status."""
    parser = snapshots_parser("Draw the figures from saved snapshots (and results.json).")
    usual = "of the run, for seeds.png and --html (default: results.json)"
    parser.add_argument("--results", type=Path, help=usual)
    usual = "folder of the figures (default: viz; for --snapshots NAME.npz, NAME-figures)"
    parser.add_argument("--out-dir", type=Path, help=usual)
    parser.add_argument("--html", action="store_true", help="also report.html: run and study")
    options = parser.parse_args(arguments)
    if options.html and find_spec("markdown") is None:
        raise InputError("--html needs one more package: python3 -m pip install markdown")
    snapshots = load_snapshots(options.snapshots)
    results = load_results(options.results or Path("results.json"))
    if options.results and not results:
        raise InputError(f"{options.results}: there is no such file; name the results of a run")
    shown = (snapshots.config, snapshots.seed)
    if results and (results["config"], results["headline"]["seed"]) != shown:
        named = options.results or "results.json"
        print(f"{named} is of another run than {options.snapshots} and left out.")
        results = None
    folder = options.out_dir or Path("viz")
    if options.out_dir is None and options.snapshots != SNAPSHOTS:
        # The figures of another run do not take the place of those in viz.
        folder = options.snapshots.with_name(f"{options.snapshots.stem}-figures")
    check_writable(folder / "report.html")

    figures = {"training_curves": training_curves(snapshots)}
    if any(len(run.switches) for run in snapshots.runs):
        figures["forgetting_bar"] = forgetting_bar(snapshots)
    for run in snapshots.runs:
        name = re.sub(r"[^\w.-]+", "_", run.model)  # one's own is FILE.py:FUNCTION
        figures[f"W1_{name}"] = receptive_fields(snapshots, run)
    figures["winner_freq"] = winner_frequency(snapshots)
    if results and (seeds := seeds_figure(results)):
        figures["seeds"] = seeds
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    if options.html:
        pictures = [picture(f, folder / f"{name}.png") for name, f in figures.items()]
        write_page(folder / "report.html", run_report(snapshots, results, pictures))
    return 0


if __name__ == "__main__":
    run_script(main)
