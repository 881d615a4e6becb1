"""How close the training comes to the time of its matrix products alone.

    python3 -m study speed

The floor is the products of every training step and every evaluation, at 784 inputs, float32 and
one BLAS thread, with nothing between them. Floor and training alternate in one process, and each
ratio is the median over the rounds of the ratios. Writes study/results/speed.json, where the key
`peers` belongs to study/peers.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

import compete_to_compute as experiment
from compete_to_compute import DIGITS, PIXELS, Config, InputError, Stopped
from study.runs import PAIR, RESULTS, STUDY
from study.tables import Column, markdown

SIZES = {"default": Config(), "1024x3": Config(hidden=1024, depth=3, epochs=1)}
Measured = dict[str, Any]  # numbers and spreads by name, as in speed.json


def seconds(work: Callable[[], Any]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": float(np.median(values)), "lowest": min(values), "highest": max(values)}


# --- What is measured -----------------------------------------------------------------------------


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
    """Floor and training of each model in turn, `rounds` times at each size."""
    mnist, results = experiment.load_mnist(), {}
    for size, config in SIZES.items():
        floor, times = matrix_products(config), defaultdict(list)
        floor()
        for _ in range(rounds):
            times["floor"].append(seconds(floor))
            for model in PAIR:
                run = experiment.train_model(config, experiment.ACTIVATIONS[model], 0, mnist)
                times[model].append(run.seconds)
        results[size] = {name: {"seconds": spread(values)} for name, values in times.items()}
        for model in PAIR:
            ratios = np.divide(times[model], times["floor"]).tolist()
            results[size][model]["over_floor"] = spread(ratios)
    return results


def run_process(
    arguments: Sequence[str], cores: Sequence[int] = (), variables: dict[str, str] | None = None
) -> float:
    """Seconds of a Python process, from interpreter start to exit.

    It runs at the root of the repository, may use `cores` only, where the system can say so
    (empty: all), and has `variables` in its environment. Raises `Stopped` if it fails.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed and cores:
        os.sched_setaffinity(0, cores)  # which the process inherits
    began = time.perf_counter()
    try:
        answer = subprocess.run(
            [sys.executable, *arguments],
            cwd=STUDY.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(variables or {})},
        )
    finally:
        elapsed = time.perf_counter() - began
        if allowed:
            os.sched_setaffinity(0, allowed)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Stopped(f"{' '.join(arguments)} failed: {reason}")
    return elapsed


def command(folder: str, *options: str) -> list[str]:
    """Our own command with these options, which writes into `folder`."""
    outputs = ["--out", f"{folder}/results.json", "--snapshots", f"{folder}/snapshots.npz"]
    return ["compete_to_compute.py", "--quiet", *outputs, *options]


def measure_processes(rounds: int) -> Measured:
    """Whole commands."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = ["--snapshots", f"{folder}/snapshots.npz"]
        figures = [*drawn, "--results", f"{folder}/results.json", "--out-dir", folder]
        commands = {
            "one seed": command(folder),
            "ten seeds": command(folder, "--n-seeds", "10"),
            "visualise": ["visualize_compete_to_compute.py", *figures],
            "animate": ["make_compete_to_compute_gif.py", *drawn, "--out", f"{folder}/a.gif"],
        }
        return {
            name: {"seconds": spread([run_process(arguments) for _ in range(rounds)])}
            for name, arguments in commands.items()
        }


# --- Numbers and tables ---------------------------------------------------------------------------


def numbers(measured: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number by its dotted name; a median goes by the name of its spread."""
    if isinstance(measured, dict):
        for key, part in measured.items():
            yield from numbers(part, name if key == "median" else f"{name}.{key}".lstrip("."))
    elif isinstance(measured, int | float):
        yield name, measured


def column(head: str, cell: str, name: str) -> Column:
    """A column of one number, whose cell may also tell its lowest {1} and highest {2}."""
    names = (name, f"{name}.lowest", f"{name}.highest")
    return Column(head, lambda row: cell.format(*map(row.get, names)) if name in row else "")


