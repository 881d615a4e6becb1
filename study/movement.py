"""Does competition save memory traffic? ByteDMD, exactly and at full size.

    python3 -m study movement                              the whole study
    python3 -m study movement --kernel matmul --size 8     one number: 8867

LWTA lets one unit of each block through, but looks at all of them to find it. Here every scalar
that a forward pass or an update reads is priced by its distance (study/programs.py), dense and
where silent units and zero pixels are skipped, for ReLU and LWTA. Writes
study/results/movement.json and study/figures/movement.png.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

import compete_to_compute as experiment
from compete_to_compute import DIGITS, PIXELS, Config, require, summarise
from study.programs import KERNELS, KINDS, MODELS, Program, cost, kernel, network_program
from study.runs import FIGURES, RESULTS
from study.tables import Column, estimate, markdown
from visualize_compete_to_compute import colour, save_figure

# In print; silent units skipped, zero pixels skipped.
SKIPS = {
    "dense": ("dense", False, False),
    "pixels": ("zero pixels", False, True),
    "silent": ("silent units", True, False),
    "both": ("silent units, zero pixels", True, True),
}
PHASES = ("first_layer", "activation", "later_layers", "output", "backward", "update")

Rows = list[dict[str, Any]]  # of movement.json
Activity = list[np.ndarray]  # nonzero pixels, bool (784, images), and each hidden layer's gates


# --- What is measured -----------------------------------------------------------------------------


def observe(model: str, options: argparse.Namespace, seed: int) -> Activity:
    """The activity of the trained network on test images, half of each task.

    The network is the experiment's at its default configuration but for the width.
    """
    experiment.limit_blas_threads()
    name, k = MODELS[model]
    config, images = Config(hidden=options.hidden, k=max(2, k)), options.images
    tasks, used = experiment.make_tasks(config, seed, experiment.load_mnist(options.data_dir))
    start = experiment.initial_weights(config, seed)
    network = experiment.MLP([start[0][used], *start[1:]], experiment.ACTIVATIONS[name], config.k)
    for _ in experiment.train_phases(network, tasks, config, seed):
        pass
    halves = zip(tasks, (images - images // 2, images // 2), strict=True)
    inputs = np.concatenate([task.test_inputs[:half] for task, half in halves])
    network.forward(inputs, np.arange(DIGITS))
    pixels = np.zeros((PIXELS, images), bool)
    pixels[used] = inputs[:, :-1].T > 0
    return [pixels, *(gate > 0 for gate in network.workspace(images).gates)]


def program(kind: str, model: str, skip: str, activity: Activity) -> Program:
    """The program of one pass of all images of an activity."""
    _, skips_units, skips_pixels = SKIPS[skip]
    pixels, *gates = activity
    read = pixels if skips_pixels else np.ones_like(pixels)
    return network_program(kind, MODELS[model][1], read, gates, skips_units)


def measure(model: str, options: argparse.Namespace, seed: int | None) -> Rows:
    """The costs with skipping at one seed, means over images.

    Without a seed those of skipping nothing, which no weight and no image changes.
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
        costs = [cost(program(kind, model, skip, [a[:, [n]] for a in activity])) for n in chosen]
        means = {part: float(np.mean([c[part] for c in costs])) for part in costs[0]}
        names = {"model": model, "seed": seed, "skip": skip, "program": kind}
        rows.append({**names, "cost": means})
    return rows


