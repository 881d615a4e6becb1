"""How close training comes to the time of its matrix products alone.

    python3 -m study speed

The floor is the products of every training step and every evaluation, at 784 inputs, float32 and
one BLAS thread, with nothing between them. Floor and training alternate in one process, and each
ratio is the median over the rounds of the ratios. Writes study/results/speed.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

import compete_to_compute as experiment
from compete.data import load_mnist
from compete.files import Stopped, check_writable, to_json, write_or_stop
from compete.machine import environment
from compete.options import POSITIVE_COUNT, OneLineParser, add_options, check_options, option
from compete_to_compute import ACTIVATIONS, DIGITS, PIXELS, Config, train_model
from study.runs import PAIR, RESULTS, STUDY
from study.tables import Column, markdown

SIZES = {"default": Config(), "1024x3": Config(hidden=1024, depth=3, epochs=1)}
Measured = dict[str, Any]  # numbers and spreads by name, as in speed.json


@dataclass(frozen=True)
class Options:
    """The command line."""

    rounds: int = option(9, "measurements of each", POSITIVE_COUNT)
    out: Path = option(RESULTS / "speed.json", "what was measured", type=Path, metavar="FILE")


# --- What is measured -----------------------------------------------------------------------------


def seconds(work: Callable[[], Any]) -> float:
    """Take the time of `work`."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give median, lowest and highest."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}


