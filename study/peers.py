"""The same training in the libraries a user would pick instead, and what each takes.

    python3 -m pip install -r requirements-benchmark.txt
    python3 -m study peers

takes an hour on two cores that do nothing else. Each library trains on the same images, in the same
batches, from the same initial weights, with the same mask, momentum, decay and evaluations; the
report names the exceptions. Libraries alternate within a round, each in a process of its own that
may use as many cores as it has threads. A library that is not installed is skipped and said.
Writes the key `peers` of study/results/speed.json.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl

import compete_to_compute as experiment
from compete_to_compute import ACTIVATIONS, DIGITS, PAIRED_BATCH_STREAM, Config, Mnist
from study import speed
from study.runs import PAIR
from study.speed import RATIO_RANGE, SECONDS, Measured, column
from study.tables import markdown

Accuracies = list[list[float]]  # before training and after every epoch, on each task


# --- The data, the same for every library ---------------------------------------------------------


class TaskData(NamedTuple):
    """What one task trains and tests on, in numpy's arrays or in a library's own.

    Images are float32 (n, 784), labels are digits, int64.
    """

    images: Any
    labels: Any
    test_images: Any
    test_labels: Any
    mask: Any  # (10,): 0 for the task's classes, -inf for the others
    orders: Any  # (epochs, n): the positions of the images, in turn


@dataclass(frozen=True)
class Data:
    """All that is drawn for one seed."""

    seed: int
    weights: list[np.ndarray]  # float32 (inputs, outputs) a layer; biases start at zero
    tasks: list[TaskData]


def draw_data(config: Config, model: str, seed: int, mnist: Mnist) -> Data:
    """The images, weights and batches that `train_model` draws for the same arguments."""
    stream = PAIRED_BATCH_STREAM if config.paired else ACTIVATIONS[model].batch_stream
    batches = np.random.default_rng(seed + stream)
    draws = experiment.draw_images(config, seed, mnist)
    tasks = [
        TaskData(
            mnist.train_images[train] / np.float32(255),
            mnist.train_labels[train].astype(np.int64),
            mnist.test_images[test] / np.float32(255),
            mnist.test_labels[test].astype(np.int64),
            np.where([str(d) in digits for d in range(DIGITS)], 0, -np.inf).astype(np.float32),
            np.array([batches.permutation(len(train)) for _ in range(config.epochs)]),
        )
        for digits, (train, test) in zip(config.tasks, draws, strict=True)
    ]
    return Data(seed, experiment.initial_weights(config, seed), tasks)


# --- The libraries --------------------------------------------------------------------------------
#
# One contract: `prepare(config, model, sample)` compiles and takes its first steps on the sample,
# which is the warm-up, and returns what trains from the start on any data of the same shapes, and
# says how many seconds that took.

Train = Callable[[Data], tuple[float, Accuracies]]


def train_in_turn(start: Callable, train_epoch: Callable, evaluate: Callable) -> Train:
    """Training in a library: `start(data)` gives its state and its `TaskData`, `train_epoch(state,
    task, order)` the next state, `evaluate(state, tasks)` an accuracy for each task."""

    def train(data: Data) -> tuple[float, Accuracies]:
        began = time.perf_counter()
        state, tasks = start(data)
        accuracies = [evaluate(state, tasks)]
        for task in tasks:
            for order in task.orders:
                state = train_epoch(state, task, order)
                accuracies.append(evaluate(state, tasks))
        finished = np.array(accuracies).tolist()  # waits for what JAX still computes
        return time.perf_counter() - began, finished

    return train


def prepare_ours(config: Config, model: str, sample: Data) -> Train:
    """Our own training, here with all threads in its products."""
    activation, mnist = ACTIVATIONS[model], experiment.load_mnist()
    first_steps = replace(config, epochs=1, train_per_class=20)
    experiment.train_model(first_steps, activation, sample.seed, mnist)

    def train(data: Data) -> tuple[float, Accuracies]:
        run = experiment.train_model(config, activation, data.seed, mnist)
        return run.seconds, run.snapshot["accuracy"].tolist()

    return train


def prepare_torch(config: Config, model: str, sample: Data, compiled: bool = False) -> Train:
    """PyTorch with its fused SGD; `compiled` puts torch.compile on loss and evaluation."""
    import torch

    weights = [torch.empty(w.shape[::-1], requires_grad=True) for w in sample.weights]
    biases = [torch.empty(w.shape[1], requires_grad=True) for w in sample.weights]
    loss, logits = torch_functions(model, weights, biases)
    if compiled:
        loss = torch.compile(loss, dynamic=False)
        logits = torch.compile(logits, dynamic=False)

    def start(data: Data) -> tuple[torch.optim.Optimizer, list[TaskData]]:
        with torch.no_grad():
            for w, b, initial in zip(weights, biases, data.weights, strict=True):
                w.copy_(torch.from_numpy(initial.T))
                b.zero_()
        decayed = [{"params": weights, "weight_decay": config.weight_decay}, {"params": biases}]
        optimizer = torch.optim.SGD(decayed, lr=config.lr, momentum=config.momentum, fused=True)
        return optimizer, [TaskData(*map(torch.from_numpy, task)) for task in data.tasks]

    def train_epoch(optimizer: Any, task: TaskData, order: torch.Tensor) -> Any:
        for batch in order.split(config.batch):
            optimizer.zero_grad()
            loss(task.images[batch], task.labels[batch], task.mask).backward()
            optimizer.step()
        return optimizer

    @torch.no_grad()
    def evaluate(optimizer: Any, tasks: list[TaskData]) -> list[float]:
        return [
            (logits(t.test_images, t.mask).argmax(1) == t.test_labels).float().mean().item()
            for t in tasks
        ]

    optimizer, tasks = start(sample)
    for n in {config.batch, len(tasks[0].labels) % config.batch} - {0}:
        train_epoch(optimizer, tasks[0], tasks[0].orders[0, :n])
    evaluate(optimizer, tasks)
    return train_in_turn(start, train_epoch, evaluate)


def torch_functions(model: str, weights: list, biases: list) -> tuple[Callable, Callable]:
    """PyTorch's loss of images with labels under a mask, and the logits."""
    import torch
    from torch.nn.functional import cross_entropy, linear

    def lwta(z: torch.Tensor) -> torch.Tensor:
        blocks = z.view(len(z), -1, 2)
        with torch.no_grad():  # half the time of gather and scatter
            second = blocks[:, :, 1] > blocks[:, :, 0]
            gate = torch.stack([~second, second], 2)
        return (blocks * gate).view_as(z)

    activation = {"relu": torch.relu, "lwta": lwta}[model]

    def logits(signal: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            signal = activation(linear(signal, w, b))
        return linear(signal, weights[-1], biases[-1]) + mask

    def loss(images: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits(images, mask), labels)

    return loss, logits


def prepare_jax(config: Config, model: str, sample: Data) -> Train:
    """JAX: an epoch is one compiled call, and so is the evaluation of all tasks."""
    import jax
    import jax.numpy as jnp

    def start(data: Data) -> tuple[Any, list[TaskData]]:
        layers = [(jnp.array(w), jnp.zeros(w.shape[1])) for w in data.weights]
        tasks = [TaskData(*task[:5], list(task.orders.astype(np.int32))) for task in data.tasks]
        return (layers, jax.tree.map(jnp.zeros_like, layers)), jax.tree.map(jnp.array, tasks)

    epoch, evaluation = jax_functions(config, model)
    state, tasks = start(sample)
    task, order = tasks[0]._replace(orders=None), tasks[0].orders[0]
    run_epoch = jax.jit(epoch, donate_argnums=0).lower(state, task, order).compile()
    run_evaluation = jax.jit(evaluation).lower(state[0], tasks).compile()

    def train_epoch(state: Any, task: TaskData, order: jax.Array) -> Any:
        return run_epoch(state, task._replace(orders=None), order)

    def evaluate(state: Any, tasks: list[TaskData]) -> jax.Array:
        return run_evaluation(state[0], tasks)

    return train_in_turn(start, train_epoch, evaluate)


def jax_functions(config: Config, model: str) -> tuple[Callable, Callable]:
    """JAX's epoch, a scan over the full batches and then the short one, and its evaluation."""
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
        decay = config.weight_decay / 2 * sum(jnp.sum(w * w) for w, _ in layers)
        return decay - jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def epoch(state: Any, task: TaskData, order: jax.Array) -> Any:
        def step(state: Any, batch: jax.Array) -> Any:
            layers, velocity = state
            gradient = jax.grad(loss)(layers, task.images[batch], task.labels[batch], task.mask)
            velocity = jax.tree.map(
                lambda v, g: config.momentum * v - config.lr * g, velocity, gradient
            )
            return (jax.tree.map(jnp.add, layers, velocity), velocity), None

        full = len(order) // config.batch * config.batch
        state, _ = jax.lax.scan(step, state, order[:full].reshape(-1, config.batch))
        return step(state, order[full:])[0] if full < len(order) else state

    def evaluate(layers: list, tasks: list[TaskData]) -> jax.Array:
        guesses = [logits(layers, task.test_images, task.mask).argmax(1) for task in tasks]
        return jnp.stack([(g == t.test_labels).mean() for g, t in zip(guesses, tasks, strict=True)])

    return epoch, evaluate


def prepare_sklearn(config: Config, model: str, sample: Data) -> Train:
    """scikit-learn's MLPClassifier, an epoch at a time: without mask or our initial weights.

    Its decay is divided by the images of a batch, so that a short batch decays more.
    """
    from sklearn.neural_network import MLPClassifier

    def start(data: Data) -> tuple[MLPClassifier, list[TaskData]]:
        return MLPClassifier(
            [config.hidden] * config.depth,
            solver="sgd",
            alpha=config.weight_decay * config.batch,  # divided by the batch again
            batch_size=config.batch,
            learning_rate_init=config.lr,
            momentum=config.momentum,
            nesterovs_momentum=False,
            shuffle=False,  # the images come in the order of our batches
            random_state=0,
        ), data.tasks

    def train_epoch(network: MLPClassifier, task: TaskData, order: np.ndarray) -> MLPClassifier:
        return network.partial_fit(task.images[order], task.labels[order], classes=range(DIGITS))

    def evaluate(network: MLPClassifier, tasks: list[TaskData]) -> list[float]:
        if not hasattr(network, "coefs_"):
            return [math.nan] * len(tasks)  # it predicts nothing before training
        return [float(np.mean(network.predict(t.test_images) == t.test_labels)) for t in tasks]

    return train_in_turn(start, train_epoch, evaluate)


@dataclass(frozen=True)
class Library:
    """What to import and to install, and which models it can train."""

    module: str
    package: str
    models: tuple[str, ...]
    prepare: Callable[[Config, str, Data], Train]


OURS, OURS_RELU = "compete_to_compute", "compete_to_compute, ReLU only"
LIBRARIES = {
    OURS: Library("numpy", "numpy", PAIR, prepare_ours),
    "PyTorch": Library("torch", "torch", PAIR, prepare_torch),
    "PyTorch, compiled": Library("torch", "torch", PAIR, partial(prepare_torch, compiled=True)),
    "JAX": Library("jax", "jax", PAIR, prepare_jax),
    "scikit-learn": Library("sklearn", "scikit-learn", ("relu",), prepare_sklearn),
}


def why_not(library: str) -> str | None:
    """Why it cannot run here; None if it can."""
    if importlib.util.find_spec(LIBRARIES[library].module) is None:
        return f"{LIBRARIES[library].package} is not installed"
    if library.endswith("compiled") and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        return "torch.compile needs a C++ compiler"
    return None


def train_library(
    library: str, config: Config, models: Sequence[str], seeds: Sequence[int], threads: int
) -> Measured:
    """Seconds and accuracies of every model and seed, one after the other, in this process."""
    importlib.import_module(LIBRARIES[library].module)
    experiment.limit_blas_threads()
    threadpoolctl.threadpool_limits(threads)
    mnist = experiment.load_mnist()
    record: Measured = {"warm_up_seconds": 0.0}
    for model in models:
        sample = draw_data(config, model, seeds[0], mnist)
        began = time.perf_counter()
        train = LIBRARIES[library].prepare(config, model, sample)
        record["warm_up_seconds"] += time.perf_counter() - began
        runs = [train(draw_data(config, model, seed, mnist)) for seed in seeds]
        times, accuracies = zip(*runs, strict=True)
        record[model] = {"seconds": times, "accuracies": accuracies}
    return record


# --- Measurement ----------------------------------------------------------------------------------

WORKLOADS = (("default", 1), ("1024x3", 1), ("default", 10), ("1024x3", 10))  # size, seeds


@dataclass(frozen=True)
class Workload:
    """What is trained on how many cores; a process writes what it says into the folder."""

    size: str
    seeds: list[int]
    cores: list[int]
    folder: str


def run_library(library: str, work: Workload, models: Sequence[str]) -> Measured:
    """`train_library` in a process of its own: its record, with the process's time and memory."""
    path, threads = Path(work.folder, f"{work.cores[0]}.json"), len(work.cores)
    arguments = {"library": library, "models": models, "seeds": work.seeds, "threads": threads}
    arguments["config"] = asdict(speed.SIZES[work.size])
    variables = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    # Kept through the measurement but not from before it, so that it compiles from nothing once.
    variables["TORCHINDUCTOR_CACHE_DIR"] = f"{work.folder}/inductor"
    process = ["-m", "study.peers", json.dumps(arguments), str(path)]
    elapsed, peak = speed.run_process(process, work.cores, variables)
    return {**json.loads(path.read_text()), "process_seconds": elapsed, "peak_mb": peak}


def run_side_by_side(library: str, work: Workload, models: Sequence[str]) -> Measured:
    """One process a core: the seeds are dealt out, or the models of a single seed."""
    n = len(work.cores)

    def run(i: int) -> Measured:
        own = replace(work, cores=[work.cores[i]])
        if len(work.seeds) == 1:
            return run_library(library, own, models[i::n])
        return run_library(library, replace(own, seeds=work.seeds[i::n]), models)

    with ThreadPoolExecutor(n) as executor:
        records = list(executor.map(run, range(n)))
    return {name: max(r[name] for r in records) for name in ("process_seconds", "peak_mb")}


def run_command(models: Sequence[str], work: Workload) -> Measured:
    """Our own command, as a user would give it: models side by side, one BLAS thread each."""
    n_seeds, jobs = str(len(work.seeds)), str(len(work.cores))
    options = ["--activations", *models, "--n-seeds", n_seeds, "--jobs", jobs]
    for name, value in experiment.changes(speed.SIZES[work.size]).items():
        options += [experiment.flag(name), str(value)]
    elapsed, peak = speed.run_process(speed.command(work.folder, *options), work.cores)
    return {"process_seconds": elapsed, "peak_mb": peak}


def contenders(
    libraries: Sequence[str], work: Workload
) -> dict[str, tuple[str, Callable[[], Measured]]]:
    """By the name of its row: whose process it is compared with, and what measures it once."""
    result: dict[str, tuple[str, Callable[[], Measured]]] = {
        OURS: (OURS, lambda: {**run_library(OURS, work, PAIR), **run_command(PAIR, work)}),
        OURS_RELU: (OURS_RELU, partial(run_command, ("relu",), work)),
    }
    for library in [library for library in libraries if library != OURS]:
        models, n = LIBRARIES[library].models, len(work.cores)
        base = OURS if models == PAIR else OURS_RELU
        result[library] = (base, partial(run_library, library, work, models))
        # Compiling takes longer than a seed, so that two processes of it tell nothing there.
        compiles_for_one = library.endswith("compiled") and len(work.seeds) == 1
        if max(len(work.seeds), len(models)) >= n > 1 and not compiles_for_one:
            side_by_side = partial(run_side_by_side, library, work, models)
            result[f"{library}, {n} processes"] = (base, side_by_side)
    return result


def task1_difference(accuracies: Any, ours: Any) -> float:
    """Largest difference in Task 1's accuracy after its epochs; (seeds, evaluations, tasks).

    Task 2's epochs are left out: rounding in the last bit has grown too far by then.
    """
    difference = np.abs(np.array(accuracies, float) - np.array(ours, float))
    last = (difference.shape[1] - 1) // difference.shape[2]
    return float(difference[:, 1 : last + 1, 0].max())


def summarise_rounds(
    rounds: Sequence[Measured], ours: Sequence[Measured], base: Sequence[Measured]
) -> Measured:
    """Spreads over the rounds of one contender: training beside ours, the process beside `base`."""

    def ratios(times: Sequence[float], others: Sequence[float]) -> dict[str, float]:
        return speed.spread(np.divide(times, others).tolist())

    names = [
        name for name in ("process_seconds", "peak_mb", "warm_up_seconds") if name in rounds[0]
    ]
    result: Measured = {name: speed.spread([r[name] for r in rounds]) for name in names}
    processes = ([r["process_seconds"] for r in part] for part in (rounds, base))
    result["process_over_ours"] = ratios(*processes)
    for model in [model for model in PAIR if model in rounds[0]]:
        times, our_times = (
            [float(np.mean(r[model]["seconds"])) for r in part] for part in (rounds, ours)
        )
        result[model] = {"seconds": speed.spread(times), "over_ours": ratios(times, our_times)}
        if rounds is not ours:
            accuracies, reference = (part[0][model]["accuracies"] for part in (rounds, ours))
            result[model]["task1_difference"] = task1_difference(accuracies, reference)
    return result


def measure_workload(libraries: Sequence[str], work: Workload, rounds: int) -> Measured:
    """Every contender in turn, `rounds` times."""
    from tqdm import tqdm

    todo = contenders(libraries, work)
    records: dict[str, list[Measured]] = {name: [] for name in todo}
    turns = tqdm([*todo] * rounds, disable=not experiment.on_terminal(), leave=False)
    for name in turns:
        turns.set_description(name)
        records[name].append(todo[name][1]())
    return {
        name: summarise_rounds(records[name], records[OURS], records[base])
        for name, (base, _) in todo.items()
    }


def measure_peers(rounds: int) -> Measured:
    """All workloads with every library that is installed, each printed as it is measured."""
    skipped = {name: reason for name in LIBRARIES if (reason := why_not(name))}
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    libraries = [name for name in LIBRARIES if name not in skipped]
    packages = sorted({LIBRARIES[name].package for name in libraries})
    can_pin = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_pin else [*range(experiment.available_cores())]
    workloads: Measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for (size, n_seeds), threads in product(WORKLOADS, range(1, min(len(cores), 2) + 1)):
            name = f"{size}, seeds {n_seeds}, threads {threads}"
            work = Workload(size, [*range(n_seeds)], cores[:threads], folder)
            workloads[name] = measure_workload(libraries, work, rounds)
            print(f"\n{name}\n\n{workload_table({name: workloads[name]})}", flush=True)
    return {
        "peers": {
            **{"rounds": rounds, "environment": experiment.environment(), "skipped": skipped},
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "workloads": workloads,
        }
    }


# --- Tables and command line ----------------------------------------------------------------------

COLUMNS = [
    column("workload", "{}", "workload"),
    column("library", "{}", "library"),
    column("ReLU training", SECONDS, "relu.seconds"),
    column("times ours", RATIO_RANGE, "relu.over_ours"),
    column("LWTA training", SECONDS, "lwta.seconds"),
    column("times ours", RATIO_RANGE, "lwta.over_ours"),
    column("warm-up", "{0:.1f} s, at most {2:.1f}", "warm_up_seconds"),
    column("process", SECONDS, "process_seconds"),
    column("times ours", RATIO_RANGE, "process_over_ours"),
    column("peak memory", "{:.0f} MB", "peak_mb"),
    column("ReLU's accuracy on Task 1 differs by", "{:.3f}", "relu.task1_difference"),
    column("LWTA's", "{:.3f}", "lwta.task1_difference"),
]


def workload_table(workloads: Measured) -> str:
    """A row for each library of each workload."""
    return markdown(
        COLUMNS,
        [
            {"workload": workload, "library": library, **dict(speed.numbers(measured))}
            for workload, libraries in workloads.items()
            for library, measured in libraries.items()
        ],
    )


def tables(report: Measured) -> dict[str, str]:
    """Markdown tables of the other libraries by their titles; none if nothing was measured."""
    if "peers" not in report:
        return {}
    peers = report["peers"]
    software = {**peers["versions"], **peers["skipped"]}
    columns = [*speed.MACHINE, *(column(name, "{}", name) for name in software)]
    return {
        "The same training in other libraries": workload_table(peers["workloads"]),
        "Where they were measured": markdown(columns, [{**peers["environment"], **software}]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    question = "How long does the same training take in PyTorch, JAX and scikit-learn?"
    return speed.measure_and_save("peers", question, 3, measure_peers, arguments)


if __name__ == "__main__":  # a process of `run_library`
    task = json.loads(sys.argv[1])
    measured = train_library(**{**task, "config": Config(**task["config"])})
    Path(sys.argv[2]).write_bytes(experiment.to_json(measured))
