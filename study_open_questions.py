#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""The questions that the published small run left open, each answered over many seeds.

    python3 study_open_questions.py                        every group, every seed planned
    python3 study_open_questions.py --n-seeds 20 block     one group, the first 20 seeds

A group is a question with its conditions; a condition is a change of the configuration, with the
number of seeds fixed beforehand. Every comparison is paired: the same images, initial weights and
batches. Finished units are kept in study/journals, one file per configuration, so a stopped study
goes on where it was, and conditions share what they have in common. Writes study/NAME.json and the
figures, and prints the tables that the README includes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from compete_to_compute import (
    ACTIVATIONS,
    SCHEMA,
    Config,
    InputError,
    Journal,
    OneLineParser,
    Run,
    aggregate,
    available_cores,
    check_config,
    compare,
    dask_executor,
    environment,
    load_mnist,
    run_identity,
    run_script,
    run_units,
    sha256,
    summarise,
    to_json,
    with_progress,
    without_nan,
    write_atomically,
)
from visualize_compete_to_compute import colour, save_figure

STUDY = Path(__file__).resolve().parent / "study"
PAIR = ("relu", "lwta")
ALL_THREE = ("relu", "lwta", "sigmoid")
# E[max of k standard normals squared] / k over ReLU's 1/2 is the factor by which an LWTA layer's
# mean square at the start differs from ReLU's; for k = 2 it is 1.
MEAN_SQUARE_OF_MAXIMUM = {2: 1.0, 4: 1.5513, 8: 2.3997, 16: 3.4137}


@dataclass(frozen=True)
class Condition:
    """A change of the default configuration, and how often it is tried.

    `changes` are `Config` fields of every activation, `of_model` those of one.
    """

    label: str
    changes: dict[str, Any] = field(default_factory=dict)
    of_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    activations: tuple[str, ...] = PAIR
    seeds: int = 40
    first_seed: int = 0

    def config(self, model: str) -> Config:
        """The configuration of one activation."""
        return replace(Config(paired=True), **{**self.changes, **self.of_model.get(model, {})})


@dataclass(frozen=True)
class Group:
    """A question and the conditions that answer it; p-values are adjusted within it."""

    question: str
    conditions: tuple[Condition, ...]


def vary(name: str, values: Sequence[Any], seeds: int = 40, **more: Any) -> tuple[Condition, ...]:
    """A condition for each value of one `Config` field."""
    return tuple(Condition(f"{name} {v}", {name: v, **more}, seeds=seeds) for v in values)


def scaled(k: int) -> float:
    """The factor on LWTA's initial weights with which its activations start at ReLU's size."""
    return math.sqrt(0.5 * k / MEAN_SQUARE_OF_MAXIMUM[k])


def partitions() -> Iterator[Condition]:
    """5-9 first, then ten random halves of the digits."""
    yield Condition("56789 then 01234", {"tasks": ("56789", "01234")})
    rng = np.random.default_rng(2013)
    for _ in range(10):
        order = rng.permutation(10)
        halves = tuple("".join(map(str, sorted(half))) for half in (order[:5], order[5:]))
        yield Condition(" then ".join(halves), {"tasks": halves})


