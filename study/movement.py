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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, combinations, product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    MLP,
    PIXELS,
    SCHEMA,
    Config,
    OneLineParser,
    available_cores,
    check_writable,
    environment,
    evaluate,
    flag,
    initial_weights,
    limit_blas_threads,
    load_mnist,
    make_tasks,
    require,
    side_by_side,
    summarise,
    to_json,
    train_phases,
    write_or_stop,
)
from study.programs import KERNELS, KINDS, MODELS, Program, cost, kernel, network_program
from study.runs import FIGURES, RESULTS
from study.tables import MISSING, Column, markdown
from visualize_compete_to_compute import colour, save_figure

# In print; silent units skipped, zero pixels skipped.
SKIPS = {
    "dense": ("dense", False, False),
    "pixels": ("zero pixels", False, True),
    "silent": ("silent units", True, False),
    "both": ("silent units, zero pixels", True, True),
}
PHASES = ("first_layer", "activation", "later_layers", "output", "backward", "update")
BATCH = Config().batch
FEW = 3  # the largest batch that is exact at the full width, in 2.3 GB
SAMPLE = 16  # the full batch at the full width, by one scalar in so many, takes 3.5 GB
TARGET = 0.95  # accuracy on Task 1 at which it counts as learned

Rows = list[dict[str, Any]]  # of movement.json


