#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8",
#                 "imageio>=2.33", "pillow>=10.1"]
# ///
"""How close the training comes to the time of its matrix products alone.

    python3 benchmark.py

The floor is the products of every training step and every evaluation, at 784 inputs, float32 and
one BLAS thread, with nothing between them. Floor and training alternate in one process, and each
ratio is the median over the rounds of the ratios. Writes study/benchmark.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import compete_to_compute
from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    PIXELS,
    SCHEMA,
    Config,
    InputError,
    OneLineParser,
    Run,
    Stopped,
    available_cores,
    check_writable,
    environment,
    initial_weights,
    load_mnist,
    make_tasks,
    run_script,
    to_json,
    train_model,
    write_or_stop,
)

SIZES = {"default": Config(), "1024x3": Config(hidden=1024, depth=3, epochs=1)}
ROOT = Path(__file__).resolve().parent


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": float(np.median(values)),
        "lowest": float(min(values)),
        "highest": float(max(values)),
    }


def matrix_products(config: Config) -> Callable[[], None]:
    """The products of one model's training and evaluation at this configuration, and no more.

    Every array is contiguous and separate from the others, which is the best BLAS can be offered.
    """
    sizes = [PIXELS, *[config.hidden] * config.depth, DIGITS]
    images = config.train_per_class * len(config.tasks[0])
    batches = [config.batch] * (images // config.batch) + [images % config.batch]

    def arrays(rows: int, columns: int) -> np.ndarray:
        return np.full((rows, columns), 1e-3, np.float32)

    weights = [arrays(n_out, n_in) for n_in, n_out in pairwise(sizes)]
    gradients = [np.empty_like(w) for w in weights]
    buffers = {
        n: ([arrays(size, n) for size in sizes], [arrays(size, n) for size in sizes[1:]])
        for n in {*batches, config.test_per_task}
    }

    def forward(n: int) -> None:
        signals, outputs = buffers[n]
        for w, signal, output in zip(weights, signals, outputs, strict=False):
            np.matmul(w, signal, out=output)

    def backward(n: int) -> None:
        signals, deltas = buffers[n]
        for layer in reversed(range(len(weights))):
            np.matmul(deltas[layer], signals[layer].T, out=gradients[layer])
            if layer:
                np.matmul(weights[layer].T, deltas[layer], out=signals[layer])

    def evaluate() -> None:
        for _ in config.tasks:
            forward(config.test_per_task)

    def run() -> None:
        for array in [*weights, *(a for pair in buffers.values() for part in pair for a in part)]:
            array.fill(1e-3)  # the products of products must not overflow
        evaluate()
        for _ in range(config.epochs * len(config.tasks)):
            for n in filter(None, batches):
                forward(n)
                backward(n)
            evaluate()

    return run


def measure_training(config: Config, rounds: int) -> dict[str, Any]:
    """Floor and training of each model in turn, `rounds` times."""
    mnist = load_mnist()
    floor = matrix_products(config)
    floor()
    times: dict[str, list[float]] = {"floor": [], "relu": [], "lwta": []}
    for _ in range(rounds):
        times["floor"].append(seconds(floor))
        for model in ("relu", "lwta"):
            times[model].append(train_model(config, ACTIVATIONS[model], 0, mnist).seconds)
    floors = np.array(times["floor"])
    return {
        **{f"{name}_s": spread(values) for name, values in times.items()},
        **{
            f"{model}_over_floor": spread((np.array(times[model]) / floors).tolist())
            for model in ("relu", "lwta")
        },
    }


def measure_tricks(rounds: int) -> dict[str, Any]:
    """What other ways to write the update would have bought: microseconds for all parameters.

    The update is the largest part of a step outside the products.
    """
    results: dict[str, Any] = {}
    for size, config in SIZES.items():
        sizes = [PIXELS, *[config.hidden] * config.depth, DIGITS]
        n = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        parameters, gradient, velocity = np.full((3, n), 1e-3, np.float32)
        momentum, decay = np.float32(0.9), np.float32(5e-6)

        def passes(count: int, chunk: int) -> None:
            for first in range(0, len(parameters), chunk):  # noqa: B023
                part = slice(first, first + chunk)
                v, g, w = velocity[part], gradient[part], parameters[part]  # noqa: B023
                np.multiply(v, momentum, out=v)  # noqa: B023
                np.subtract(v, g, out=v)
                if count == 5:
                    np.multiply(w, decay, out=g)  # noqa: B023
                    np.subtract(v, g, out=v)
                np.add(w, v, out=w)
                if count == 4:
                    np.multiply(w, decay, out=w)  # noqa: B023

        variants = {
            "five passes, as built": (5, compete_to_compute.UPDATE_CHUNK),
            "five passes over everything": (5, n),
            "four passes in shifted variables": (4, compete_to_compute.UPDATE_CHUNK),
            "three passes in rescaled variables": (3, compete_to_compute.UPDATE_CHUNK),
        }
        times: dict[str, list[float]] = {name: [] for name in variants}
        repeats = 100 if n < 1e6 else 20
        for _ in range(rounds):
            for name, variant in variants.items():
                gradient.fill(0)
                elapsed = seconds(lambda v=variant: [passes(*v) for _ in range(repeats)])  # noqa: B023
                times[name].append(elapsed / repeats * 1e6)
        results[size] = {name: spread(values) for name, values in times.items()}
    return results


def run_process(
    arguments: Sequence[str], cores: Sequence[int] = (), variables: dict[str, str] | None = None
) -> tuple[float, float]:
    """Seconds and peak memory in MB of a whole process, from interpreter start to exit.

    It may use `cores` only, where the system can say so (empty: all), and has `variables` in its
    environment.
    """
    # The peak of a process's children is kept per parent, so each run gets a parent of its own.
    pin = f"os.sched_setaffinity(0, {list(cores)});" if hasattr(os, "sched_setaffinity") else ""
    measure = (
        f"import os, resource, subprocess, sys, time; {pin if cores else ''}"
        "t = time.perf_counter();"
        "r = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL);"
        "r.returncode and sys.exit(1);"
        "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", measure, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **(variables or {})},
    )
    if answer.returncode:
        said = answer.stderr.strip().splitlines() or ["nothing was said"]
        raise Stopped(f"{' '.join(arguments)} failed: {said[-1]}")
    elapsed, peak = answer.stdout.split()
    return float(elapsed), float(peak) / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def measure_processes(rounds: int) -> dict[str, Any]:
    """Whole commands, beside the floor of as many models side by side as there are cores."""
    cores = available_cores()
    floors = [matrix_products(SIZES["default"]) for _ in range(cores)]
    with ThreadPoolExecutor(cores) as executor:
        side_by_side = [
            seconds(lambda: list(executor.map(lambda floor: floor(), floors)))
            for _ in range(rounds + 1)
        ][1:]
        floor = float(np.median(side_by_side))
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz"]
        commands = {
            "one seed": ["compete_to_compute.py", "--seed", "0", *out],
            "ten seeds": ["compete_to_compute.py", "--seed", "0", "--n-seeds", "10", *out],
            "visualise": [
                *("visualize_compete_to_compute.py", "--snapshots", f"{folder}/s.npz"),
                *("--results", f"{folder}/r.json", "--out-dir", folder),
            ],
            "animate": [
                *("make_compete_to_compute_gif.py", "--snapshots", f"{folder}/s.npz"),
                *("--out", f"{folder}/a.gif"),
            ],
        }
        results: dict[str, Any] = {}
        for name, command in commands.items():
            times, peaks = zip(*(run_process(command) for _ in range(rounds)), strict=True)
            results[name] = {"seconds": spread(times), "peak_mb": max(peaks)}
    # Two models side by side where there are two cores; twenty models over all cores.
    results["one seed"]["floor_s"] = floor * 2 / min(cores, 2)
    results["ten seeds"]["floor_s"] = floor * 20 / cores
    for name in ("one seed", "ten seeds"):
        results[name]["over_floor"] = results[name]["seconds"]["median"] / results[name]["floor_s"]
    return results


def measure_breakdown(rounds: int) -> dict[str, float]:
    """Where the seconds of `--seed 0` go: medians, each part by itself."""

    def process(*arguments: str) -> float:
        return float(np.median([run_process(arguments)[0] for _ in range(rounds)]))

    mnist = load_mnist()
    draws = [
        seconds(lambda: (make_tasks(Config(), 0, mnist), initial_weights(Config(), 0)))
        for _ in range(rounds)
    ]
    totals, trainings = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            out = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", "--quiet"]
            totals.append(run_process(["compete_to_compute.py", "--seed", "0", *out])[0])
            results = json.loads(Path(folder, "r.json").read_text())
            trainings.append(results["headline"]["wallclock_s"])
    interpreter, numpy = process("-c", "pass"), process("-c", "import numpy")
    parts = {
        "interpreter": interpreter,
        "numpy": numpy - interpreter,
        "images and initial weights": float(np.median(draws)),
        "training and evaluation": float(np.median(trainings)),
    }
    total = float(np.median(totals))
    return {**parts, "everything else": total - sum(parts.values()), "total": total}


def measure_sweeps() -> dict[str, Any]:
    """Time per seed and peak memory of sweeps of growing size, on one core and on all."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", "--quiet"]
        for seeds in (10, 20, 40, 80):
            for jobs in sorted({1, available_cores()}):
                command = ["compete_to_compute.py", "--n-seeds", str(seeds), "--jobs", str(jobs)]
                elapsed, peak = run_process([*command, *out])
                results[f"{seeds} seeds, {jobs} jobs"] = {
                    **{"seeds": seeds, "jobs": jobs, "seconds": elapsed},
                    **{"seconds_per_seed": elapsed / seeds, "peak_mb": peak},
                }
    return results


