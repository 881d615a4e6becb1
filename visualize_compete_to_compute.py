#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "loky>=3.5",
#                 "cloudpickle>=3.0", "matplotlib>=3.8", "pillow>=10.1", "markdown>=3.4"]
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
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

# Figures look the same for everyone: a notebook's backend and a user's matplotlibrc are set aside.
os.environ["MPLBACKEND"] = "Agg"
try:
    import matplotlib as mpl

    mpl.rcdefaults()
    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    from compete.files import InputError, check_writable, require, run_script, write_or_stop
    from compete.inference import summarise
    from compete.options import OneLineParser
    from compete.pictures import SIDE, field_spread, segregation
    from compete.report import print_report
    from compete_to_compute import PICTURED, PIXELS, Config, changes, check_config, label
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    advice = "python3 -m pip install -r requirements.txt"
    if str(missing.name).startswith("compete"):
        advice = "it lies beside this script; take the whole repository, and run without -I"
    print(f"{missing.name} is missing: {advice}", file=sys.stderr)
    sys.exit(2)

# Okabe and Ito's colours, which colour-blind readers can tell apart; the same in every figure.
COLOURS = {"relu": "#D55E00", "lwta": "#0072B2", "sigmoid": "#009E73"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # for other models in turn
SNAPSHOTS = Path("viz/snapshots.npz")
STUDY_REPORT = Path(__file__).resolve().parent / "study" / "README.md"
WIDTH, DPI = 7.5, 100  # inches and pixels an inch: a usual figure is 750 pixels wide
LEGEND_BELOW = {"loc": "outside lower center", "ncols": 2, "frameon": False}


def colour(model: str) -> str:
    """Return the model's colour in every figure; another model gets the next of `OTHERS`."""
    return COLOURS.setdefault(model, OTHERS[len(COLOURS) % len(OTHERS) - 3])


# --- What a run left ------------------------------------------------------------------------------


class SavedRun(NamedTuple):
    """One model: the headline seed's weights and units, and the tests of every seed that is ok."""

    model: str
    W1: np.ndarray  # of the first units, after training, (784, pictured)
    active: np.ndarray  # shares of test images, (checkpoints, layers, tasks, units)
    curves: list[np.ndarray]  # (tests, 2 + tasks): updates done, tasks begun, accuracy on each task

    @property
    def switches(self) -> np.ndarray:
        """The updates after which the first seed began a next task, in ascending order."""
        update, task = self.curves[0][:, :2].T
        return update[:-1][(np.diff(task) > 0) & (task[:-1] > 0)]

    @property
    def kept(self) -> np.ndarray:
        """The accuracy on Task 1 after Task 1 and at the end, (seeds, 2)."""
        return np.array([[c[c[:, 1] < 2][-1, 2], c[-1, 2]] for c in self.curves])


class Snapshots(NamedTuple):
    """The contents of snapshots.npz."""

    config: Config
    seed: int  # the headline
    W1_init: np.ndarray  # every run's `W1` before training
    runs: list[SavedRun]


def load_snapshots(path: Path) -> Snapshots:
    """Read snapshots.npz, without pickles; `InputError` says what is missing or wrong in it."""
    first = "run compete_to_compute.py first, or name the file with --snapshots"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        saved = json.loads(str(arrays["config"]))
        config = Config(**{**saved, "tasks": tuple(saved["tasks"])})
        check_config(config)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged bytes
        reason = getattr(error, "strerror", None) or f"damaged, or no snapshots ({error!r})"
        raise InputError(f"{path}: {reason}; {first}") from None

    def take(name: str, kind: str, *shape: int | None) -> np.ndarray:
        """Return an array of this dtype.kind and shape, in which None is any length."""
        value = arrays.get(name, np.empty(0))
        wanted = tuple(n or m for n, m in zip(shape, value.shape, strict=False))
        is_right = (value.dtype.kind, value.ndim, value.shape) == (kind, len(shape), wanted)
        if kind == "f" and None not in shape:  # where any length is right, nan fills the rest
            is_right = is_right and np.isfinite(value).all()
        require(
            is_right and value.size > 0,
            f"{path}: {name} is missing or not what a run saves; {first}",
        )
        return value

    tasks = len(config.tasks)
    begun = range(2 if config.joint else tasks + 1)  # how many tasks had, at some test
    weights = PIXELS, min(PICTURED, config.hidden)
    runs = []
    for model in map(str, take("models", "U", None)):
        status = take(f"status_{model}", "U")
        require(status != "diverged", f"{path}: {model} diverged at this seed; draw another run")
        W1 = take(f"W1_{model}", "f", *weights)
        active = take(f"active_{model}", "f", len(begun), config.depth, tasks, config.hidden)
        curves = take(f"curve_{model}", "f", None, None, 2 + tasks)
        curves = [curve[np.isfinite(curve[:, 0])] for curve in curves]
        for curve in curves:
            is_whole = np.isfinite(curve).all() and np.array_equal(np.unique(curve[:, 1]), begun)
            require(is_whole, f"{path}: curve_{model} does not reach the last task; {first}")
        if status != "ok":  # the headline, which comes first, counts only where it is alone
            curves = curves[1:] or curves
        runs.append(SavedRun(model, W1, active, curves))
    return Snapshots(config, int(take("seed", "i")), take("W1_init", "f", *weights), runs)


def load_results(path: Path) -> dict[str, Any]:
    """Read results.json; `InputError` says what is missing or wrong in it.

    Adds `printed`, what the run said; `forgetting`, (seeds, models), nan for a run that is not ok;
    and `verdicts`, a sentence for each pair that has one.
    """
    printed = io.StringIO()
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        with redirect_stdout(printed):
            print_report(results)
        results["environment"].pop("mnist_sha256", None)
        rows, totals = results["per_seed"], results["aggregate"]
        lost = {(r["seed"], r["model"]): r["forgetting"] for r in rows if r["status"] == "ok"}
        seeds = sorted({seed for (seed, _), value in lost.items() if value is not None})
        table = [[lost.get((seed, model)) for model in totals["models"]] for seed in seeds]
        pairs = [(p["first"], p["second"], p["verdict"]) for p in totals["pairs"]]
        verdicts = [f"{label(a)} against {label(b)}: {told}" for a, b, told in pairs if told]
        drawn = {"forgetting": np.array(table, float), "verdicts": verdicts}
        return {**results, **drawn, "printed": printed.getvalue()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"not a results file ({error!r})"
        raise InputError(f"{path}: {reason}; name the results of a run, or run it again") from None


# --- Figures --------------------------------------------------------------------------------------


def seeds_text(snapshots: Snapshots, several: str) -> str:
    """Tell, for a figure's title, of one seed or of `several`, in which {} is their number."""
    seeds = max(len(run.curves) for run in snapshots.runs)
    return several.format(seeds) if seeds > 1 else f"Seed {snapshots.seed}; one seed cannot tell"


def mark_switches(axes: plt.Axes, snapshots: Snapshots) -> None:
    """Draw a vertical line at each task switch, where one task was tested last."""
    for update in {int(update) for run in snapshots.runs for update in run.switches}:
        axes.axvline(update, color="0.35", linewidth=1, linestyle=":")


def draw_seeds(
    axes: plt.Axes, run: SavedRun, task: int, span: tuple[float, float], line: str, name: str = ""
) -> np.ndarray:
    """Draw accuracy on a task between two updates: thin each seed, bold their mean with interval.

    Where seeds were tested at different updates there is no mean, and the first seed is bold.
    Returns the bold line, (tests, 2) of update and accuracy.
    """
    curves = [c[(span[0] <= c[:, 0]) & (c[:, 0] <= span[1])][:, [0, 2 + task]] for c in run.curves]
    style, bold = {"color": colour(run.model)}, curves[0]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*curve.T, line, linewidth=0.6, alpha=0.35, **style)
        if all(np.array_equal(curve[:, 0], bold[:, 0]) for curve in curves):
            together = [summarise(at_once) for at_once in np.array(curves)[:, :, 1].T]
            bold = np.column_stack([bold[:, 0], [s["mean"] for s in together]])
            low, high = np.array([s["ci95"] for s in together]).T
            axes.fill_between(bold[:, 0], low, high, alpha=0.2, linewidth=0, **style)
    axes.plot(*bold.T, f"{line}o", markersize=3, label=name, **style)
    return bold


def draw_curves(axes: plt.Axes, snapshots: Snapshots, until: float = np.inf) -> None:
    """Draw test accuracy of each model on the first and the last task, up to an update."""
    tasks = snapshots.config.tasks
    for run in snapshots.runs:
        for task in sorted({0, len(tasks) - 1}):
            name = f"{label(run.model)}, Task {task + 1} ({tasks[task]})"
            draw_seeds(axes, run, task, (0, until), "--" if task else "-", name)
    axes.set(xlabel="updates", ylabel="test accuracy", ylim=(-0.02, 1.02))
    mark_switches(axes, snapshots)


def draw_task_1_later(axes: plt.Axes, snapshots: Snapshots) -> None:
    """Draw accuracy on Task 1 from the first switch on; a label tells where each model ends."""
    for rank, run in enumerate(sorted(snapshots.runs, key=lambda run: run.kept[:, 1].mean())):
        ink, bold = colour(run.model), draw_seeds(axes, run, 0, (run.switches[0], np.inf), "-")
        axes.axhline(bold[0, 1], color=ink, linewidth=0.8, linestyle=(0, (1, 3)))
        # Ends that are close together stay readable.
        beside = {"textcoords": "offset points", "color": ink, "va": "bottom" if rank else "top"}
        axes.annotate(f"{label(run.model)} {bold[-1, 1]:.3f}", bold[-1], (6, 0), **beside)
    axes.set(xlabel="updates", ylabel="test accuracy on Task 1")
    axes.set_title("Task 1 after the switch", fontsize=11)
    axes.margins(y=0.08)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.5 * (right - left))  # room for the labels
    mark_switches(axes, snapshots)


