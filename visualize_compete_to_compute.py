#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""Draw the figures from what a run saved; nothing is trained.

    python3 visualize_compete_to_compute.py

reads viz/snapshots.npz and writes viz/*.png. Where results.json holds several seeds, it also draws
each seed's forgetting, viz/seeds.png. Only these files are needed, not MNIST. With --html it also
writes viz/report.html, one page with its figures and tables, and the study's where study/ is there.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compete_to_compute import (
    InputError,
    OneLineParser,
    check_writable,
    label,
    run_script,
    write_or_stop,
)

# Okabe and Ito's colours, which colour-blind readers can tell apart; the same in every figure.
COLOURS = {"relu": "#D55E00", "lwta": "#0072B2", "sigmoid": "#009E73"}
SNAPSHOTS = Path("viz/snapshots.npz")
OTHER_COLOUR = "#CC79A7"
DPI = 100


def colour(model: str) -> str:
    """The model's colour in every figure."""
    return COLOURS.get(model, OTHER_COLOUR)


@dataclass(frozen=True)
class Snapshots:
    """snapshots.npz: what one seed's run left for drawing."""

    config: dict[str, Any]
    seed: int
    models: list[str]
    tasks: list[str]
    arrays: dict[str, np.ndarray]

    def of(self, model: str, what: str) -> np.ndarray:
        """The array `what` of one model, for example accuracy, (evaluations, tasks)."""
        return self.arrays[f"{what}_{model}"]


def snapshots_parser(description: str) -> OneLineParser:
    """A parser that knows where the snapshots are."""
    parser = OneLineParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "--snapshots",
        type=Path,
        default=SNAPSHOTS,
        metavar="FILE",
        help=f"what a run saved (default: {SNAPSHOTS})",
    )
    return parser


def load_snapshots(path: Path) -> Snapshots:
    """Read snapshots.npz, without pickles; `InputError` if it is missing, damaged or not ours."""
    first = "run compete_to_compute.py first, or name the file with --snapshots"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        snapshots = Snapshots(
            json.loads(str(arrays["config"])),
            int(arrays["seed"]),
            [str(m) for m in arrays["models"]],
            [str(t) for t in arrays["tasks"]],
            arrays,
        )
        for model in snapshots.models:
            for what in ("accuracy", "task", "update", "train_loss", "W1", "active"):
                snapshots.of(model, what)
            if not np.isfinite(snapshots.of(model, "W1")).all():
                raise InputError(f"{path}: {model} diverged at this seed; draw another run")
        _ = arrays["W1_init"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {first}") from None
    except KeyError as error:
        raise InputError(f"{path}: not a snapshot file of ours (no {error}); {first}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {first}") from None
    except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile):
        raise InputError(f"{path}: damaged or not a snapshot file; {first}") from None
    return snapshots


# --- Numbers for what people see in the figures ---------------------------------------------------


def selectivity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """|a - b| / (a + b) per unit: 0 used alike by both tasks, 1 used by one alone.

    a and b (units,) are the shares of each task's images on which the unit is active; nan for a
    unit that is never active.
    """
    total = first + second
    used = total > 0
    return np.divide(np.abs(first - second), total, out=np.full(len(total), np.nan), where=used)


def segregation(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How differently two tasks use a layer, from the units' shares a and b, (units,) each.

    `selectivity`: the mean of |a - b| / (a + b) over the units active at all, high for units that
    are rarely active. `gap`: the mean of |a - b| over all units, high for units that are often
    active. `exclusive`: the share of all units whose selectivity is above 0.9, so that one task
    activates them at least 19 times as often as the other.
    """
    values = selectivity(first, second)
    return {
        "selectivity": float(np.nanmean(values)),
        "gap": float(np.abs(first - second).mean()),
        "exclusive": float((values > 0.9).mean()),
    }


def field_spread(fields: np.ndarray) -> np.ndarray:
    """How far each receptive field spreads, in pixels: fields (784, units) to (units,).

    The root mean square distance from its centre, both weighted by the squared weights: 11.4 for
    energy spread evenly over the image, smaller for a localised field.
    """
    energy = fields.reshape(28, 28, -1) ** 2
    energy = energy / energy.sum(axis=(0, 1))
    grid = np.arange(28.0)
    variance = np.zeros(fields.shape[1])
    for axis in (0, 1):
        profile = energy.sum(axis=1 - axis)
        centre = grid @ profile
        variance += ((grid[:, None] - centre) ** 2 * profile).sum(axis=0)
    return np.sqrt(variance)


# --- Figures --------------------------------------------------------------------------------------


def switches(snapshots: Snapshots, model: str) -> np.ndarray:
    """The updates after which a new task began."""
    task, update = snapshots.of(model, "task"), snapshots.of(model, "update")
    return update[:-1][(np.diff(task) > 0) & (task[:-1] > 0)]


def mark_switches(axes: Axes, snapshots: Snapshots) -> None:
    """A vertical line at each task switch: the last test of one task, no update of the next."""
    for at in sorted({int(x) for model in snapshots.models for x in switches(snapshots, model)}):
        axes.axvline(at, color="0.35", linewidth=1, linestyle=":")


def shown_tasks(snapshots: Snapshots) -> list[tuple[int, str]]:
    """The tasks that the curves show, with their line styles: the first and the last."""
    last = len(snapshots.tasks) - 1
    return [(0, "-")] if last == 0 else [(0, "-"), (last, "--")]


def draw_curves(axes: Axes, snapshots: Snapshots, until: int | None = None) -> None:
    """Test accuracy of each model on the first and the last task, up to an evaluation."""
    for model in snapshots.models:
        update, accuracy = snapshots.of(model, "update"), snapshots.of(model, "accuracy")
        for task, style in shown_tasks(snapshots):
            axes.plot(
                update[:until],
                accuracy[:until, task],
                style,
                color=colour(model),
                marker="o",
                markersize=3,
                label=f"{label(model)}, Task {task + 1} ({snapshots.tasks[task]})",
            )


def training_curves(snapshots: Snapshots) -> Figure:
    """Both tasks through training, and the first task alone from the first switch on."""
    figure, (whole, zoom) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    draw_curves(whole, snapshots)
    mark_switches(whole, snapshots)
    title = "Both tasks" if len(snapshots.tasks) == 2 else "The first and the last task"
    whole.set(title=title, xlabel="updates", ylabel="test accuracy", ylim=(-0.02, 1.02))
    lowest = 1.0
    in_turn = [model for model in snapshots.models if len(switches(snapshots, model))]
    zoom.set_visible(bool(in_turn))
    for model in in_turn:
        start = switches(snapshots, model)[0]
        update, accuracy = snapshots.of(model, "update"), snapshots.of(model, "accuracy")[:, 0]
        after = update >= start
        zoom.plot(update[after], accuracy[after], "-o", color=colour(model), markersize=4)
        zoom.axhline(accuracy[after][0], color=colour(model), linewidth=0.8, linestyle=(0, (1, 3)))
        zoom.annotate(
            f"{label(model)} {accuracy[-1]:.3f}",
            (update[-1], accuracy[-1]),
            textcoords="offset points",
            xytext=(6, 0),
            va="center",
            color=colour(model),
        )
        lowest = min(lowest, float(accuracy[after].min()))
    mark_switches(zoom, snapshots)
    zoom.set(
        title=f"Task 1 ({snapshots.tasks[0]}) while the next task is learned",
        xlabel="updates",
        ylabel="test accuracy on Task 1",
    )
    zoom.set_ylim(lowest - 0.01, None)
    left, right = zoom.get_xlim()
    zoom.set_xlim(left, right + 0.25 * (right - left))  # room for the labels
    figure.legend(
        *whole.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.suptitle(f"Seed {snapshots.seed}: what is kept of Task 1 (dotted: the switch)")
    return figure


def forgetting_bar(snapshots: Snapshots) -> Figure:
    """Task 1 accuracy right after Task 1 and at the end, with the drop."""
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for x, model in enumerate(snapshots.models):
        task, accuracy = snapshots.of(model, "task"), snapshots.of(model, "accuracy")[:, 0]
        before, after = accuracy[task == 1][-1], accuracy[-1]
        axes.bar(x - 0.2, before, 0.38, color=colour(model))
        axes.bar(x + 0.2, after, 0.38, color=colour(model), alpha=0.45)
        for offset, value, ink in ((-0.2, before, "white"), (0.2, after, "black")):
            axes.text(x + offset, value - 0.03, f"{value:.3f}", ha="center", va="top", color=ink)
        axes.text(x, 1.02, f"loses {before - after:.3f}", ha="center", fontweight="bold")
    axes.set_xticks(range(len(snapshots.models)), [label(m) for m in snapshots.models])
    axes.set(
        ylim=(0, 1.12),
        ylabel="test accuracy on Task 1",
        title=f"Task 1 before (full) and after (pale) the later training, seed {snapshots.seed}",
    )
    axes.title.set_fontsize(10)
    return figure


def receptive_fields(snapshots: Snapshots, model: str) -> Figure:
    """The first hundred units' weights as images, and beside them what training changed."""
    trained, initial = snapshots.of(model, "W1"), snapshots.arrays["W1_init"]
    figure, panels = plt.subplots(1, 2, figsize=(11, 5.4), layout="constrained")
    change = trained - initial
    share = (change**2).sum() / (trained**2).sum()
    for axes, fields, title in (
        (panels[0], trained, "weights after training"),
        (panels[1], change, "what training changed (after minus before)"),
    ):
        limit = float(np.abs(fields).max())
        tiles = np.full((10 * 29 - 1, 10 * 29 - 1), np.nan)
        for unit in range(fields.shape[1]):
            row, column = divmod(unit, 10)
            tiles[row * 29 : row * 29 + 28, column * 29 : column * 29 + 28] = fields[
                :, unit
            ].reshape(28, 28)
        image = axes.imshow(tiles, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"{title}\nspread {field_spread(fields).mean():.2f} pixels (even: 11.42)")
        figure.colorbar(image, ax=axes, shrink=0.7, label="weight")
    figure.suptitle(
        f"{label(model)}, first layer, seed {snapshots.seed}: the change has "
        f"{share:.0%} of the energy of the weights"
    )
    return figure


def winner_frequency(snapshots: Snapshots) -> Figure:
    """How often each unit is active on Task 1's and on the last task's images, by layer."""
    layers = snapshots.of(snapshots.models[0], "active").shape[1]
    columns = len(snapshots.models)
    figure, panels = plt.subplots(
        *(layers, columns),
        figsize=(5 * columns, 2.7 * layers + 1),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    last = len(snapshots.tasks) - 1
    for column, model in enumerate(snapshots.models):
        for layer in range(layers):
            axes = panels[layer, column]
            first, second = snapshots.of(model, "active")[-1, layer][[0, last]]
            order = np.argsort(first - second)
            units = np.arange(len(order))
            number = segregation(first, second)
            axes.fill_between(
                units, first[order], step="mid", color=colour(model), label="on Task 1"
            )
            axes.fill_between(
                units, -second[order], step="mid", color="0.7", label=f"on Task {last + 1} (down)"
            )
            axes.plot(units, (first - second)[order], color="black", label="gap", linewidth=1.5)
            numbers = (
                f"S = {number['selectivity']:.2f}, gap {number['gap']:.3f}, "
                f"{number['exclusive']:.0%} exclusive"
            )
            if min(first.min(), second.min()) == 1:  # sigmoid units are never silent
                numbers = "every unit always active"
            axes.set_title(f"{label(model)}, layer {layer + 1}: {numbers}")
            axes.set(ylim=(-1.02, 1.02), xlim=(-1, len(units)))
            axes.set_yticks([-1, -0.5, 0, 0.5, 1], ["1", ".5", "0", ".5", "1"])
            if layer == layers - 1:
                axes.set_xlabel("units, sorted by the gap")
                axes.legend(
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.22),
                    ncols=3,
                    frameon=False,
                    fontsize=8,
                )
    figure.supylabel("share of images on which the unit is active")
    figure.suptitle(
        f"Use of each unit after training, seed {snapshots.seed}\n"
        "a and b: a unit's shares on the two tasks. S: mean of |a - b| / (a + b); gap: mean of "
        "|a - b|; exclusive: |a - b| / (a + b) > 0.9",
        fontsize=10,
    )
    return figure


def seeds_figure(results: dict[str, Any]) -> Figure | None:
    """Each seed's forgetting, joined across models, with mean and interval; None for one seed."""
    models = list(results["aggregate"]["models"])
    rows: dict[int, dict[str, float]] = {}
    for row in results["per_seed"]:
        if row["status"] == "ok" and row["forgetting"] is not None:
            rows.setdefault(row["seed"], {})[row["model"]] = row["forgetting"]
    if len(rows) < 2:
        return None
    figure, axes = plt.subplots(figsize=(2.4 + 1.8 * len(models), 4.6), layout="constrained")
    for values in rows.values():
        xs = [x for x, model in enumerate(models) if model in values]
        axes.plot(xs, [values[models[x]] for x in xs], "-", color="0.75", linewidth=0.8)
    for x, model in enumerate(models):
        ys = [values[model] for values in rows.values() if model in values]
        axes.plot([x] * len(ys), ys, "o", color=colour(model), markersize=4, alpha=0.6)
        summary = results["aggregate"]["models"][model]["forgetting"]
        if summary["ci95"] is not None:
            side = x - 0.22 if x == 0 else x + 0.22
            low, high = summary["ci95"]
            axes.plot([side, side], [low, high], "-", color=colour(model), linewidth=2.5)
            axes.plot([side], [summary["mean"]], "D", color=colour(model), markersize=8)
    axes.axhline(0, color="0.35", linewidth=0.8)
    axes.set_xticks(range(len(models)), [label(m) for m in models])
    axes.set_xlim(-0.6, len(models) - 0.4)
    verdicts = [
        f"{label(pair['first'])} against {label(pair['second'])}: {pair['verdict']}"
        for pair in results["aggregate"]["pairs"]
        if pair["verdict"]
    ]
    several = len(results["config"]["tasks"]) > 2
    axes.set_ylabel("forgetting, " + ("mean over tasks" if several else "Task 1 accuracy lost"))
    axes.set_title(
        f"{len(rows)} seeds; a line is a seed, diamonds are means, bars 95 % intervals\n"
        + "\n".join(verdicts),
        fontsize=9,
    )
    return figure


def load_sweep(path: Path) -> dict[str, Any] | None:
    """results.json, or None where there is none; `InputError` if it is not one of ours."""
    try:
        results = json.loads(path.read_text())
        if missing := {"config", "environment", "per_seed", "aggregate"} - results.keys():
            raise ValueError(f"no {' and '.join(sorted(missing))} in it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a results file ({error}); run the sweep again") from None
    return results


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    buffer = io.BytesIO()
    # Level 4 is quicker than the usual 6, for files that are little larger.
    figure.savefig(buffer, format="png", dpi=DPI, pil_kwargs={"compress_level": 4})
    plt.close(figure)
    write_or_stop(path, buffer.getvalue())
    print(f"Wrote {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every figure; the exit status."""
    parser = snapshots_parser(
        "Draw the figures from saved snapshots (and results.json of a sweep)."
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results.json"),
        metavar="FILE",
        help="of the run, for seeds.png and --html (default: results.json)",
    )
    parser.add_argument(
        "--out-dir",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the figures (default: viz; for --snapshots NAME.npz, NAME-figures)",
    )
    parser.add_argument(
        "--html", action="store_true", help="also write report.html there: figures and tables"
    )
    options = parser.parse_args(arguments)
    snapshots = load_snapshots(options.snapshots)
    sweep = load_sweep(options.results)
    out_dir = options.out_dir or Path("viz")
    if options.out_dir is None and options.snapshots != SNAPSHOTS:
        # The figures of another run do not take the place of those in viz.
        out_dir = options.snapshots.with_name(f"{options.snapshots.stem}-figures")
    check_writable(out_dir / "training_curves.png")
    page = out_dir / "report.html"
    if options.html:
        check_writable(page)

    figures = {"training_curves": training_curves(snapshots)}
    if any(len(switches(snapshots, model)) for model in snapshots.models):
        figures["forgetting_bar"] = forgetting_bar(snapshots)
    figures |= {f"W1_{model}": receptive_fields(snapshots, model) for model in snapshots.models}
    figures["winner_freq"] = winner_frequency(snapshots)
    if sweep and (seeds := seeds_figure(sweep)):
        figures["seeds"] = seeds
    paths = [out_dir / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    if options.html:
        from report_compete_to_compute import write_report

        write_report(page, snapshots, sweep, paths)
    return 0


if __name__ == "__main__":
    run_script(main)
