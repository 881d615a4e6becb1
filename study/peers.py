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
from study.speed import NAME, RATIO_RANGE, SECONDS, Measured, column
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


def train_in_turn(
    sample: Data, start: Callable, train_epoch: Callable, evaluate: Callable
) -> Train:
    """Training in a library, warm from an epoch on the sample.

    `start(data)` gives its state and its `TaskData`, `train_epoch(state, task, order)` the next
    state, `evaluate(state, tasks)` an accuracy for each task.
    """
    state, tasks = start(sample)
    evaluate(train_epoch(state, tasks[0], tasks[0].orders[0]), tasks)

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
    from torch.nn.functional import cross_entropy, linear

    weights = [torch.empty(w.shape[::-1], requires_grad=True) for w in sample.weights]
    biases = [torch.empty(w.shape[1], requires_grad=True) for w in sample.weights]

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

    compiling = partial(torch.compile, dynamic=False) if compiled else lambda function: function
    run_loss, run_logits = compiling(loss), compiling(logits)

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
            run_loss(task.images[batch], task.labels[batch], task.mask).backward()
            optimizer.step()
        return optimizer

    @torch.no_grad()
    def evaluate(optimizer: Any, tasks: list[TaskData]) -> list[float]:
        return [
            (run_logits(t.test_images, t.mask).argmax(1) == t.test_labels).float().mean().item()
            for t in tasks
        ]

    return train_in_turn(sample, start, train_epoch, evaluate)


def prepare_jax(config: Config, model: str, sample: Data) -> Train:
    """JAX: an epoch, a scan over full batches and then the short one, is one compiled call.

    So is the evaluation of all tasks.
    """
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

    def start(data: Data) -> tuple[Any, list[TaskData]]:
        layers = [(jnp.array(w), jnp.zeros(w.shape[1])) for w in data.weights]
        tasks = [TaskData(*task[:5], list(task.orders.astype(np.int32))) for task in data.tasks]
        return (layers, jax.tree.map(jnp.zeros_like, layers)), jax.tree.map(jnp.array, tasks)

    @partial(jax.jit, donate_argnums=0)
    def train_epoch(state: Any, task: TaskData, order: jax.Array) -> Any:
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

    @jax.jit
    def evaluate(state: Any, tasks: list[TaskData]) -> jax.Array:
        guesses = [logits(state[0], task.test_images, task.mask).argmax(1) for task in tasks]
        return jnp.stack([(g == t.test_labels).mean() for g, t in zip(guesses, tasks, strict=True)])

    return train_in_turn(sample, start, train_epoch, evaluate)


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

    return train_in_turn(sample, start, train_epoch, evaluate)


@dataclass(frozen=True)
class Library:
    """What to import and to install, and which models it can train."""

    module: str
    package: str
    models: tuple[str, ...]
    prepare: Callable[[Config, str, Data], Train]