def training_curves(snapshots: Snapshots) -> plt.Figure:
    """Draw both tasks through training, and the first task alone from the first switch on."""
    in_turn = len(snapshots.runs[0].switches) > 0
    figure = plt.figure(figsize=(WIDTH, 4.4), layout="constrained")
    axes, *more = figure.subplots(1, 1 + in_turn, squeeze=False)[0]
    draw_curves(axes, snapshots)
    axes.set_title("All of the training", fontsize=11)
    for beside in more:
        draw_task_1_later(beside, snapshots)
    figure.legend(*axes.get_legend_handles_labels(), **LEGEND_BELOW)
    told = seeds_text(snapshots, "{} seeds: thin lines; bold: their mean and its 95 % interval")
    figure.suptitle(f"{told}; dotted: a switch of task")
    return figure


def forgetting_bar(snapshots: Snapshots) -> plt.Figure:
    """Draw Task 1 accuracy right after Task 1 and at the end, with the drop."""
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for place, run in enumerate(snapshots.runs):
        ink, means, sides = colour(run.model), run.kept.mean(axis=0), (place - 0.2, place + 0.2)
        bars = axes.bar(sides, means, 0.38, color=[(ink, 1), (ink, 0.45)])
        axes.bar_label(bars, fmt="%.3f", padding=2, label_type="center")
        axes.text(place, 1.1, f"loses {means[0] - means[1]:.3f}", ha="center", fontweight="bold")
        if len(run.curves) > 1:
            spread = np.linspace(-0.12, 0.12, len(run.curves))[:, None]
            axes.plot(sides + spread, run.kept, "k.", markersize=4, alpha=0.6)
    axes.set_xticks(range(len(snapshots.runs)), [label(run.model) for run in snapshots.runs])
    axes.set(ylim=(0, 1.2), ylabel="test accuracy on Task 1", yticks=np.linspace(0, 1, 6))
    told = seeds_text(snapshots, "means of {} seeds, a dot each").lower()
    axes.set_title(f"Task 1 before (full) and after (pale) later training; {told}", fontsize=11)
    return figure


