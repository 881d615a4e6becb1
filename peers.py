#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8",
#                 "imageio>=2.33", "pillow>=10.1", "torch==2.13.0", "jax", "scikit-learn"]
# ///
"""The same training in the libraries a user would pick instead, and what each takes.

    python3 -m pip install -r requirements-benchmark.txt
    python3 peers.py

takes an hour on two cores that do nothing else. Each library trains on the same images, in the same
batches, from the same initial weights, with the same mask, momentum, decay and evaluations; `NOTES`
names the exceptions. Libraries alternate within a round, each in a process of its own that may use
as many cores as it has threads. A library that is not installed is skipped and said.
Adds the key "peers" to study/benchmark.json.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from benchmark import SIZES, matrix_products, run_process, saved_report, spread
from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    PAIRED_BATCH_STREAM,
    Config,
    InputError,
    Mnist,
    OneLineParser,
    available_cores,
    check_writable,
    draw_images,
    environment,
    flag,
    initial_weights,
    limit_blas_threads,
    load_mnist,
    run_script,
    to_json,
    train_model,
    watched,
    write_or_stop,
)

MODELS = ("relu", "lwta")
OURS = "compete_to_compute"
NOTES = {
    OURS: "training is of one model, all threads in its products; the whole process is the command "
    "itself, its models side by side with one BLAS thread each, and writes results and snapshots",
    "whole processes": "train both models one after the other, scikit-learn ReLU alone, and it is "
    "compared with our command for ReLU alone; two processes have one thread each and share the "
    "seeds, or the models of a single seed; memory is that of the largest process",
    "every peer": "sees all 784 pixels where ours leaves out those that are zero in every image; "
    "computes no training loss or accuracy; draws its batches before the clock starts; copies the "
    "initial weights, JAX the images too, after it has started",
    "JAX": "counts cores, not threads: its threads are those of the cores it may use",
    "scikit-learn": "ReLU only; no mask, so its ten classes compete in training and in evaluation; "
    "initial weights of its own; the decay is divided by the images of a batch, so that the "
    "epoch's short last batch decays more; training includes its own checks of each epoch's input",
    "PyTorch, compiled": "keeps its compiled code on disk through the whole measurement; the "
    "highest warm-up of a size is that of compiling from nothing",
}

Accuracies = list[list[float]]  # before training and after every epoch, on each task


# --- The work, the same for every library -------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """All that is drawn for one seed. Images are float32 (n, 784), labels are digits, int64."""

    weights: list[np.ndarray]  # float32 (inputs, outputs) a layer; biases start at zero
    train: list[tuple[np.ndarray, np.ndarray]]  # per task: images, labels
    test: list[tuple[np.ndarray, np.ndarray]]
    masks: list[np.ndarray]  # per task (10,): 0 for its classes, -inf for the others
    orders: list[list[np.ndarray]]  # per task and epoch: the positions of the images, in turn


def draw_work(config: Config, model: str, seed: int, mnist: Mnist) -> Work:
    """The images, weights and batches that `train_model` draws for the same arguments."""
    draws = draw_images(config, seed, mnist.train_labels, mnist.test_labels)
    stream = PAIRED_BATCH_STREAM if config.paired else ACTIVATIONS[model].batch_stream
    batches = np.random.default_rng(seed + stream)

    def chosen(images: np.ndarray, labels: np.ndarray, at: np.ndarray) -> tuple:
        return images[at] / np.float32(255), labels[at].astype(np.int64)

    return Work(
        weights=initial_weights(config, seed),
        train=[chosen(mnist.train_images, mnist.train_labels, train) for train, _ in draws],
        test=[chosen(mnist.test_images, mnist.test_labels, test) for _, test in draws],
        masks=[
            np.where([str(digit) in digits for digit in range(DIGITS)], 0, -np.inf).astype("f4")
            for digits in config.tasks
        ],
        orders=[
            [batches.permutation(len(train)) for _ in range(config.epochs)] for train, _ in draws
        ],
    )


# --- The libraries ------------------------------------------------------------------------------
#
# One contract: `prepare(config, model, work)` compiles and takes its first steps on `work`, which
# is the warm-up, and returns what trains from the start on any work of the same shapes.

Prepare = Callable[[Config, str, Work], Callable[[Work], Accuracies]]


def prepare_torch(
    config: Config, model: str, sample: Work, compiled: bool = False
) -> Callable[[Work], Accuracies]:
    """PyTorch with its fused SGD; `compiled` puts torch.compile on loss and evaluation."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    def lwta(z: torch.Tensor) -> torch.Tensor:
        blocks = z.view(len(z), -1, 2)
        with torch.no_grad():  # half the time of gather and scatter
            second = blocks[:, :, 1] > blocks[:, :, 0]
            gate = torch.stack([~second, second], 2)
        return (blocks * gate).view_as(z)

    activation = {"relu": torch.relu, "lwta": lwta}[model]
    weights = [torch.empty(w.shape[::-1], requires_grad=True) for w in sample.weights]
    biases = [torch.empty(w.shape[1], requires_grad=True) for w in sample.weights]

    def logits(signal: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            signal = activation(linear(signal, w, b))
        return linear(signal, weights[-1], biases[-1]) + mask

    def loss(images: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits(images, mask), labels)

    if compiled:
        loss = torch.compile(loss, dynamic=False)
        logits = torch.compile(logits, dynamic=False)

    def start(work: Work) -> torch.optim.Optimizer:
        with torch.no_grad():
            for w, b, first in zip(weights, biases, work.weights, strict=True):
                w.copy_(torch.from_numpy(first.T))
                b.zero_()
        groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": biases}]
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)

    def step(optimizer: torch.optim.Optimizer, *batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss(*batch).backward()
        optimizer.step()

    def tensors(work: Work) -> tuple[list, list, list]:
        train, test = (
            [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in part]
            for part in (work.train, work.test)
        )
        return train, test, [torch.from_numpy(mask) for mask in work.masks]

    def evaluate(test: list, masks: list) -> list[float]:
        with torch.no_grad():
            return [
                (logits(images, mask).argmax(1) == labels).float().mean().item()
                for (images, labels), mask in zip(test, masks, strict=True)
            ]

    def train(work: Work) -> Accuracies:
        optimizer = start(work)
        data, test, masks = tensors(work)
        accuracies = [evaluate(test, masks)]
        for (images, labels), mask, orders in zip(data, masks, work.orders, strict=True):
            for order in orders:
                for batch in torch.from_numpy(order).split(config.batch):
                    step(optimizer, images[batch], labels[batch], mask)
                accuracies.append(evaluate(test, masks))
        return accuracies

    optimizer = start(sample)
    data, test, masks = tensors(sample)
    images, labels = data[0]
    for n in {config.batch, len(labels) % config.batch} - {0}:
        step(optimizer, images[:n], labels[:n], masks[0])
    evaluate(test, masks)
    return train


def prepare_jax(config: Config, model: str, sample: Work) -> Callable[[Work], Accuracies]:
    """JAX: an epoch is one compiled call, a scan over the full batches and then the short one."""
    import jax
    import jax.numpy as jnp

    def lwta(z: jax.Array) -> jax.Array:
        blocks = z.reshape(len(z), -1, 2)
        second = blocks[:, :, 1] > blocks[:, :, 0]
        return (blocks * jnp.stack([~second, second], 2)).reshape(z.shape)

    activation = {"relu": jax.nn.relu, "lwta": lwta}[model]

    def logits(layers: list, signal: jax.Array, mask: jax.Array) -> jax.Array:
        for w, b in layers[:-1]:
            signal = activation(signal @ w + b)
        w, b = layers[-1]
        return signal @ w + b + mask

    def loss(layers: list, images: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(logits(layers, images, mask))
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def epoch(state: Any, images: Any, labels: Any, mask: Any, order: Any) -> Any:
        def step(state: Any, batch: Any) -> Any:
            layers, velocity = state
            gradient = jax.grad(loss)(layers, images[batch], labels[batch], mask)
            decayed = [
                (gw + config.weight_decay * w, gb)
                for (gw, gb), (w, _) in zip(gradient, layers, strict=True)
            ]
            velocity = jax.tree.map(
                lambda v, g: config.momentum * v - config.lr * g, velocity, decayed
            )
            return (jax.tree.map(jnp.add, layers, velocity), velocity), None

        full = len(order) // config.batch * config.batch
        state, _ = jax.lax.scan(step, state, order[:full].reshape(-1, config.batch))
        return step(state, order[full:])[0] if full < len(order) else state

    def evaluate(layers: list, test: list, masks: list) -> jax.Array:
        return jnp.stack(
            [
                (logits(layers, images, mask).argmax(1) == labels).mean()
                for (images, labels), mask in zip(test, masks, strict=True)
            ]
        )

    def arrays(work: Work) -> tuple:
        layers = [(jnp.array(w), jnp.zeros(w.shape[1])) for w in work.weights]
        state = (layers, jax.tree.map(jnp.zeros_like, layers))
        labelled = [[(x, y.astype("i4")) for x, y in part] for part in (work.train, work.test)]
        orders = [[order.astype("i4") for order in task] for task in work.orders]
        return state, *jax.tree.map(jnp.array, (*labelled, work.masks, orders))

    state, data, test, masks, orders = arrays(sample)
    compiled_epoch = (
        jax.jit(epoch, donate_argnums=0).lower(state, *data[0], masks[0], orders[0][0]).compile()
    )
    compiled_evaluation = jax.jit(evaluate).lower(state[0], test, masks).compile()

    def train(work: Work) -> Accuracies:
        state, data, test, masks, orders = arrays(work)
        accuracies = [compiled_evaluation(state[0], test, masks)]
        for (images, labels), mask, task_orders in zip(data, masks, orders, strict=True):
            for order in task_orders:
                state = compiled_epoch(state, images, labels, mask, order)
                accuracies.append(compiled_evaluation(state[0], test, masks))
        return np.array(accuracies).tolist()

    return train


def prepare_sklearn(config: Config, model: str, sample: Work) -> Callable[[Work], Accuracies]:
    """scikit-learn's MLPClassifier, an epoch at a time; see `NOTES`."""
    from sklearn.neural_network import MLPClassifier

    def train(work: Work) -> Accuracies:
        network = MLPClassifier(
            [config.hidden] * config.depth,
            solver="sgd",
            alpha=config.weight_decay * config.batch,  # divided by the batch again
            batch_size=config.batch,
            learning_rate_init=config.lr,
            momentum=config.momentum,
            nesterovs_momentum=False,
            shuffle=False,  # the images come in the order of our batches
            random_state=0,
        )
        accuracies = []
        for (images, labels), orders in zip(work.train, work.orders, strict=True):
            for order in orders:
                network.partial_fit(images[order], labels[order], classes=range(DIGITS))
                accuracies.append([float(np.mean(network.predict(x) == y)) for x, y in work.test])
        return [[math.nan] * len(config.tasks), *accuracies]  # it predicts nothing before training

    return train


def prepare_floor(config: Config, model: str, sample: Work) -> Callable[[Work], Accuracies]:
    """The matrix products of the training alone, which show no accuracy."""
    products = matrix_products(config)
    products()

    def train(work: Work) -> Accuracies:
        products()
        return []

    return train


@dataclass(frozen=True)
class Peer:
    """What to import and to install, and which models it can train."""

    module: str
    package: str
    models: tuple[str, ...]
    prepare: Prepare


FLOOR = "matrix products alone"
PEERS = {
    FLOOR: Peer("numpy", "numpy", ("relu",), prepare_floor),
    "PyTorch": Peer("torch", "torch", MODELS, prepare_torch),
    "PyTorch, compiled": Peer("torch", "torch", MODELS, partial(prepare_torch, compiled=True)),
    "JAX": Peer("jax", "jax", MODELS, prepare_jax),
    "scikit-learn": Peer("sklearn", "scikit-learn", ("relu",), prepare_sklearn),
}


def why_not(library: str) -> str | None:
    """Why it cannot run here; None if it can."""
    if importlib.util.find_spec(PEERS[library].module) is None:
        return f"{PEERS[library].package} is not installed"
    if library.endswith("compiled") and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "torch.compile needs a C++ compiler"
    return None


# --- One process --------------------------------------------------------------------------------


def train_library(
    library: str, config: Config, models: Sequence[str], seeds: Sequence[int], threads: int
) -> dict[str, Any]:
    """Seconds and accuracies of every model and seed, one after the other, in this process.

    Ours too trains one after the other here, with all threads for its products.
    """
    began = time.perf_counter()
    if library != OURS:
        importlib.import_module(PEERS[library].module)
    record: dict[str, Any] = {"import_s": time.perf_counter() - began, "warm_up_s": 0.0}
    limit_blas_threads()
    threadpoolctl.threadpool_limits(threads)
    mnist = load_mnist()
    for model in models:
        work = draw_work(config, model, seeds[0], mnist)
        began = time.perf_counter()
        if library == OURS:
            first_steps = replace(config, epochs=1, train_per_class=20)
            train_model(first_steps, ACTIVATIONS[model], seeds[0], mnist)
        else:
            train = PEERS[library].prepare(config, model, work)
        record["warm_up_s"] += time.perf_counter() - began
        times, shown = [], []
        for seed in seeds:
            if library == OURS:
                run = train_model(config, ACTIVATIONS[model], seed, mnist)
                times.append(run.seconds)
                shown.append(run.snapshot["accuracy"].tolist())
            else:
                work = draw_work(config, model, seed, mnist)
                began = time.perf_counter()
                shown.append(train(work))
                times.append(time.perf_counter() - began)
        record[model] = {"seconds": times, "accuracies": shown}
    return {**record, "blas": blas_pools(library)}


def blas_pools(library: str) -> list[str]:
    """The BLAS and thread pools that this process has loaded, and PyTorch's own, which it hides."""
    pools = [
        f"{p['internal_api']} {p.get('version')} {p.get('architecture', '')} x{p['num_threads']}"
        for p in threadpoolctl.threadpool_info()
    ]
    if library.startswith("PyTorch"):
        import torch

        own = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
        capability = torch.backends.cpu.get_cpu_capability()
        pools.append(f"{own[1] if own else 'unknown'} {capability} x{torch.get_num_threads()}")
    return pools


# --- Measurement --------------------------------------------------------------------------------

CASES = (("default", 1), ("1024x3", 1), ("default", 10), ("1024x3", 10))  # size, seeds


def models_of(library: str) -> tuple[str, ...]:
    """The models that it can train."""
    return MODELS if library == OURS else PEERS[library].models


def run_library(
    library: str,
    size: str,
    models: Sequence[str],
    seeds: Sequence[int],
    cores: Sequence[int],
    folder: str,
) -> dict[str, Any]:
    """`train_library` in a process of its own: its record, with whole-process time and memory."""
    path = Path(folder, f"{cores[0]}.json")
    task = {"library": library, "models": list(models), "seeds": list(seeds)}
    task |= {"threads": len(cores), "config": asdict(SIZES[size])}
    threads = {f"{name}_NUM_THREADS": str(len(cores)) for name in ("OMP", "OPENBLAS", "MKL")}
    # Kept through the measurement but not from before it, so that it compiles from nothing once.
    threads["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
    command = ["peers.py", "--worker", json.dumps(task), "--out", str(path)]
    elapsed, peak = run_process(command, cores, threads)
    return {**json.loads(path.read_text()), "process_s": elapsed, "peak_mb": peak}


def run_side_by_side(
    library: str, size: str, seeds: Sequence[int], cores: Sequence[int], folder: str
) -> dict[str, Any]:
    """One process a core; the seeds are dealt out to them, or the models of a single seed."""
    models, n = models_of(library), len(cores)
    if len(seeds) > 1:
        shares = [(models, seeds[i::n]) for i in range(n)]
    else:
        shares = [(models[i::n], seeds) for i in range(n)]
    began = time.perf_counter()
    with ThreadPoolExecutor(n) as executor:
        records = list(
            executor.map(
                lambda share, core: run_library(library, size, *share, [core], folder),
                shares,
                cores,
            )
        )
    return {
        "process_s": time.perf_counter() - began,
        "peak_mb": max(record["peak_mb"] for record in records),
    }


def run_command(
    models: Sequence[str], size: str, seeds: Sequence[int], cores: Sequence[int], folder: str
) -> dict[str, Any]:
    """Our own command, as a user would give it: models side by side, one BLAS thread each."""
    command = ["compete_to_compute.py", "--quiet", "--activations", *models]
    command += ["--n-seeds", str(len(seeds)), "--jobs", str(len(cores))]
    command += ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz"]
    for item in fields(Config):
        value = getattr(SIZES[size], item.name)
        if value != item.default:
            command += [flag(item.name), str(value)]
    elapsed, peak = run_process(command, cores)
    return {"process_s": elapsed, "peak_mb": peak}


def task1_difference(accuracies: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference in Task 1's accuracy after its epochs; (seeds, evaluations, tasks).

    Task 2's epochs are left out: rounding in the last bit has grown too far by then.
    """
    last = (accuracies.shape[1] - 1) // accuracies.shape[2]
    return float(np.abs(accuracies - ours)[:, 1 : last + 1, 0].max())


def measure_case(
    size: str, n_seeds: int, threads: int, libraries: Sequence[str], rounds: int, folder: str
) -> dict[str, Any]:
    """Every library in turn, `rounds` times; ratios are to ours of the same round."""
    allowed = (
        sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(threads)
    )
    cores, seeds = list(allowed)[:threads], list(range(n_seeds))
    relu_only = f"{OURS}, ReLU only"
    runs: dict[str, Callable[[str], dict[str, Any]]] = {}
    for library in (OURS, *libraries):
        models = models_of(library)
        runs[library] = partial(run_library, library, size, models, seeds, cores)
        divisible = max(n_seeds, len(models)) >= threads > 1
        # Compiling takes longer than a seed, so that two processes of it tell nothing there.
        if library in (OURS, FLOOR) or (library.endswith("compiled") and n_seeds == 1):
            continue
        if divisible:
            runs[f"{library}, {threads} processes"] = partial(
                run_side_by_side, library, size, seeds, cores
            )
    commands = {OURS: MODELS, relu_only: ("relu",)}

    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in (*runs, relu_only)}
    for done in range(rounds):
        for name in samples:
            show_progress(f"{size}, seeds {n_seeds}, round {done + 1} of {rounds}: {name}")
            found = runs[name](folder) if name in runs else {}
            if name in commands:
                found |= run_command(commands[name], size, seeds, cores, folder)
            samples[name].append(found)
    show_progress("")

    ours = samples[OURS]
    results = {}
    for name, found in samples.items():
        one_model = "lwta" not in found[0] and "relu" in found[0]
        whole = samples[relu_only if one_model or name.startswith("scikit-learn") else OURS]
        results[name] = result = {
            key: spread([f[key] for f in found])
            for key in ("process_s", "peak_mb", "import_s", "warm_up_s")
            if key in found[0] and name != FLOOR  # its process does nothing else
        }
        if name != FLOOR:
            result["process_over_ours"] = spread(
                [f["process_s"] / base["process_s"] for f, base in zip(found, whole, strict=True)]
            )
        for model in [m for m in MODELS if m in found[0]]:
            times, base = (
                np.array([np.mean(f[model]["seconds"]) for f in part]) for part in (found, ours)
            )
            accuracies, reference = (
                np.array(part[0][model]["accuracies"], float) for part in (found, ours)
            )
            result[model] = {"train_s": spread(times), "over_ours": spread(times / base)}
            if accuracies.size:
                result[model]["accuracies"] = accuracies.mean(axis=0).tolist()
                if name != OURS:
                    result[model]["task1_difference"] = task1_difference(accuracies, reference)
        if "blas" in found[0]:
            result["blas"] = found[0]["blas"]
    return results


def show_progress(text: str) -> None:
    """What is being measured, on one line that is written over, where a person is watching."""
    if watched():
        print(f"\r{text[:79]:79}", end="\r", file=sys.stderr, flush=True)


def measure_peers(rounds: int) -> dict[str, Any]:
    """All cases with every library that is installed."""
    skipped = {name: reason for name in PEERS if (reason := why_not(name))}
    libraries = [name for name in PEERS if name not in skipped]
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    cases: dict[str, Any] = {}
    began = time.perf_counter()
    every = [(*case, n) for case in CASES for n in (1, 2) if n <= available_cores()]
    with tempfile.TemporaryDirectory() as folder:
        for size, n_seeds, threads in every:
            result = measure_case(size, n_seeds, threads, libraries, rounds, folder)
            cases[f"{size}, seeds {n_seeds}, threads {threads}"] = {
                **{"size": size, "seeds": n_seeds, "threads": threads, "rounds": rounds},
                "libraries": result,
            }
            counts = f"{plural(n_seeds, 'seed')}, {plural(threads, 'thread')}"
            print(f"\n{size}, {counts}: seconds (times ours)")
            heads = ["training ReLU", "training LWTA", "whole process"]
            print(" " * 32 + "".join(head.rjust(16) for head in heads))
            for name, found in result.items():
                line = f"  {name:30}" + "".join(cell.rjust(16) for cell in times_of(found))
                print(line.rstrip(), flush=True)
    return {
        "command": f"python3 peers.py --rounds {rounds}",
        "minutes": (time.perf_counter() - began) / 60,
        "environment": environment(),
        "versions": {
            peer.package: importlib.metadata.version(peer.package)
            for name, peer in PEERS.items()
            if name in libraries
        },
        "notes": {name: text for name, text in NOTES.items() if name not in skipped},
        "skipped": skipped,
        "cases": cases,
    }


def plural(n: int, what: str) -> str:
    """A number of things in words."""
    return f"{n} {what}{'s' * (n != 1)}"


def times_of(found: dict[str, Any]) -> list[str]:
    """Seconds and ratios to ours: training of each model, and the whole process."""
    pairs = [(found[m]["train_s"], found[m]["over_ours"]) if m in found else None for m in MODELS]
    if "process_s" in found:
        pairs.append((found["process_s"], found["process_over_ours"]))
    return [f"{p[0]['median']:.2f} ({p[1]['median']:.2f})" if p else "" for p in pairs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    parser = OneLineParser(
        description="Measure the same training in PyTorch, JAX and scikit-learn, beside ours.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measurements of each")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study/benchmark.json"),
        metavar="FILE",
        help="where the key peers is put; what else is there stays",
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)  # one process's part
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        raise InputError("--rounds must be 1 or more")
    check_writable(options.out)
    if options.worker:
        task = options.worker
        task["config"] = Config(**task["config"])
        write_or_stop(options.out, to_json(train_library(**task)))
        return 0
    saved_report(options.out)  # refuses a damaged file now, and not in an hour
    peers = measure_peers(options.rounds)
    write_or_stop(options.out, to_json({**saved_report(options.out), "peers": peers}))
    print(f"\nWrote {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
