"""Does competition save memory traffic? ByteDMD, exactly and at full size.

    python3 -m study movement                              the whole study
    python3 -m study movement --kernel matmul --size 8     one number: 8867

LWTA lets one unit of each block through, but looks at all of them to find it. Here every scalar
that a forward pass or an update reads is priced by its distance (study/traffic.py), dense and
where silent units and zero pixels are skipped, for ReLU and LWTA. Writes
study/results/movement.json and study/figures/movement.png.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import compete_to_compute as experiment
from compete.data import load_mnist
from compete.files import check_writable, require, to_json, write_or_stop
from compete.inference import summarise
from compete.machine import available_cores, blas, environment
from compete.options import POSITIVE_COUNT, OneLineParser, add_options, check_options, option
from compete.runs import with_progress
from compete.workers import side_by_side
from compete_to_compute import ACTIVATIONS, DIGITS, PIXELS, Config
from study.runs import FIGURES, RESULTS
from study.tables import estimate, table
from study.traffic import KERNELS, KINDS, MODELS, Program, cost, kernel, network_program

if TYPE_CHECKING:  # a worker that trains loads no plotting library
    from matplotlib.figure import Figure

# In print; silent units skipped, zero pixels skipped.
SKIPS = {
    "dense": ("dense", False, False),
    "pixels": ("zero pixels", False, True),
    "silent": ("silent units", True, False),
    "both": ("silent units, zero pixels", True, True),
}
PHASES = ("first_layer", "activation", "later_layers", "output", "backward", "update")
NETWORKS = {"relu": "ReLU", "lwta": "LWTA", "lwta4": "LWTA, k = 4"}  # in print

Rows = list[dict[str, Any]]  # of movement.json
Activity = list[np.ndarray]  # nonzero pixels, bool (784, images), and each hidden layer's gates


@dataclass(frozen=True)
class Options:
    """The command line."""

    kernel: str | None = option(
        None, f"the cost of one: {', '.join(KERNELS)}", choices=KERNELS, metavar="NAME"
    )
    size: int | None = option(None, "size of the kernel", type=int, metavar="N")
    bytes: int = option(1, "of a scalar of the kernel", (lambda n: 1 <= n <= 64, "1 to 64"))
    hidden: int = option(
        400, "units a layer", (lambda n: n > 0 and n % 4 == 0, "a multiple of 4, for whole blocks")
    )
    n_seeds: int = option(5, "seeds", POSITIVE_COUNT)
    images: int = option(
        20,
        "test images for forward passes",
        (lambda n: 2 <= n <= 2 * Config().test_per_task, "2 or more, and no more than are tested"),
    )
    updates: int = option(2, "test images for updates", POSITIVE_COUNT)
    jobs: int = option(min(4, available_cores()), "processes side by side", POSITIVE_COUNT)
    data_dir: str | None = option(
        None, "the four MNIST files (default: $MNIST_DIR, else the cache)", metavar="DIR"
    )
    out: Path | None = option(
        None,
        "results, a figure beside them (default: in study/results and study/figures)",
        type=Path,
        metavar="FILE",
    )


# --- What is measured -----------------------------------------------------------------------------


def observe(model: str, options: Options, seed: int) -> Activity:
    """Train a network and tell its activity on test images, half of each task.

    The network is the experiment's at its default configuration but for width and block.
    """
    blas()  # with one thread
    name, k = MODELS[model]
    config = Config(hidden=options.hidden, k=max(2, k))
    drawn = experiment.prepare(config, ACTIVATIONS[name], seed, load_mnist(options.data_dir))
    for _ in experiment.train_phases(drawn.network, drawn.tasks, config, seed):
        pass
    halves = zip(drawn.tasks, (options.images // 2, (options.images + 1) // 2), strict=True)
    inputs = np.concatenate([task.test_inputs[:half] for task, half in halves])
    drawn.network.forward(inputs, np.arange(DIGITS))
    pixels = np.zeros((PIXELS, len(inputs)), bool)
    pixels[drawn.used] = inputs[:, :-1].T > 0
    return [pixels, *(gate > 0 for gate in drawn.network.workspace(len(inputs)).gates)]


def program(kind: str, model: str, skip: str, activity: Activity, image: int) -> Program:
    """Write down the pass of one image of an activity."""
    _, skips_units, skips_pixels = SKIPS[skip]
    pixels, *gates = (units[:, image] for units in activity)
    read = pixels if skips_pixels else np.ones_like(pixels)
    return network_program(kind, MODELS[model][1], read, gates, skips_units)


def measure(model: str, options: Options, seed: int | None) -> Rows:
    """Price what is skipped at one seed, mean over images.

    Without a seed nothing is skipped, and neither weights nor images change the price.
    """
    if seed is None:
        activity = [np.zeros((n, 1), bool) for n in (PIXELS, *[options.hidden] * 2)]
    else:
        activity = observe(model, options, seed)
    rows, there = [], activity[0].shape[1]
    for kind, skip in product(KINDS, ["dense"] if seed is None else list(SKIPS)[1:]):
        images = min(there, options.images if kind == "forward" else options.updates)
        # Spread over all images, so that few are of both tasks.
        chosen = np.linspace(0, there - 1, images).astype(int)
        costs = [cost(program(kind, model, skip, activity, image)) for image in chosen]
        means = {part: float(np.mean([c[part] for c in costs])) for part in costs[0]}
        rows.append({"model": model, "seed": seed, "skip": skip, "program": kind, "cost": means})
    return rows


def run_study(options: Options, command: str) -> dict[str, Any]:
    """Measure everything: the contents of movement.json."""
    parts = [(m, options, seed) for seed in (None, *range(options.n_seeds)) for m in MODELS]
    results = with_progress(side_by_side(measure, parts, options.jobs), len(parts))
    # By seed, so that the rows of two models are pairs.
    rows = sorted(
        chain(*results), key=lambda row: (row["seed"] is not None, row["seed"], row["model"])
    )
    return {
        "schema": experiment.SCHEMA,
        "command": command,
        "environment": environment(Path(experiment.__file__)),
        "config": asdict(Config(hidden=options.hidden)),
        "n": options.n_seeds,
        "images": {"forward": options.images, "sgd": options.updates, "momentum": options.updates},
        "costs": rows,
    }


# --- Numbers --------------------------------------------------------------------------------------


def summaries(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Summarise movement.json over the seeds, by names; totals and comparisons have an interval.

    <skipped> is one of `SKIPS`, <model> of `MODELS`, <program> of `KINDS`:

        cost.<skipped>.<model>.<program>.<total, or one of PHASES>    in millions
        saved.<skipped>.<model>.<program>      share of the dense cost
        over_relu.<model>.<program>            share that LWTA costs more than ReLU at the same
                                               seed, both trained and skipping silent units
    """
    costs: dict[str, list[float]] = defaultdict(list)
    for row in study["costs"]:
        for part, value in row["cost"].items():
            name = f"cost.{row['skip']}.{row['model']}.{row['program']}.{part}"
            costs[name].append(value / 1e6)
    result = {
        name: summarise(values if name.endswith(".total") else [np.mean(values)])
        for name, values in costs.items()
    }
    for skip, model, kind in product(list(SKIPS)[1:], MODELS, KINDS):
        own, dense = (result[f"cost.{s}.{model}.{kind}.total"]["mean"] for s in (skip, "dense"))
        result[f"saved.{skip}.{model}.{kind}"] = summarise([1 - own / dense])
    for model, kind in product(list(MODELS)[1:], KINDS):
        totals = [costs[f"cost.silent.{m}.{kind}.total"] for m in (model, "relu")]
        result[f"over_relu.{model}.{kind}"] = summarise((np.divide(*totals) - 1).tolist())
    return result