def run_study(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything: the contents of movement.json."""
    parts = [(m, options, seed) for seed in (None, *range(options.n_seeds)) for m in MODELS]
    rows: Rows = []
    for done, measured in enumerate(experiment.side_by_side(measure, parts, options.jobs), start=1):
        rows += measured
        print(f"{done} of {len(parts)} done", flush=True)
    # By seed, so that the rows of two models are pairs.
    rows.sort(key=lambda row: (row["seed"] is not None, row["seed"], row["model"]))
    return {
        "schema": experiment.SCHEMA,
        "command": command,
        "environment": experiment.environment(),
        "config": asdict(Config(hidden=options.hidden)),
        "n": options.n_seeds,
        "images": {"forward": options.images, "sgd": options.updates, "momentum": options.updates},
        "costs": rows,
    }


# --- Numbers --------------------------------------------------------------------------------------

NETWORKS = {"relu": "ReLU", "lwta": "LWTA", "lwta4": "LWTA, k = 4"}  # in print


def summaries(study: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of movement.json, means over the seeds as of `summarise`, by name.

    <skipped> is one of `SKIPS`, <model> of `MODELS`, <program> of `KINDS`; totals and
    comparisons have an interval:

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
    """Markdown tables of movement.json by their titles."""
    measured = summaries(study)

    def column(head: str, name: str, **how: Any) -> Column:
        nothing = {"mean": None}
        return Column(head, lambda row: estimate(measured.get(name.format(**row), nothing), **how))

    names = [
        Column("program", lambda row: KINDS[row["program"]]),
        Column("network", lambda row: NETWORKS[row["model"]]),
        Column("skipped", lambda row: SKIPS[row["skip"]][0]),
    ]
    place, millions = "{skip}.{model}.{program}", {"digits": 2, "sign": False}
    costs = [
        column("total", f"cost.{place}.total", **millions),
        column("saved, %", f"saved.{place}", digits=1, sign=False, scale=100),
        *(column(p.replace("_", " "), f"cost.{place}.{p}", **millions) for p in PHASES),
    ]
    more = column("more, %", "over_relu.{model}.{program}", digits=1, scale=100)
    rows = [
        {"program": kind, "model": model, "skip": skip}
        for kind, model, skip in product(KINDS, MODELS, SKIPS)
    ]
    pairs = [row for row in rows if row["skip"] == "silent" and row["model"] != "relu"]
    return {
        "Memory traffic of one image by phase, in millions (95 % interval)": (
            markdown([*names, *costs], rows)
        ),
        "Memory traffic of LWTA above ReLU's, both skipping silent units (95 % interval)": (
            markdown([*names[:2], more], pairs)
        ),
    }


# Not the colours of the models; greys for the two phases that are largest.
PHASE_COLOURS = ("0.35", "#CC79A7", "#F0E442", "#009E73", "#56B4E9", "0.8")


def movement_figure(study: dict[str, Any]) -> Figure:
    """Cost by phase of each program."""
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
    labels = [f"{NETWORKS[m]}, {SKIPS[skipped][0]}" for m, skipped in bars]
    panels[0].set_yticks(places, labels)
    panels[0].set_ylabel("network, what is skipped")
    panels[0].invert_yaxis()
    for text, (model, _) in zip(panels[0].get_yticklabels(), bars, strict=True):
        text.set_color(colour(MODELS[model][0]))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


# --- Command line ---------------------------------------------------------------------------------

MOVEMENT = RESULTS / "movement.json"


def command_line() -> argparse.ArgumentParser:
    """One kernel, or the study."""
    parser = experiment.OneLineParser(
        prog="python3 -m study movement",
        description="Memory traffic of ReLU and LWTA networks by ByteDMD.",
    )
    parser.add_argument(
        "--kernel", choices=KERNELS, metavar="NAME", help=f"cost of one: {', '.join(KERNELS)}"
    )
    parser.add_argument("--size", type=int, help="size of the kernel")
    parser.add_argument("--bytes", type=int, help="a scalar of the kernel (default: 1)")
    for name, default, meaning in (
        ("--hidden", 400, "units a layer"),
        ("--n-seeds", 5, "seeds"),
        ("--images", 20, "images for forward passes"),
        ("--updates", 2, "images for updates"),
        ("--jobs", min(4, experiment.available_cores()), "processes side by side"),
    ):
        parser.add_argument(name, type=int, default=default, help=f"{meaning} (default: {default})")
    parser.add_argument(
        "--data-dir", help="the four MNIST files (default: $MNIST_DIR, else the cache)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=MOVEMENT,
        help="results, with a figure beside them (default: in study/results and study/figures)",
    )
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise `InputError` for what cannot be measured."""
    for name, other in (("kernel", "size"), ("size", "kernel"), ("bytes", "kernel")):
        missing = getattr(options, name) is not None and getattr(options, other) is None
        require(not missing, f"--{name} needs --{other}")
    size = 1 if options.bytes is None else options.bytes
    require(1 <= size <= 64, f"--bytes must be 1 to 64, not {size}")
    for name, least in (("n_seeds", 1), ("images", 2), ("updates", 1), ("jobs", 1)):
        value = getattr(options, name)
        require(value >= least, f"{experiment.flag(name)} must be {least} or more, not {value}")
    most = 2 * Config().test_per_task
    require(options.images <= most, f"--images must be at most {most}, those of tests")
    require(options.updates <= options.images, "--updates must not be above --images")
    require(
        options.hidden >= 4 and options.hidden % 4 == 0,
        f"width {options.hidden} cannot be cut into blocks of 2 and 4; choose a multiple",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Price one kernel, or run the study; the exit status."""
    options = command_line().parse_args(arguments)
    check_options(options)
    if options.kernel is not None:
        print(cost(kernel(options.kernel, options.size), options.bytes or 1)["total"])
        return 0
    experiment.check_writable(options.out)
    experiment.load_mnist(options.data_dir)
    study = run_study(options, " ".join(["python3 -m study movement", *(arguments or ())]))
    experiment.write_or_stop(options.out, experiment.to_json(study))
    for title, table in tables(study).items():
        print(f"\n{title}\n\n{table}")
    print(f"\nWrote {options.out}")
    usual = options.out == MOVEMENT
    picture = FIGURES / "movement.png" if usual else options.out.with_suffix(".png")
    save_figure(movement_figure(study), picture)
    return 0