def receptive_fields(snapshots: Snapshots, run: SavedRun) -> plt.Figure:
    """Draw the first units' weights as images, and beside them what training changed."""
    change = run.W1 - snapshots.W1_init
    levels = mpl.colormaps["RdBu_r"].resampled(41)  # a third of the bytes of 256 levels
    figure, panels = plt.subplots(1, 2, figsize=(10, 6.2), layout="constrained")
    drawn = {"weights after training": run.W1, "what training changed": change}
    for axes, (title, weights) in zip(panels, drawn.items(), strict=True):
        tiles = np.full((PICTURED, SIDE + 1, SIDE + 1), np.nan)
        tiles[: weights.shape[1], :SIDE, :SIDE] = weights.T.reshape(-1, SIDE, SIDE)
        grid = np.block([[*row] for row in tiles.reshape(10, 10, SIDE + 1, -1)])[:-1, :-1]
        limit = np.abs(weights).max()
        image = axes.imshow(grid, levels, vmin=-limit, vmax=limit, interpolation="nearest")
        axes.set_axis_off()
        spreads = field_spread(weights)
        known = spreads[np.isfinite(spreads)]
        told = [f"spread {known.mean():.2f} (even: 11.42)"] if known.size else []
        if known.size < spreads.size:
            told.append(f"{spreads.size - known.size} of {spreads.size} all zero")
        axes.set_title(f"{title}\n{'; '.join(told)}", fontsize=14)
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.8)
        bar.set_label("weight", fontsize=13)
        bar.ax.tick_params(labelsize=12)
    share = (change**2).sum() / (run.W1**2).sum()
    title = f"{label(run.model)}, first layer, seed {snapshots.seed}: the change has {share:.0%}"
    figure.suptitle(f"{title} of the weights' energy; spread in pixels", fontsize=15)
    return figure