def measure_units() -> dict[str, Any]:
    """Seconds of one model, as a sweep trains it, and how many a core trains in an hour."""
    mnist, units = load_mnist(), {}
    for name, config in {"default": Config(), "1024x3": Config(hidden=1024, depth=3)}.items():
        times = [
            seconds(lambda config=config: train_model(config, ACTIVATIONS["lwta"], 0, mnist))
            for _ in range(3)
        ]
        units[name] = {"seconds": spread(times), "per_core_hour": 3600 / float(np.median(times))}
    return units


def measure_writing(unit_seconds: float) -> dict[str, float]:
    """What journal and results cost in a sweep of 1,000 seeds whose units take no time."""
    run = train_model(Config(), ACTIVATIONS["relu"], 0, load_mnist())

    def stub(config: Config, units: Sequence[Any], headline: int, *_: Any) -> Iterator[Run]:
        for activation, seed in units:
            snapshot = run.snapshot if seed == headline else {}
            record = {**run.record, "seed": seed, "model": activation.name}
            yield replace(run, record=record, snapshot=snapshot, schedule=[])

    real, compete_to_compute.run_units = compete_to_compute.run_units, stub
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz", "--quiet"]
            elapsed = seconds(lambda: compete_to_compute.main(["--n-seeds", "1000", *out]))
            size = sum(path.stat().st_size for path in Path(folder).glob("r.json*"))
    finally:
        compete_to_compute.run_units = real
    training = 2000 * unit_seconds / available_cores()
    return {"seconds": elapsed, "share_of_run": elapsed / training, "megabytes": size / 1e6}