# A process is compared with that of ours which trains the same models.
OURS = {PAIR: "compete_to_compute", ("relu",): "compete_to_compute, ReLU only"}
LIBRARIES = {
    **{name: Library("numpy", "numpy", models, prepare_ours) for models, name in OURS.items()},
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


def train_library(library: str, config: Config, seeds: Sequence[int], threads: int) -> Measured:
    """Seconds and accuracies of every model and seed, one after the other, in this process."""
    importlib.import_module(LIBRARIES[library].module)
    experiment.limit_blas_threads()
    threadpoolctl.threadpool_limits(threads)
    mnist = experiment.load_mnist()
    record: Measured = {}
    for model in LIBRARIES[library].models:
        data = [draw_data(config, model, seed, mnist) for seed in seeds]
        train = LIBRARIES[library].prepare(config, model, data[0])
        runs = [train(drawn) for drawn in data]
        times, accuracies = zip(*runs, strict=True)
        record[model] = {"seconds": times, "accuracies": accuracies}
    return record


# --- Measurement ----------------------------------------------------------------------------------

# Size, seeds, threads.
WORKLOADS = [(size, n, threads) for n, size, threads in product((1, 10), speed.SIZES, (1, 2))]


def run_library(
    library: str, config: Config, seeds: Sequence[int], cores: Sequence[int], folder: str
) -> Measured:
    """`train_library` in a process of its own, which writes into the folder, and its seconds.

    Of ours, those of our own command, as a user would give it: models side by side, one BLAS
    thread each.
    """
    path, threads = Path(folder, "record.json"), len(cores)
    arguments = {"library": library, "seeds": [*seeds], "threads": threads}
    variables = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS", "MKL")}
    # Kept through the measurement but not from before it, so that it compiles from nothing once.
    variables["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
    task = json.dumps({**arguments, "config": asdict(config)})
    elapsed = speed.run_process(["-m", "study.peers", task, str(path)], cores, variables)
    if library in OURS.values():
        options = ["--activations", *LIBRARIES[library].models]
        options += ["--n-seeds", str(len(seeds)), "--jobs", str(threads)]
        for name, value in experiment.changes(config).items():
            options += [experiment.flag(name), str(value)]
        elapsed = speed.run_process(speed.command(folder, *options), cores)
    return {**json.loads(path.read_text()), "process_seconds": elapsed}


def task1_difference(accuracies: Any, ours: Any) -> float:
    """Largest difference in Task 1's accuracy after its epochs; (seeds, evaluations, tasks).

    Task 2's epochs are left out: rounding in the last bit has grown too far by then.
    """
    difference = np.abs(np.array(accuracies, float) - np.array(ours, float))
    last = (difference.shape[1] - 1) // difference.shape[2]
    return float(difference[:, 1 : last + 1, 0].max())


def summarise_rounds(
    models: Sequence[str], rounds: Sequence[Measured], ours: Sequence[Measured]
) -> Measured:
    """Spreads over the rounds of a library, beside our own training of the same models."""

    def beside(value: Callable[[Measured], float]) -> tuple[Measured, Measured]:
        values, others = ([value(record) for record in records] for records in (rounds, ours))
        return speed.spread(values), speed.spread(np.divide(values, others).tolist())

    seconds, ratios = beside(lambda record: record["process_seconds"])
    result: Measured = {"process_seconds": seconds, "process_over_ours": ratios}
    for model in models:
        seconds, ratios = beside(lambda record, m=model: float(np.mean(record[m]["seconds"])))
        result[model] = {"seconds": seconds, "over_ours": ratios}
        if rounds is not ours:
            accuracies = (records[0][model]["accuracies"] for records in (rounds, ours))
            result[model]["task1_difference"] = task1_difference(*accuracies)
    return result


def measure_peers(rounds: int) -> Measured:
    """All workloads with every library that is installed."""
    skipped = {name: reason for name in LIBRARIES if (reason := why_not(name))}
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}")
    libraries = {name: library for name, library in LIBRARIES.items() if name not in skipped}
    packages = sorted({library.package for library in libraries.values()})
    can_pin = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_pin else [*range(experiment.available_cores())]
    workloads: Measured = {}
    with tempfile.TemporaryDirectory() as folder:
        for size, seeds, threads in WORKLOADS:
            if threads > len(cores):
                continue
            work = speed.SIZES[size], range(seeds), cores[:threads], folder
            records: dict[str, list[Measured]] = {name: [] for name in libraries}
            for _, name in product(range(rounds), libraries):
                records[name].append(run_library(name, *work))
            workload = f"{size}, seeds {seeds}, threads {threads}"
            workloads[workload] = {
                name: summarise_rounds(library.models, records[name], records[OURS[library.models]])
                for name, library in libraries.items()
            }
            print(f"{workload}: measured", flush=True)
    return {
        "peers": {
            **{"rounds": rounds, "environment": experiment.environment(), "skipped": skipped},
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "workloads": workloads,
        }
    }


# --- Tables and command line ----------------------------------------------------------------------

COLUMNS = [
    column("workload", NAME, "workload"),
    column("library", NAME, "library"),
    column("ReLU training", SECONDS, "relu.seconds"),
    column("times ours", RATIO_RANGE, "relu.over_ours"),
    column("LWTA training", SECONDS, "lwta.seconds"),
    column("times ours", RATIO_RANGE, "lwta.over_ours"),
    column("process", SECONDS, "process_seconds"),
    column("times ours", RATIO_RANGE, "process_over_ours"),
    column("ReLU's accuracy on Task 1 differs by", "{:.3f}", "relu.task1_difference"),
    column("LWTA's", "{:.3f}", "lwta.task1_difference"),
]


def tables(report: Measured) -> dict[str, str]:
    """Markdown tables of the other libraries by their titles; none if nothing was measured."""
    if "peers" not in report:
        return {}
    peers = report["peers"]
    software = {**peers["versions"], **peers["skipped"]}
    columns = [*speed.MACHINE, *(column(name, NAME, name) for name in software)]
    rows = [
        {"workload": workload, "library": library, **dict(speed.numbers(measured))}
        for workload, libraries in peers["workloads"].items()
        for library, measured in libraries.items()
        if library in LIBRARIES
    ]
    return {
        "The same training in other libraries": markdown(COLUMNS, rows),
        "Where they were measured": markdown(columns, [{**peers["environment"], **software}]),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, save; the exit status."""
    question = "How long does the same training take in PyTorch, JAX and scikit-learn?"
    return speed.measure_and_save("peers", question, 3, measure_peers, tables, arguments)


if __name__ == "__main__":  # a process of `run_library`
    task = json.loads(sys.argv[1])
    measured = train_library(**{**task, "config": Config(**task["config"])})
    Path(sys.argv[2]).write_bytes(experiment.to_json(measured))