def draw_use(axes: plt.Axes, run: SavedRun, layer: int) -> None:
    """Draw one layer's shares of images: on the first task upwards, on the last task downwards."""
    shares = run.active[-1, layer]
    order = np.argsort(shares[0] - shares[-1])
    first, last, units = shares[0, order], shares[-1, order], np.arange(len(order))
    axes.fill_between(units, first, step="mid", color=colour(run.model), label="on Task 1")
    axes.fill_between(units, -last, step="mid", color="0.7", label=f"on Task {len(shares)}")
    axes.plot(units, first - last, color="black", label="difference", linewidth=1.5)
    silent = np.sum((first == 0) & (last == 0))
    if silent == len(units):
        numbers = "every unit is silent"
    elif min(first.min(), last.min()) == 1:  # sigmoid's are
        numbers = "every unit is always active"
    else:
        numbers = "S {selectivity:.2f}, gap {gap:.3f}, exclusive {exclusive:.0%}"
        numbers = numbers.format(**segregation(first, last))
        numbers += f"; {silent} of {len(units)} units silent" if silent else ""
    axes.set_title(f"{label(run.model)}, layer {layer + 1}\n{numbers}", fontsize=9)
    axes.set(ylim=(-1.02, 1.02), xlim=(-1, len(units)))
    axes.set_yticks([-1, -0.5, 0, 0.5, 1], ["1", ".5", "0", ".5", "1"])