def matrix_products(config: Config) -> Callable[[], None]:
    """The products of one model's training and evaluation at this configuration, and no more.

    Every array is contiguous and separate from the others, which is the best BLAS can be offered.
    """
    sizes = [PIXELS, *[config.hidden] * config.depth, DIGITS]
    images = config.train_per_class * len(config.tasks[0])
    batches = [config.batch] * (images // config.batch)
    batches += [images % config.batch] * (images % config.batch > 0)
    weights = [np.empty((n_out, n_in), np.float32) for n_in, n_out in pairwise(sizes)]
    gradients = [np.empty_like(w) for w in weights]
    signals, outputs = (
        {n: [np.empty((m, n), np.float32) for m in rows] for n in {*batches, config.test_per_task}}
        for rows in (sizes, sizes[1:])
    )

    def forward(n: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return zip(weights, signals[n], outputs[n], strict=False)

    def backward(n: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for layer in reversed(range(len(weights))):
            yield outputs[n][layer], signals[n][layer].T, gradients[layer]
            if layer:
                yield weights[layer].T, outputs[n][layer], signals[n][layer]

    evaluation = [*forward(config.test_per_task)] * len(config.tasks)
    epoch = [product for n in batches for product in (*forward(n), *backward(n))]
    products = evaluation + (epoch + evaluation) * (config.epochs * len(config.tasks))

    def run() -> None:
        for array in chain(weights, *signals.values(), *outputs.values()):
            array.fill(1e-3)  # the products of products must not overflow
        for left, right, result in products:
            np.matmul(left, right, out=result)

    return run


def measure_training(rounds: int) -> Measured:
    """Time floor and training of each model in turn, `rounds` times at each size."""
    mnist, results = load_mnist(), {}
    for size, config in SIZES.items():
        floor, times = matrix_products(config), defaultdict(list)
        floor()
        for _ in range(rounds):
            times["floor"].append(seconds(floor))
            for model in PAIR:
                run = train_model(config, ACTIVATIONS[model], 0, mnist)
                times[model].append(run.seconds)
        results[size] = {name: {"seconds": spread(values)} for name, values in times.items()}
        for model in PAIR:
            ratios = np.divide(times[model], times["floor"]).tolist()
            results[size][model]["over_floor"] = spread(ratios)
    return results


def run_python(arguments: Sequence[str]) -> None:
    """Run a Python process at the root of the repository; `Stopped` if it fails."""
    words = [sys.executable, *arguments]
    answer = subprocess.run(words, cwd=STUDY.parent, capture_output=True, text=True)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Stopped(f"{' '.join(arguments)} failed: {reason}")


def commands(folder: str) -> dict[str, list[str]]:
    """Name the commands that are timed; they write into the folder, and the last two draw it."""
    results, snapshots = f"{folder}/results.json", f"{folder}/snapshots.npz"
    train = ["compete_to_compute.py", "--quiet", "--out", results, "--snapshots", snapshots]
    figures = ["--snapshots", snapshots, "--results", results, "--out-dir", folder]
    animation = ["--snapshots", snapshots, "--out", f"{folder}/a.gif"]
    return {
        "one seed": train,
        "ten seeds": [*train, "--n-seeds", "10"],
        "visualise": ["visualize_compete_to_compute.py", *figures],
        "animate": ["make_compete_to_compute_gif.py", *animation],
    }


def measure_processes(rounds: int) -> Measured:
    """Time whole commands, from the start of the interpreter to its exit."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: {"seconds": spread([seconds(partial(run_python, words)) for _ in range(rounds)])}
            for name, words in commands(folder).items()
        }


# --- Numbers and tables ---------------------------------------------------------------------------


def numbers(measured: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Give every number by its dotted name; a median goes by the name of its spread."""
    if isinstance(measured, dict):
        for key, part in measured.items():
            yield from numbers(part, name if key == "median" else f"{name}.{key}".lstrip("."))
    elif isinstance(measured, int | float):
        yield name, measured


def column(head: str, name: str, cell: str = "{}") -> Column:
    """Make a column of one number, whose cell may also tell its lowest {1} and highest {2}."""
    names = (name, f"{name}.lowest", f"{name}.highest")
    return Column(head, lambda row: cell.format(*map(row.get, names)) if name in row else "")


SECONDS, RATIO = "{:.2f} s", "{:.2f} ({:.2f} to {:.2f})"
TABLES = {  # by the key in speed.json; what stands below the key is a row each
    "training": (
        "Training beside its matrix products alone (5 epochs a task, 1 at 1024x3)",
        column("size", "name"),
        column("products alone", "floor.seconds", SECONDS),
        column("ReLU", "relu.seconds", SECONDS),
        column("ReLU, times the floor", "relu.over_floor", RATIO),
        column("LWTA", "lwta.seconds", SECONDS),
        column("LWTA, times the floor", "lwta.over_floor", RATIO),
    ),
    "processes": (
        "Commands from start to exit",
        column("command", "name"),
        column("time", "seconds", SECONDS),
    ),
    "environment": (
        "Where the speed was measured",
        *(column(name, name) for name in ("processor", "cores", "blas", "blas_kernel")),
    ),
}


def tables(report: Measured) -> dict[str, str]:
    """Give Markdown tables by their titles, of what is in the report."""
    rows = {
        part: [{"name": name, **row, **dict(numbers(row))} for name, row in report[part].items()]
        for part in TABLES
        if part in report
    }
    return {TABLES[part][0]: markdown(TABLES[part][1:], found) for part, found in rows.items()}


def quantities(report: Measured) -> dict[str, float]:
    """Give what prose may cite by dotted names, for example training.default.floor.seconds.

    A median goes by the plain name, with .lowest and .highest beside it. "processes.all of one
    seed.seconds" is a seed with its figures and animation.
    """
    found = dict(numbers({part: report[part] for part in TABLES if part in report}))
    one_seed = [f"processes.{name}.seconds" for name in ("one seed", "visualise", "animate")]
    return {**found, "processes.all of one seed.seconds": sum(found[name] for name in one_seed)}


# --- Command line ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    parser = OneLineParser(
        prog="python3 -m study speed",
        description="How close does training come to the time of its matrix products alone?",
    )
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(arguments)))
    check_options(options)
    check_writable(options.out)
    here = {**environment(Path(experiment.__file__)), "rounds": options.rounds}
    report = {
        "schema": experiment.SCHEMA,
        "environment": {"training, commands": here},
        "training": measure_training(options.rounds),
        "processes": measure_processes(options.rounds),
    }
    write_or_stop(options.out, to_json(report))
    for title, table in tables(report).items():
        print(f"\n{title}\n\n{table}")
    print(f"\nWrote {options.out}")
    return 0