NAME, SECONDS, RATIO_RANGE = "{}", "{:.2f} s", "{:.2f} ({:.2f} to {:.2f})"
# Key in speed.json: how it is measured, and its table, with a row for each name below the key.
PARTS: dict[str, tuple[Callable[[int], Measured], str, list[Column]]] = {
    "training": (
        measure_training,
        "Training beside its matrix products alone (5 epochs a task, 1 at 1024x3)",
        [
            column("size", NAME, "name"),
            column("products alone", SECONDS, "floor.seconds"),
            column("ReLU", SECONDS, "relu.seconds"),
            column("ReLU, times the floor", RATIO_RANGE, "relu.over_floor"),
            column("LWTA", SECONDS, "lwta.seconds"),
            column("LWTA, times the floor", RATIO_RANGE, "lwta.over_floor"),
        ],
    ),
    "processes": (
        measure_processes,
        "Commands from start to exit",
        [column("command", NAME, "name"), column("time", SECONDS, "seconds")],
    ),
}
MACHINE = [column(name, NAME, name) for name in ("processor", "cores", "blas", "blas_kernel")]


def tables(report: Measured) -> dict[str, str]:
    """Markdown tables by their titles, of what is in the report; not those of study/peers.py."""
    result = {
        title: markdown(columns, [{"name": k, **dict(numbers(v))} for k, v in report[key].items()])
        for key, (_, title, columns) in PARTS.items()
        if key in report
    }
    if "environment" in report:
        result["Where the speed was measured"] = markdown(MACHINE, [report["environment"]])
    return result


def quantities(report: Measured) -> dict[str, float]:
    """What prose may cite: all numbers by dotted names, for example training.default.floor.seconds.

    A median goes by the plain name, with .lowest and .highest beside it. Other libraries' are
    peers.<workload>.<library>.<name>. "processes.all of one seed.seconds" is a seed with its
    figures and animation.
    """
    parts = {name: report[name] for name in PARTS if name in report}
    parts["peers"] = report.get("peers", {}).get("workloads", {})
    result = dict(numbers(parts))
    one_seed = [f"processes.{name}.seconds" for name in ("one seed", "visualise", "animate")]
    if "processes" in parts:
        result["processes.all of one seed.seconds"] = sum(result[name] for name in one_seed)
    return result


# --- Command line ---------------------------------------------------------------------------------


def saved_report(path: Path) -> Measured:
    """What was measured before. Raises `InputError` for a damaged file."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it to start anew") from None


def measure_and_save(
    command: str,
    question: str,
    rounds: int,
    measure: Callable[[int], Measured],
    tables: Callable[[Measured], dict[str, str]],
    arguments: Sequence[str] | None,
) -> int:
    """A command of speed: its options (`rounds` is a default), its measurement, its part saved."""
    parser = experiment.OneLineParser(prog=f"python3 -m study {command}", description=question)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"measurements of each (default {rounds})"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS / "speed.json",
        help="takes what is measured; the rest of it stays (default study/results/speed.json)",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError("--rounds must be 1 or more")
    experiment.check_writable(options.out)
    saved_report(options.out)  # refuses a damaged file now, and not after measuring
    measured = measure(options.rounds)
    # Read only now: the other command may have measured meanwhile.
    experiment.write_or_stop(
        options.out, experiment.to_json({**saved_report(options.out), **measured})
    )
    for title, table in tables(measured).items():
        print(f"\n{title}\n\n{table}")
    print(f"\nWrote {options.out}")
    return 0


def measure_speed(rounds: int) -> Measured:
    """Everything here."""
    report: Measured = {
        "schema": experiment.SCHEMA,
        "rounds": rounds,
        "environment": experiment.environment(),
    }
    return {**report, **{name: measure(rounds) for name, (measure, *_) in PARTS.items()}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    question = "How close does training come to the time of its matrix products alone?"
    return measure_and_save("speed", question, 9, measure_speed, tables, arguments)