def quantities(study: dict[str, Any]) -> dict[str, float]:
    """What prose may cite: the means of `summaries`, and NAME.low and NAME.high of intervals."""
    numbers = {}
    for name, summary in summaries(study).items():
        numbers[name] = summary["mean"]
        numbers |= zip((f"{name}.low", f"{name}.high"), summary["ci95"] or (), strict=False)
    return numbers


# --- Tables and figure ----------------------------------------------------------------------------


def tables(study: dict[str, Any]) -> dict[str, str]:
    """Make Markdown tables of movement.json, by their titles."""
    measured = summaries(study)

    def cell(name: str, **how: Any) -> str:
        return estimate(measured.get(name, {"mean": None}), **how)

    millions, share = {"digits": 2, "sign": False}, {"digits": 1, "scale": 100}
    traffic, above = [], []
    for kind, model, skip in product(KINDS, MODELS, SKIPS):
        place, names = f"{skip}.{model}.{kind}", [KINDS[kind], NETWORKS[model]]
        total, *phases = (cell(f"cost.{place}.{p}", **millions) for p in ("total", *PHASES))
        saved = cell(f"saved.{place}", **share, sign=False)
        traffic.append([*names, SKIPS[skip][0], total, saved, *phases])
        if skip == "silent" and model != "relu":
            above.append([*names, cell(f"over_relu.{model}.{kind}", **share)])
    heads = [phase.replace("_", " ") for phase in PHASES]
    return {
        "Memory traffic of one image by phase, in millions (95 % interval)": (
            table(["program", "network", "skipped", "total", "saved, %", *heads], traffic)
        ),
        "Memory traffic of LWTA above ReLU's, both skipping silent units (95 % interval)": (
            table(["program", "network", "more, %"], above)
        ),
    }