def winner_frequency(snapshots: Snapshots) -> plt.Figure:
    """Draw how often each unit is active on Task 1's and on the last task's images, by layer."""
    layers, columns = snapshots.config.depth, len(snapshots.runs)
    size = {"figsize": (max(WIDTH, 3.4 * columns), 2.3 * layers + 1.5), "layout": "constrained"}
    figure, panels = plt.subplots(layers, columns, sharey=True, squeeze=False, **size)
    for run, column in zip(snapshots.runs, panels.T, strict=True):
        for layer, axes in enumerate(column):
            draw_use(axes, run, layer)
        axes.set_xlabel("units, sorted by the difference")
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.25), "frameon": False}
        axes.legend(ncols=3, fontsize=8, **below)
    figure.supylabel("share of images", fontsize=10)
    title = (
        f"Use of each unit after training, seed {snapshots.seed}\n"
        "a and b: a unit's shares of the two tasks' images. S: mean of |a - b| / (a + b);\n"
        "gap: mean of |a - b|; exclusive: units with |a - b| / (a + b) > 0.9"
    )
    figure.suptitle(title, fontsize=10)
    return figure


def seeds_figure(results: dict[str, Any]) -> plt.Figure:
    """Draw each seed's forgetting, joined across models, with mean and interval."""
    models, table = list(results["aggregate"]["models"]), results["forgetting"]
    figure, axes = plt.subplots(figsize=(WIDTH, 4.6), layout="constrained")
    axes.plot(table.T, "-", color="0.75", linewidth=0.8)
    for x, (model, values) in enumerate(zip(models, table.T, strict=True)):
        axes.plot([x] * len(table), values, "o", color=colour(model), markersize=4, alpha=0.6)
        summary = summarise(values[np.isfinite(values)].tolist())
        side = x + 0.22 if x else x - 0.22
        if summary["ci95"]:
            axes.plot([side, side], summary["ci95"], "-", color=colour(model), linewidth=2.5)
            axes.plot([side], [summary["mean"]], "D", color=colour(model), markersize=8)
    axes.axhline(0, color="0.35", linewidth=0.8)
    axes.set_xticks(range(len(models)), map(label, models))
    lost = "mean over tasks" if len(results["config"]["tasks"]) > 2 else "Task 1 accuracy lost"
    axes.set(xlim=(-0.6, len(models) - 0.4), ylabel=f"forgetting, {lost}")
    told = f"{len(table)} seeds; a line is a seed, diamonds are means, bars 95 % intervals"
    axes.set_title("\n".join([told, *results["verdicts"]]), fontsize=10)
    return figure


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a PNG, all of it or nothing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI)
    plt.close(figure)
    write_or_stop(path, buffer.getvalue())
    print(f"Wrote {path}")