# --- What is measured -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Activity:
    """What the programs depend on: pixels, bool (784, n), and each hidden layer's gates."""

    pixels: np.ndarray
    gates: list[np.ndarray]

    def images(self, chosen: Sequence[int]) -> Activity:
        """Some of the images."""
        return Activity(self.pixels[:, chosen], [gate[:, chosen] for gate in self.gates])

    def narrow(self, width: int, k: int) -> Activity:
        """With `width` units a layer: blocks from those often to those rarely won by one unit."""
        gates = []
        for gate in self.gates:
            blocks = gate.reshape(-1, k, gate.shape[1])
            by_rate = np.argsort(blocks[:, 0].mean(axis=1), kind="stable")
            spread = (np.arange(width // k) + 0.5) * len(blocks) * k / width
            gates.append(blocks[by_rate[spread.astype(int)]].reshape(width, -1))
        return Activity(self.pixels, gates)

    def program(self, kind: str, model: str, skip: str, sample: int = 1) -> Program:
        """The program of one pass of all these images."""
        _, units, pixels = SKIPS[skip]
        read = self.pixels if pixels else np.ones_like(self.pixels)
        return network_program(kind, MODELS[model][1], read, self.gates, units, sample)


def observe(
    model: str, options: argparse.Namespace, seed: int, images: int
) -> tuple[dict[str, Activity], int | None]:
    """The activity of the initial and of the trained network on test images, half of each task.

    The network is the experiment's at its default configuration but for the width. Also, after how
    many updates the test accuracy on Task 1 first was `TARGET`; None if it never was.
    """
    limit_blas_threads()
    name, k = MODELS[model]
    config = Config(hidden=options.hidden, k=max(2, k))
    tasks, used = make_tasks(config, seed, load_mnist(options.data_dir))
    start = initial_weights(config, seed)
    network = MLP([start[0][used], *start[1:]], ACTIVATIONS[name], config.k)
    halves = zip(tasks, (images - images // 2, images // 2), strict=True)
    inputs = np.concatenate([task.test_inputs[:half] for task, half in halves])
    pixels = np.zeros((PIXELS, images), bool)
    pixels[used] = inputs[:, :-1].T > 0

    def activity() -> Activity:
        network.forward(inputs, np.arange(DIGITS))
        return Activity(pixels, [gate > 0 for gate in network.workspace(images).gates])

    initial, learned = activity(), None
    for moment in train_phases(network, tasks, config, seed):
        sought = learned is None and moment.task == 1 and moment.stage == "update"
        if sought and evaluate(network, tasks[:1])[0] >= TARGET:
            learned = moment.update
    return {"initial": initial, "trained": activity()}, learned


def measure_dense(model: str, options: argparse.Namespace) -> Rows:
    """The costs without skipping, which no weight and no image changes."""
    pixels, *gates = (np.zeros((n, 1), bool) for n in (PIXELS, options.hidden, options.hidden))
    activity = Activity(pixels, gates)
    names = {"model": model, "seed": None, "weights": "any", "skip": "dense"}
    costs = {kind: cost(activity.program(kind, model, "dense")) for kind in KINDS}
    return [{**names, "program": kind, "cost": costs[kind]} for kind in KINDS]


def measure_seed(model: str, options: argparse.Namespace, seed: int) -> Rows:
    """The costs with skipping at one seed, means over images, and the updates to `TARGET`."""
    activities, updates = observe(model, options, seed, options.images)
    rows = []
    for (weights, activity), kind, skip in product(activities.items(), KINDS, list(SKIPS)[1:]):
        _, units, _ = SKIPS[skip]
        if not units and weights == "initial":
            continue  # the same as with trained weights
        images = options.images if kind == "forward" else options.updates
        # Spread over all images, so that few are of both tasks.
        chosen = np.linspace(0, options.images - 1, images).astype(int)
        costs = [cost(activity.images([n]).program(kind, model, skip)) for n in chosen]
        active = {"pixels": float(activity.pixels.mean())}
        for layer, gate in enumerate(activity.gates, start=1):
            active[f"layer_{layer}"] = float(gate.mean())
        rows.append(
            {
                **{"model": model, "seed": seed, "weights": weights if units else "any"},
                **{"skip": skip, "program": kind, "active": active, "updates": updates},
                "cost": {name: float(np.mean([c[name] for c in costs])) for name in costs[0]},
            }
        )
    return rows


def measure_accountings(model: str, options: argparse.Namespace) -> Rows:
    """One image of the first seed's trained network under other ways of accounting.

    Two stacks: one has the parameters, their velocities and what the update makes of both, the
    other everything else, so that neither pushes the other down. No competition: a network with
    the same silent units that needs no winners, because each unit looks at itself alone.
    """
    activity = observe(model, options, 0, 2)[0]["trained"].images([0])
    rows = []
    for kind, skip in product(KINDS, SKIPS):
        program = activity.program(kind, model, skip)
        outlives = np.zeros(program.scalars, bool)
        for values in program.parameters:
            outlives[values] = True
        totals = {
            "ByteDMD": cost(program)["total"],
            "no_liveness": cost(program, liveness=False)["total"],
            "two_stacks": sum(cost(program, stack=s)["total"] for s in (outlives, ~outlives)),
            "4_bytes": cost(program, size=4)["total"],
            "no_competition": cost(activity.program(kind, "relu", skip))["total"],
        }
        names = {"model": model, "seed": 0, "weights": "trained", "skip": skip}
        for accounting, total in totals.items():
            rows.append({**names, "program": f"{kind}_{accounting}", "cost": {"total": total}})
    return rows


def measure_batches(model: str, options: argparse.Namespace) -> Rows:
    """Steps with momentum of several images, by the first seed's trained network.

    Exact and by a sample of the scalars: `BATCH` images in a narrow network, and `FEW` at the full
    width. By a sample alone: `BATCH` at the full width. The narrow network has the activity of some
    units of the full one, spread over all rates, so that the width alone differs.
    """
    batch = observe(model, options, 0, BATCH)[0]["trained"]
    few = batch.images(np.linspace(0, BATCH - 1, FEW).astype(int))  # of both tasks
    narrow = batch.narrow(options.narrow, MODELS[model][1])
    programs = {
        **{"narrow": (narrow, 1), "narrow_sampled": (narrow, SAMPLE)},
        **{"few": (few, 1), "few_sampled": (few, SAMPLE), "batch": (batch, SAMPLE)},
    }
    rows = []
    for (name, (activity, sample)), skip in product(programs.items(), SKIPS):
        names = {"model": model, "seed": 0, "weights": "trained", "skip": skip, "program": name}
        rows.append({**names, "cost": cost(activity.program("momentum", model, skip, sample))})
    return rows


def timed(number: int, measure: Callable[..., Rows], *values: Any) -> tuple[int, Rows, float]:
    """The same number, what was measured, and its CPU seconds."""
    began = process_time()
    rows = measure(*values)
    return number, rows, process_time() - began


def run_study(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Everything: the contents of movement.json."""
    began = perf_counter()
    light = [(part, m, options) for part in (measure_dense, measure_accountings) for m in MODELS]
    light += [(measure_seed, m, options, seed) for seed in range(options.n_seeds) for m in MODELS]
    heavy = [(measure_batches, m, options) for m in MODELS]
    numbered = [(number, *part) for number, part in enumerate([*light, *heavy])]
    # One of the light ones takes up to 1.3 GB; the heavy ones go one after the other.
    results = []
    for result in chain(
        side_by_side(timed, numbered[: len(light)], options.jobs),
        side_by_side(timed, numbered[len(light) :], 1),
    ):
        results.append(result)
        print(f"{len(results)} of {len(numbered)} done", flush=True)
    results.sort(key=lambda result: result[0])
    return {
        "schema": SCHEMA,
        "command": command,
        "environment": environment(),
        "seconds": perf_counter() - began,
        "jobs": options.jobs,
        "core_seconds": sum(seconds for *_, seconds in results),
        "config": asdict(Config(hidden=options.hidden)),
        **{"n": options.n_seeds, "narrow": options.narrow},
        "images": {"forward": options.images, "sgd": options.updates, "momentum": options.updates},
        "costs": [row for _, rows, _ in results for row in rows],
    }


# --- Numbers --------------------------------------------------------------------------------------

# In print, model, and weights of its rows. LWTA has as many active units untrained as trained.
NETWORKS = {
    "relu": ("ReLU", "relu", ("any", "trained")),
    "untrained_relu": ("ReLU, untrained", "relu", ("initial",)),
    "lwta": ("LWTA", "lwta", ("any", "trained")),
    "lwta4": ("LWTA, k = 4", "lwta4", ("any", "trained")),
}
ACCOUNTINGS = ("ByteDMD", "no_liveness", "two_stacks", "4_bytes")
# By what is skipped, network and program: of "total" and each phase the cost, seed by seed.
Costs = dict[tuple[str, str, str], dict[str, list[float]]]


def quantities(study: dict[str, Any]) -> dict[str, float]:
    """The numbers of movement.json by name, for prose and tables.

    <skipped> is one of `SKIPS`, <network> of `NETWORKS`, <phase> of `PHASES`. <program> is one of
    `KINDS`; or, with momentum and decay, batch (of `BATCH` images, estimated), narrow or few (see
    `measure_batches`); or one image by one of `ACCOUNTINGS`, such as sgd_two_stacks. Most numbers
    are shares:

        cost.<skipped>.<network>.<program>.<total or phase>[.low, .high]    in millions
        share.<skipped>.<network>.<program>.<phase>   of the cost
        saved.<skipped>.<network>.<program>           of the dense cost
        over_relu.<network>.<program>[.low, .high]    that LWTA costs more than ReLU at the same
                                                      seed, both trained and skipping silent units
        over_relu.<network>.<program>.seeds           the number of seeds at which it does
        alike.<program>, alike.lowest, .highest       of pairs of networks, that another accounting
                                                      ranks as ByteDMD does
        winners.highest                               of any cost, for finding the winners
        error.<skipped>.<network>.<narrow or few>, error.lowest, .highest    of estimates
        per_image.<skipped>.<network>                 of a step of one image, that batch costs
        active.<network>.<pixels, layer_1, layer_2>   that is not zero
        updates.<network>[.lowest, .highest]          to `TARGET`: the median; never is infinite
        traffic.<skipped>.<network>                   of the median updates, in billions
        seeds, jobs, minutes, core_minutes            of the study
    """
    costs: Costs = defaultdict(lambda: defaultdict(list))
    active: dict[str, list[float]] = defaultdict(list)
    updates: dict[str, dict[int, float]] = defaultdict(dict)
    for row, (network, (_, model, weights)) in product(study["costs"], NETWORKS.items()):
        if row["model"] == model and row["weights"] in weights:
            for part, value in row["cost"].items():
                costs[row["skip"], network, row["program"]][part].append(value / 1e6)
            for part, share in row.get("active", {}).items():
                active[f"active.{network}.{part}"].append(share)
            if "updates" in row:
                updates[model][row["seed"]] = row["updates"] or np.inf
    numbers = {
        **{"seeds": study["n"], "jobs": study["jobs"]},
        **{"minutes": study["seconds"] / 60, "core_minutes": study["core_seconds"] / 60},
        **{name: np.mean(shares) for name, shares in active.items()},
        **cost_numbers(costs),
        **comparisons(costs),
    }
    for model, by_seed in updates.items():
        median = np.median(list(by_seed.values()))
        numbers |= {f"updates.{model}": median, **ends(f"updates.{model}", by_seed.values())}
        for skipped in SKIPS:
            batch = numbers[f"cost.{skipped}.{model}.batch.total"]
            numbers[f"traffic.{skipped}.{model}"] = median * batch / 1e3
    return {name: float(value) for name, value in numbers.items()}


def mean_and_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean by this name, and by name.low and name.high its 95 % interval if there is one."""
    summary = summarise(values)
    interval = zip((f"{name}.low", f"{name}.high"), summary["ci95"] or (), strict=False)
    return {name: summary["mean"], **dict(interval)}


def ends(name: str, values: Iterable[float]) -> dict[str, float]:
    """The least and the greatest value by name.lowest and name.highest."""
    return {f"{name}.lowest": min(values), f"{name}.highest": max(values)}


def cost_numbers(costs: Costs) -> dict[str, float]:
    """Each cost, its shares, and what it saves."""
    numbers = {}
    for (skipped, network, program), parts in costs.items():
        name, total = f"{skipped}.{network}.{program}", np.mean(parts["total"])
        numbers |= mean_and_interval(f"cost.{name}.total", parts["total"])
        if skipped != "dense":
            dense = costs["dense", NETWORKS[network][1], program]["total"]
            numbers[f"saved.{name}"] = 1 - total / np.mean(dense)
        for phase in PHASES:
            if phase in parts:
                numbers[f"cost.{name}.{phase}"] = np.mean(parts[phase])
                numbers[f"share.{name}.{phase}"] = np.mean(parts[phase]) / total
    return numbers


def comparisons(costs: Costs) -> dict[str, float]:
    """Costs beside others that differ in one thing."""

    def above(key: tuple[str, str, str], other: tuple[str, str, str]) -> np.ndarray:
        return np.divide(costs[key]["total"], costs[other]["total"]) - 1

    def ranking(program: str) -> np.ndarray:
        totals = [costs[(*place, program)]["total"][0] for place in places]
        return np.array([np.sign(a - b) for a, b in combinations(totals, 2)])

    numbers, errors, winners, alike = {}, {}, [], {}
    for model, kind in product(list(MODELS)[1:], KINDS):
        more = above(("silent", model, kind), ("silent", "relu", kind))
        numbers |= mean_and_interval(f"over_relu.{model}.{kind}", more.tolist())
        numbers[f"over_relu.{model}.{kind}.seeds"] = np.count_nonzero(more > 0)
    places = list(product(SKIPS, MODELS))
    for skipped, model in places:
        for size in ("narrow", "few"):
            estimate = skipped, model, f"{size}_sampled"
            errors[f"error.{skipped}.{model}.{size}"] = above(estimate, (skipped, model, size))[0]
        for kind in KINDS:
            alone = skipped, model, f"{kind}_no_competition"
            winners.append(-above(alone, (skipped, model, f"{kind}_ByteDMD"))[0])
        batch, one = (np.mean(costs[skipped, model, p]["total"]) for p in ("batch", "momentum"))
        numbers[f"per_image.{skipped}.{model}"] = batch / BATCH / one
    for kind, accounting in product(KINDS, ACCOUNTINGS[1:]):
        program = f"{kind}_{accounting}"
        alike[f"alike.{program}"] = np.mean(ranking(program) == ranking(f"{kind}_ByteDMD"))
    numbers |= errors | ends("error", errors.values()) | {"winners.highest": max(winners)}
    return numbers | alike | ends("alike", alike.values())


# --- Tables and figure ----------------------------------------------------------------------------

# What a row of a table is called by, and how that is printed.
WORDS = {
    "network": {network: printed for network, (printed, *_) in NETWORKS.items()},
    "skipped": {skip: printed for skip, (printed, *_) in SKIPS.items()},
    "program": KINDS,
    "accounting": {name: name.replace("_", " ") for name in ACCOUNTINGS},
}
# Formats of cells; brackets are left out where there is no number for them.
MILLIONS, SHARE, ERROR, SAVING = "{:,.2f}", "{:.1%}", "{:+.1%}", "{:,.2f} ({:.1%})"
TOTAL = "cost.{skipped}.{network}.%s.total saved.{skipped}.{network}.%s"
PASS = "cost.{skipped}.{network}.{program}"
OVER = "over_relu.{network}.{program}"
# By title: what the rows are called by, then of each column head, format and quantities.
TABLES: dict[str, tuple[str, list[tuple[str, str, str]]]] = {
    "Memory traffic of one image, in millions (share saved)": (
        "network skipped",
        [
            *((head, SAVING, TOTAL % (kind, kind)) for kind, head in KINDS.items()),
            (f"the same, {BATCH} images, estimated", SAVING, TOTAL % ("batch", "batch")),
        ],
    ),
    "Memory traffic of one image by phase, in millions (95 % interval)": (
        "program network skipped",
        [
            (
                *("total", "{:,.2f} ({:,.2f} to {:,.2f})"),
                f"{PASS}.total {PASS}.total.low {PASS}.total.high",
            ),
            *((p.replace("_", " "), MILLIONS, f"{PASS}.{p}") for p in PHASES),
        ],
    ),
    "Memory traffic of LWTA above trained ReLU's, both skipping silent units (95 % interval)": (
        "network program",
        [
            ("more", "{:+.1%} ({:+.1%} to {:+.1%})", f"{OVER} {OVER}.low {OVER}.high"),
            ("seeds at which it is more", "{:g}", f"{OVER}.seeds"),
        ],
    ),
    "Memory traffic by other accountings: of dense ReLU in millions, and shares saved": (
        "program accounting",
        [
            ("dense ReLU", MILLIONS, "cost.dense.relu.{program}_{accounting}.total"),
            *(
                (
                    f"{WORDS['network'][model]}, {WORDS['skipped'][skipped]}",
                    *(SHARE, f"saved.{skipped}.{model}.{{program}}_{{accounting}}"),
                )
                for skipped, model in [("pixels", "relu"), *product(("silent", "both"), MODELS)]
            ),
            ("pairs ranked alike", "{:.0%}", "alike.{program}_{accounting}"),
        ],
    ),
    "Memory traffic of steps of several images with momentum, in millions (share saved)": (
        "network skipped",
        [
            (f"{BATCH} images, narrow layers", SAVING, TOTAL % ("narrow", "narrow")),
            ("error of its estimate", ERROR, "error.{skipped}.{network}.narrow"),
            (f"{FEW} images", SAVING, TOTAL % ("few", "few")),
            ("error of its estimate", ERROR, "error.{skipped}.{network}.few"),
        ],
    ),
    f"Memory traffic to learn Task 1: updates to {TARGET:.0%}, and billions by what is skipped": (
        "network",
        [
            (
                *("median (lowest to highest)", "{:g} ({:g} to {:g})"),
                "updates.{network} updates.{network}.lowest updates.{network}.highest",
            ),
            *((t, MILLIONS, f"traffic.{skip}.{{network}}") for skip, (t, *_) in SKIPS.items()),
        ],
    ),
}


def tables(study: dict[str, Any]) -> dict[str, str]:
    """Markdown tables of movement.json by their titles."""
    numbers = quantities(study)

    def text(form: str, names: str, row: dict[str, str]) -> str:
        first, *more = (numbers.get(name) for name in names.format(**row).split())
        if first is None:
            return MISSING
        shown = form.partition(" (")[0] if None in more else form
        return shown.format(first, *more).replace("inf", "never")

    result = {}
    for title, (called, cells) in TABLES.items():
        keys = called.split()
        names = [Column(key, lambda row, key=key: WORDS[key][row[key]]) for key in keys]
        columns = [Column(head, partial(text, form, quantity)) for head, form, quantity in cells]
        every = [dict(zip(keys, row, strict=True)) for row in product(*(WORDS[k] for k in keys))]
        rows = [row for row in every if columns[0].text(row) != MISSING]
        result[title] = markdown([*names, *columns], rows)
    return result


# Not the colours of the models; greys for the two phases that are largest.
PHASE_COLOURS = ("0.35", "#CC79A7", "#F0E442", "#009E73", "#56B4E9", "0.8")


def movement_figure(study: dict[str, Any]) -> Figure:
    """Cost by phase of each program; a diamond shows the total of the untrained ReLU network."""
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
        names = [f"cost.{skipped}.untrained_{model}.{kind}.total" for model, skipped in bars]
        totals = [numbers.get(name, np.nan) for name in names]
        axes.plot(totals, places, "D", color="white", mec="black", label="ReLU, untrained")
        axes.set(title=title.replace(" with", "\nwith"), xlabel="ByteDMD cost, millions")
        axes.set_xlim(0, 1.05 * left.max())
    labels = [f"{WORDS['network'][m]}, {WORDS['skipped'][skipped]}" for m, skipped in bars]
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
    parser = OneLineParser(
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
        ("--narrow", 40, f"units a layer where {BATCH} images are exact"),
        ("--jobs", min(4, available_cores()), "processes side by side"),
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
        require(value >= least, f"{flag(name)} must be {least} or more, not {value}")
    most = 2 * Config().test_per_task
    require(options.images <= most, f"--images must be at most {most}, those of tests")
    require(options.updates <= options.images, "--updates must not be above --images")
    for width in (options.hidden, options.narrow):
        require(
            width >= 4 and width % 4 == 0,
            f"width {width} cannot be cut into blocks of 2 and 4; choose a multiple",
        )
    require(options.narrow < options.hidden, "--narrow must be below --hidden")


def main(arguments: Sequence[str] | None = None) -> int:
    """Price one kernel, or run the study; the exit status."""
    options = command_line().parse_args(arguments)
    check_options(options)
    if options.kernel is not None:
        print(cost(kernel(options.kernel, options.size), options.bytes or 1)["total"])
        return 0
    check_writable(options.out)
    load_mnist(options.data_dir)
    study = run_study(options, " ".join(["python3 -m study movement", *(arguments or ())]))
    write_or_stop(options.out, to_json(study))
    for title, table in tables(study).items():
        print(f"\n{title}\n\n{table}")
    print(f"\nWrote {options.out}")
    usual = options.out == MOVEMENT
    picture = FIGURES / "movement.png" if usual else options.out.with_suffix(".png")
    save_figure(movement_figure(study), picture)
    return 0