LEARNING_RATES = (0.01, 0.02, 0.05, 0.1, 0.2)
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95)
PAPER = {
    **{"train_per_class": 0, "test_per_task": 0, "head": "frozen", "weight_decay": 0.0},
    **{"target_loss": 0.03, "epochs": 100, "hidden": 1000},
}
GROUPS = {
    "default": Group("Does LWTA forget less as published?", (Condition("default", seeds=200),)),
    "published": Group(
        "And with the published, unpaired batches?",
        (Condition("published", {"paired": False}, seeds=200),),
    ),
    "optimiser": Group(
        "Does the effect depend on learning rate and momentum?",
        tuple(
            Condition(f"lr {lr}, momentum {m}", {"lr": lr, "momentum": m, "weight_decay": 0.0})
            for lr in LEARNING_RATES
            for m in MOMENTA
        ),
    ),
    "effective-rate": Group(
        "At the same lr / (1 - momentum) = 0.2, does momentum matter?",
        tuple(
            Condition(
                f"lr {round(0.2 * (1 - m), 4)}, momentum {m}",
                {"lr": round(0.2 * (1 - m), 4), "momentum": m, "weight_decay": 0.0},
            )
            for m in MOMENTA
        ),
    ),
    "restart": Group(
        "Is it the momentum carried over the task switch?",
        (
            Condition("momentum kept", {"weight_decay": 0.0}),
            Condition("momentum restarted", {"weight_decay": 0.0, "restart_momentum": True}),
        ),
    ),
    "block": Group(
        "Do larger blocks forget less?",
        tuple(
            Condition(f"k {k}, {name}", of_model={"lwta": {"k": k, **changes}})
            for k in (2, 4, 8, 16)
            for name, changes in (
                ("equal units", {}),
                ("equal active units", {"hidden": 200 * k}),
                ("equal units, scaled start", {"init_scale": scaled(k)}),
            )
        ),
    ),
    "epochs": Group("Does longer training matter?", vary("epochs", (1, 2, 5, 10, 20, 50))),
    "width": Group("Does width matter?", vary("hidden", (100, 200, 400, 800, 1600))),
    "depth": Group("Does depth matter?", vary("depth", (1, 2, 3, 4))),
    "dropout": Group(
        "Does dropout help?",
        tuple(
            Condition(
                f"hidden {p}, input {q}, lr 0.01", {"dropout": p, "input_dropout": q, "lr": 0.01}
            )
            for p, q in ((0.0, 0.0), (0.2, 0.0), (0.2, 0.2), (0.5, 0.0), (0.5, 0.2))
        ),
    ),
    "permuted": Group(
        "Is permuted MNIST harder?",
        vary("epochs", (5, 50), permute=True, tasks=("0123456789", "0123456789")),
    ),
    "partition": Group("Does it depend on which digits come first?", tuple(partitions())),
    "five-task": Group(
        "And over five tasks of two digits?",
        (Condition("01 23 45 67 89", {"tasks": ("01", "23", "45", "67", "89")}),),
    ),
    "joint": Group(
        "What would both tasks at once give?",
        (Condition("joint", {"joint": True}, activations=ALL_THREE),),
    ),
    "single-head": Group(
        "What collapses without the mask?",
        (Condition("single head", {"head": "single"}, activations=ALL_THREE),),
    ),
    "scale": Group(
        "Is the effect larger at the paper's scale, with 50 epochs?",
        tuple(
            Condition(f"{hidden}x3", {"hidden": hidden, "depth": 3, "epochs": 50}, seeds=20)
            for hidden in (800, 1024)
        ),
    ),
    "paper": Group(
        "Does the paper's own protocol show its gap?",
        tuple(
            Condition(
                f"depth {depth}, lr {lr}, momentum {m}",
                {**PAPER, "depth": depth, "lr": lr, "momentum": m},
                activations=ALL_THREE,
                seeds=4,
                first_seed=1000,  # a setting is chosen on seeds that its result does not use
            )
            for depth in (2, 3)
            for lr in (0.01, 0.05, 0.1)
            for m in (0.0, 0.9)
        ),
    ),
}


# --- Running --------------------------------------------------------------------------------------


def journal_of(config: Config) -> Journal:
    """The journal of one configuration, whichever conditions it serves."""
    name = sha256(json.dumps(without_nan(asdict(config)), sort_keys=True).encode())[:12]
    return Journal(STUDY / "journals" / name, run_identity(config))