# Not the colours of the models; greys for the two phases that are largest.
PHASE_COLOURS = ("0.35", "#CC79A7", "#F0E442", "#009E73", "#56B4E9", "0.8")


def movement_figure(study: dict[str, Any]) -> Figure:
    """Cost by phase of each program."""
    from visualize_compete_to_compute import colour, plt

    numbers = quantities(study)
    figure, panels = plt.subplots(1, 3, figsize=(10, 4.5), layout="constrained", sharey=True)
    figure.suptitle("Memory traffic of one image by phase, mean over images and seeds")
    bars = list(product(MODELS, SKIPS))
    places = [bar + bar // len(SKIPS) for bar in range(len(bars))]  # a gap between networks
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        left = np.zeros(len(bars))
        for phase, shade in zip(PHASES, PHASE_COLOURS, strict=True):
            names = [f"cost.{skipped}.{model}.{kind}.{phase}" for model, skipped in bars]
            lengths = [numbers.get(name, 0) for name in names]
            axes.barh(places, lengths, 0.8, left, color=shade, label=phase.replace("_", " "))
            left += lengths
        axes.set(title=title.replace(" with", "\nwith"), xlabel="ByteDMD cost, millions")
        axes.set_xlim(0, 1.05 * left.max())
    panels[0].set_yticks(places, [f"{NETWORKS[m]}, {SKIPS[skipped][0]}" for m, skipped in bars])
    panels[0].set_ylabel("network, what is skipped")
    panels[0].invert_yaxis()
    for text, (model, _) in zip(panels[0].get_yticklabels(), bars, strict=True):
        text.set_color(colour(MODELS[model][0]))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


# --- Command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Price one kernel, or run the study; the exit status."""
    parser = OneLineParser(
        prog="python3 -m study movement",
        description="Memory traffic of ReLU and LWTA networks by ByteDMD.",
    )
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(arguments)))
    check_options(options)
    require(options.updates <= options.images, "--updates must not be above --images")
    require((options.kernel is None) == (options.size is None), "--kernel and --size go together")
    require(options.kernel is not None or options.bytes == 1, "--bytes needs --kernel")
    if options.kernel is not None:
        print(cost(kernel(options.kernel, options.size), options.bytes)["total"])
        return 0
    out = options.out or RESULTS / "movement.json"
    picture = out.with_suffix(".png") if options.out else FIGURES / "movement.png"
    check_writable(out)
    load_mnist(options.data_dir)
    study = run_study(options, " ".join(["python3 -m study movement", *(arguments or ())]))
    write_or_stop(out, to_json(study))
    for title, text in tables(study).items():
        print(f"\n{title}\n\n{text}")
    print(f"\nWrote {out}")
    from visualize_compete_to_compute import save_figure

    save_figure(movement_figure(study), picture)
    return 0