# --- The page of --html ---------------------------------------------------------------------------

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>Compete to Compute</title>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<style>:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1rem; max-width: 50rem; overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, sans-serif; -webkit-text-size-adjust: 100%; }
img { display: block; max-width: 100%; height: auto; margin: 1.5rem auto; background: white; }
pre, table { display: block; overflow-x: auto; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid gray; }
</style></head><body><h1>Compete to Compute</h1>
<p>Networks that differ in the hidden activation learn one task after another. Forgetting is test
accuracy on the first task before the later training minus after it. Luck moves it by hundredths:
one seed cannot tell which network forgets less.</p>
<nav aria-label="Contents">CONTENTS</nav><main>BODY</main></body></html>
"""


def picture(figure: plt.Figure, path: Path) -> str:
    """Return a saved figure in Markdown; for those who cannot see it, with the words in it."""
    words = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    words += [text.get_text() for axes in figure.axes for text in axes.texts]
    alternative = "; ".join(filter(None, words)).replace("\n", ", ")
    return f"![{alternative}](<{path.resolve().as_posix()}>)"


def run_report(run: Snapshots, results: dict[str, Any] | None, pictures: list[str]) -> str:
    """Tell the run in Markdown: what it printed, its figures, and how it was made."""
    printed, made = "There is no results file of this run.", changes(run.config)
    if results:
        printed = "    " + results["printed"].replace("\n", "\n    ")
        made |= results["environment"]
    rows = [f"| {name.replace('_', ' ')} | `{value}` |" for name, value in made.items()]
    table = "\n".join(["| what | value |", "| --- | --- |", *rows])
    heads = "# This run", "## Its figures", "## Machine, and settings that are not the defaults"
    return "\n\n".join([heads[0], printed, heads[1], *pictures, heads[2], table])


def embed(match: re.Match[str]) -> str:
    """Return the `src` of an image, with the image itself as a PNG of few colours."""
    buffer = io.BytesIO()
    with Image.open(STUDY_REPORT.parent / html.unescape(match[1])) as image:
        reduced = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    reduced.save(buffer, "png", optimize=True)
    return f'src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"'


def write_page(path: Path, report: str) -> None:
    """Write the run and, where it is, the study as one page that needs no other file."""
    from markdown import Markdown
    from markdown.extensions.toc import TocExtension

    study = STUDY_REPORT.read_text(encoding="utf-8") if STUDY_REPORT.is_file() else ""
    headings = TocExtension(baselevel=2, toc_depth="2-3")  # the page itself has the first level
    converter = Markdown(extensions=["tables", "fenced_code", headings])
    # Without the comments that mark the study's numbers, which Markdown takes for paragraphs.
    body = converter.convert(re.sub("<!--.*?-->", "", f"{report}\n\n{study}", flags=re.DOTALL))
    # Of a link to another file only the text is left.
    body = re.sub(r'<a href="(?!#|https?:)[^>]*>(.*?)</a>', r"\1", body, flags=re.DOTALL)
    body = re.sub(r'src="([^"]*)"', embed, body)
    content = PAGE.replace("CONTENTS", converter.toc).replace("BODY", body).encode()
    write_or_stop(path, content)
    print(f"Wrote {path}, {len(content) // 1000} KB")


def snapshots_parser(description: str) -> OneLineParser:
    """Return a parser that knows where the snapshots are."""
    parser = OneLineParser(description=description)
    usual = f"what a run saved (default: {SNAPSHOTS})"
    parser.add_argument("--snapshots", type=Path, default=SNAPSHOTS, help=usual)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw every figure; return the exit status."""
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
    named = options.results or Path("results.json")
    results = load_results(named) if options.results or named.exists() else None
    shown = json.loads(json.dumps(vars(snapshots.config))), snapshots.seed
    if results and (results["config"], results["headline"]["seed"]) != shown:
        print(f"{named} is of another run than {options.snapshots} and left out.")
        results = None
    # The figures of another run do not take the place of those in viz.
    other = options.snapshots.with_name(f"{options.snapshots.stem}-figures")
    folder = options.out_dir or (Path("viz") if options.snapshots == SNAPSHOTS else other)
    check_writable(folder / "report.html")

    figures = {"training_curves": training_curves(snapshots)}
    if any(len(run.switches) for run in snapshots.runs):
        figures["forgetting_bar"] = forgetting_bar(snapshots)
    for run in snapshots.runs:
        name = re.sub(r"[^\w.-]+", "_", run.model)  # one's own is FILE.py:FUNCTION
        figures[f"W1_{name}"] = receptive_fields(snapshots, run)
    figures["winner_freq"] = winner_frequency(snapshots)
    if results and len(results["forgetting"]) > 1:
        figures["seeds"] = seeds_figure(results)
    for name, figure in figures.items():
        save_figure(figure, folder / f"{name}.png")
    if options.html:
        pictures = [picture(figure, folder / f"{name}.png") for name, figure in figures.items()]
        write_page(folder / "report.html", run_report(snapshots, results, pictures))
    return 0


if __name__ == "__main__":
    run_script(main)