def train_condition(condition: Condition, seeds: range, options: argparse.Namespace) -> list[Run]:
    """The runs of one condition, training those that no journal has."""
    runs: list[Run] = []
    by_config: dict[Config, list[str]] = {}
    for model in condition.activations:
        by_config.setdefault(condition.config(model), []).append(model)
    for config, models in by_config.items():
        check_config(config, [ACTIVATIONS[model] for model in models])
        journal = journal_of(config)
        finished = {(r.record["seed"], r.record["model"]): r for r in journal.read()}
        wanted = [(seed, model) for seed in seeds for model in models]
        missing = [(ACTIVATIONS[m], seed) for seed, m in wanted if (seed, m) not in finished]
        if missing:
            journal.path.parent.mkdir(parents=True, exist_ok=True)
            journal.start(list(finished.values()))
            executor = dask_executor(options.dask) if options.dask else None
            jobs = options.jobs or available_cores()
            # No headline seed: nothing here needs snapshots.
            new = run_units(config, missing, -1, jobs, options.data_dir, executor)
            for run in with_progress(new, len(missing), quiet=False):
                journal.append(run)
                finished[run.record["seed"], run.record["model"]] = run
        runs += [finished[key] for key in wanted]
    return runs


def condition_row(condition: Condition, runs: Sequence[Run]) -> dict[str, Any]:
    """A row of `conditions` in study/NAME.json."""
    records = [run.record for run in runs]
    totals = aggregate(records, condition.activations)
    by_model = {
        model: {r["seed"]: r for r in records if r["model"] == model and r["status"] == "ok"}
        for model in condition.activations
    }
    for pair in totals["pairs"]:
        first, second = by_model[pair["first"]], by_model[pair["second"]]
        both = sorted(first.keys() & second.keys())
        for metric, values in (
            ("average_accuracy", lambda r: r["average_accuracy"]),
            ("last_task_accuracy", lambda r: r["accuracy_matrix"][-1][-1]),
        ):
            differences = [[values(of[seed]) for seed in both] for of in (first, second)]
            pair[f"{metric}_difference"] = compare(*differences)["difference"]
    matrices = {
        model: [r["accuracy_matrix"] for r in rows.values()] for model, rows in by_model.items()
    }
    return {
        "label": condition.label,
        "config": {model: asdict(condition.config(model)) for model in condition.activations},
        "seeds_planned": condition.seeds,
        "seeds_run": len({r["seed"] for r in records}),
        "n": totals["pairs"][0]["difference"]["n"],
        "aggregate": totals,
        "last_task_accuracy": {
            model: summarise([m[-1][-1] for m in of]) for model, of in matrices.items()
        },
        "first_task_learned": {
            model: summarise([m[1][0] for m in of]) for model, of in matrices.items()
        },
        "per_seed": [
            [r["seed"], r["model"], r["status"], r["forgetting"], r["average_accuracy"]]
            for r in records
        ],
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def run_group(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train what is missing of one group and write study/NAME.json."""
    group = GROUPS[name]
    rows, core_seconds = [], 0.0
    for number, condition in enumerate(group.conditions, start=1):
        count = min(condition.seeds, options.n_seeds or condition.seeds)
        seeds = range(condition.first_seed, condition.first_seed + count)
        print(f"{name} {number}/{len(group.conditions)}: {condition.label}, {count} seeds")
        runs = train_condition(condition, seeds, options)
        core_seconds += sum(run.seconds for run in runs)
        rows.append(condition_row(condition, runs))
    first_pairs = [row["aggregate"]["pairs"][0] for row in rows]
    for pair, adjusted in zip(
        first_pairs, holm([pair["sign_test_p"] for pair in first_pairs]), strict=True
    ):
        pair["sign_test_p_holm"] = adjusted
    result = {
        "schema": SCHEMA,
        "name": name,
        "question": group.question,
        "command": f"python3 study_open_questions.py {name}",
        "environment": environment(),
        "core_seconds": core_seconds,
        "conditions": rows,
    }
    write_atomically(STUDY / f"{name}.json", to_json(result))
    return result


# --- Tables ---------------------------------------------------------------------------------------


def group_table(result: dict[str, Any]) -> str:
    """A group's conditions as a Markdown table: ReLU minus LWTA, with certainty and verdict."""
    lines = [
        "| condition | pairs | ReLU | LWTA | difference, 95 % interval | wins | p (Holm) |"
        " could show | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["conditions"]:
        pair = row["aggregate"]["pairs"][0]
        difference = pair["difference"]
        failed = sum(pair["failed"].values())
        pairs = (
            f"{row['n']} of {row['seeds_planned']}"
            if row["n"] < row["seeds_planned"]
            else (f"{row['n']}")
        )
        if failed:
            pairs += ", failed: " + ", ".join(f"{m} {c}" for m, c in pair["failed"].items() if c)
        cells = [row["label"], pairs]
        for model in PAIR:
            mean = row["aggregate"]["models"][model]["forgetting"]["mean"]
            cells.append("-" if mean is None else f"{mean:.3f}")
        if difference["ci95"] is None:
            cells += ["-", "-", "-", "-", "-"]
        else:
            low, high = difference["ci95"]
            cells += [
                f"{difference['mean']:+.3f} ({low:+.3f} to {high:+.3f})",
                f"{pair['wins']} of {difference['n']}",
                f"{pair['sign_test_p_holm']:.2g}",
                f"{pair['smallest_detectable']:.3f}",
                pair["verdict"].partition(":")[0],
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- Figures --------------------------------------------------------------------------------------


def saved_groups() -> list[dict[str, Any]]:
    """The groups whose results are there, in the order of the table."""
    paths = [STUDY / f"{name}.json" for name in GROUPS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def summary_figure(results: Sequence[dict[str, Any]]) -> Figure:
    """One row per condition: ReLU minus LWTA with its interval, sorted."""
    rows = []
    for result in results:
        for row in result["conditions"]:
            difference = row["aggregate"]["pairs"][0]["difference"]
            if difference["ci95"] is not None:
                name = result["name"]
                text = name if row["label"] == name else f"{name}: {row['label']}"
                rows.append((difference["mean"], difference["ci95"], f"{text} (n = {row['n']})"))
    rows.sort()
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.19 * len(rows)), layout="constrained")
    for y, (mean, (low, high), _) in enumerate(rows):
        shown = colour("lwta") if low > 0 else colour("relu") if high < 0 else "0.55"
        axes.plot([low, high], [y, y], "-", color=shown, linewidth=1.5)
        axes.plot([mean], [y], "o", color=shown, markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [text for *_, text in rows], fontsize=7)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("forgetting of ReLU minus LWTA, mean and 95 % interval")
    axes.set_title(
        "Where LWTA forgets less (blue), ReLU does (orange), or neither is shown (grey)",
        fontsize=10,
    )
    axes.grid(axis="x", alpha=0.2)
    return figure


SATURATED = 0.05  # a difference in forgetting or accuracy with the full colour


def phase_figure(result: dict[str, Any]) -> Figure:
    """Forgetting over learning rate and momentum: the difference, both models, Task 2."""
    cells = {
        (c["config"]["relu"]["lr"], c["config"]["relu"]["momentum"]): c
        for c in result["conditions"]
    }

    def forgetting(model: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda c: c["aggregate"]["models"][model]["forgetting"]["mean"]

    def last_task(c: dict[str, Any]) -> float | None:
        means = [c["last_task_accuracy"][model]["mean"] for model in PAIR]
        return None if None in means else means[0] - means[1]

    panels = (
        ("Forgetting, ReLU minus LWTA", lambda c: pair_of(c)["difference"]["mean"], "RdBu", True),
        ("Task 2 accuracy at the end, ReLU minus LWTA", last_task, "PuOr", True),
        ("Forgetting of ReLU", forgetting("relu"), "Oranges", False),
        ("Forgetting of LWTA", forgetting("lwta"), "Blues", False),
    )
    figure, all_axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for axes, (title, value, colours, signed) in zip(all_axes.flat, panels, strict=True):
        grid = np.full((len(MOMENTA), len(LEARNING_RATES)), np.nan)
        for (lr, m), condition in cells.items():
            y, x = MOMENTA.index(m), LEARNING_RATES.index(lr)
            found = value(condition)
            grid[y, x] = np.nan if found is None else found
            axes.text(
                x, y, cell_text(condition, title, found), ha="center", va="center", fontsize=7
            )
        limit = SATURATED if signed else np.nanmax([0.1, *grid[np.isfinite(grid)]])
        axes.imshow(
            grid,
            cmap=colours,
            vmin=-limit if signed else 0,
            vmax=limit,
            origin="lower",
            alpha=0.6,
            aspect="auto",
        )
        axes.set_xticks(range(len(LEARNING_RATES)), LEARNING_RATES)
        axes.set_yticks(range(len(MOMENTA)), MOMENTA)
        axes.set(title=title, xlabel="learning rate", ylabel="momentum")
    seeds = max(c["seeds_run"] for c in cells.values())
    figure.suptitle(
        f"Learning rate and momentum, {seeds} paired seeds a cell, no weight decay. Bold: the 95 % "
        "interval excludes zero.\nWhite: no complete pair. R, L: share of ReLU's and LWTA's runs "
        f"that diverged or did not learn. Colours of differences saturate at {SATURATED}.",
        fontsize=10,
    )
    return figure


def pair_of(condition: dict[str, Any]) -> dict[str, Any]:
    """ReLU against LWTA."""
    return condition["aggregate"]["pairs"][0]


def cell_text(condition: dict[str, Any], title: str, value: float | None) -> str:
    """A cell's number, its interval where it is the difference, and the runs that failed."""
    lines = []
    if value is not None:
        bold = False
        pair = pair_of(condition)
        if title.startswith("Forgetting, "):
            low, high = pair["difference"]["ci95"] or (-1, 1)
            bold = low > 0 or high < 0
        text = f"{value:+.3f}" if "minus" in title else f"{value:.3f}"
        lines.append(rf"$\mathbf{{{text}}}$" if bold else text)
        if title.startswith("Forgetting, ") and pair["difference"]["ci95"]:
            half = (high - low) / 2
            lines.append(f"± {half:.3f}")
    failed = pair_of(condition)["failed"]
    if any(failed.values()):
        shares = {m: failed[m] / condition["seeds_run"] for m in PAIR}
        lines.append(f"R {shares['relu']:.0%} L {shares['lwta']:.0%}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the groups named, or all; the exit status."""
    parser = OneLineParser(
        description="Answer the open questions, each over many paired seeds.", allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"groups: {', '.join(GROUPS)}")
    parser.add_argument(
        "--n-seeds", type=int, default=None, help="at most so many seeds (default: as planned)"
    )
    parser.add_argument("--jobs", type=int, default=None, help="side by side (default: the cores)")
    parser.add_argument("--data-dir", default=None, help="folder of the four MNIST files")
    parser.add_argument("--dask", default=None, metavar="ADDRESS", help="a Dask scheduler")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in GROUPS:
            raise InputError(f"{name}: no such group; there are {', '.join(GROUPS)}")
    if options.n_seeds is not None and options.n_seeds < 1:
        raise InputError("--n-seeds must be 1 or more")
    load_mnist(options.data_dir)
    for name in options.names or GROUPS:
        result = run_group(name, options)
        print(f"\n{result['question']}\n\n{group_table(result)}\n")
        if name == "optimiser":
            save_figure(phase_figure(result), STUDY / "phase_diagram.png")
    save_figure(summary_figure(saved_groups()), STUDY / "summary.png")
    return 0


if __name__ == "__main__":
    run_script(main)