def measure_traffic() -> dict[str, float] | None:
    """Kilobytes over loopback per unit on a cluster of two workers; None if it can't be told."""
    counters = Path("/proc/net/dev")
    try:
        import distributed
    except ImportError:
        return None
    if not counters.exists():
        return None

    def loopback() -> int:
        line = next(x for x in counters.read_text().splitlines() if x.strip().startswith("lo:"))
        return int(line.split()[1])

    small = ["--hidden", "20", "--train-per-class", "20", "--test-per-task", "50", "--quiet"]
    measured = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
    ):
        out = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz"]
        for seeds in (2, 102):
            before = loopback()
            compete_to_compute.main(
                ["--n-seeds", str(seeds), *small, *out, "--dask", c.scheduler_address]
            )
            measured[seeds] = loopback() - before
    return {"kilobytes_per_unit": (measured[102] - measured[2]) / 200 / 1e3}


def saved_report(path: Path) -> dict[str, Any]:
    """What was measured before, so that each script can keep the other's part."""
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it to start anew") from None


# --- What was measured, in lines ------------------------------------------------------------------


def training_lines(training: dict[str, Any]) -> Iterator[str]:
    """One model over its floor, at each size."""
    for name, result in training.items():
        yield f"One model, {name}: floor {result['floor_s']['median']:.3f} s"
        for model in ("relu", "lwta"):
            ratio = result[f"{model}_over_floor"]
            yield (
                f"  {model:5} {result[f'{model}_s']['median']:.3f} s = {ratio['median']:.2f} floors"
                f" ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            )


def tricks_lines(tricks: dict[str, Any]) -> Iterator[str]:
    """The update, written in several ways."""
    for size, variants in tricks.items():
        yield f"One update of all parameters, {size}"
        for name, result in variants.items():
            yield f"  {name:40}{result['median']:8.0f} us"


def process_lines(processes: dict[str, Any]) -> Iterator[str]:
    """Whole commands."""
    yield "Whole processes"
    for name, result in processes.items():
        floors = f", {result['over_floor']:.2f} floors" if "over_floor" in result else ""
        median = result["seconds"]["median"]
        yield f"  {name:12}{median:8.2f} s, peak {result['peak_mb']:.0f} MB{floors}"


def breakdown_lines(breakdown: dict[str, float]) -> Iterator[str]:
    """Where the seconds of one seed go."""
    yield "One seed"
    yield from (f"  {name:28}{value:6.2f} s" for name, value in breakdown.items())


def unit_lines(units: dict[str, Any]) -> Iterator[str]:
    """How many models an hour has."""
    for name, unit in units.items():
        yield f"One unit, {name}, 5 epochs a task: {unit['per_core_hour']:.0f} an hour"


def sweep_lines(sweeps: dict[str, Any]) -> Iterator[str]:
    """Sweeps of growing size."""
    yield "Sweeps"
    for name, sweep in sweeps.items():
        took, peak = sweep["seconds_per_seed"], sweep["peak_mb"]
        yield f"  {name:18}{took:7.2f} s per seed, peak of a process {peak:.0f} MB"


def writing_lines(writing: dict[str, float]) -> Iterator[str]:
    """What a long sweep's files cost."""
    took, share = writing["seconds"], writing["share_of_run"]
    yield f"1,000 seeds: writing takes {took:.1f} s, {share:.2%} of the run"


def traffic_lines(traffic: dict[str, float] | None) -> Iterator[str]:
    """What a cluster's units weigh."""
    yield f"Traffic of a Dask cluster: {traffic or 'not measured (needs distributed, Linux)'}"


Measure = Callable[[int, dict[str, Any]], Any]  # rounds, and what is measured so far
PARTS: dict[str, tuple[Measure, Callable[[Any], Iterator[str]]]] = {
    "training": (
        lambda rounds, _: {name: measure_training(c, rounds) for name, c in SIZES.items()},
        training_lines,
    ),
    "update_us": (lambda rounds, _: measure_tricks(rounds), tricks_lines),
    "processes": (lambda rounds, _: measure_processes(min(rounds, 7)), process_lines),
    "breakdown": (lambda rounds, _: measure_breakdown(rounds), breakdown_lines),
    "units": (lambda *_: measure_units(), unit_lines),
    "sweeps": (lambda *_: measure_sweeps(), sweep_lines),
    "writing_1000_seeds": (
        lambda _, found: measure_writing(found["units"]["default"]["seconds"]["median"]),
        writing_lines,
    ),
    "cluster_traffic": (lambda *_: measure_traffic(), traffic_lines),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    parser = OneLineParser(
        description="Measure the training beside the time of its matrix products alone.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="measurements of each")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study/benchmark.json"),
        metavar="FILE",
        help="what was measured; the key peers, of peers.py, stays",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError("--rounds must be 1 or more")
    check_writable(options.out)
    saved_report(options.out)  # refuses a damaged file now, and not after measuring

    machine = environment()
    forced = [f"{k}={v}" for k, v in os.environ.items() if k.startswith("OPENBLAS_") and v != "1"]
    print(f"{machine['processor']}, {machine['cores']} cores, {machine['blas']}")
    print(f"BLAS kernel {machine['blas_kernel']}, {machine['blas_threads']} thread {forced or ''}")
    found: dict[str, Any] = {}
    for key, (measure, lines) in PARTS.items():
        found[key] = measure(options.rounds, found)
        print("\n" + "\n".join(lines(found[key])), flush=True)
    report = {
        "schema": SCHEMA,
        "name": "benchmark",
        "question": "How close does training come to the time of its matrix products alone?",
        "command": f"python3 benchmark.py --rounds {options.rounds}",
        "environment": machine,
        **found,
    }
    # Read only now: peers.py may have measured meanwhile.
    others = {k: v for k, v in saved_report(options.out).items() if k == "peers"}
    write_or_stop(options.out, to_json({**report, **others}))
    print(f"\nWrote {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
