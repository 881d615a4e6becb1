#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66"]
# ///
"""Does a network whose hidden units compete forget less? One file, plain numpy.

R. K. Srivastava, J. Masci, S. Kazerounian, F. Gomez and J. Schmidhuber, "Compete to Compute"
(NIPS 2013), argue that local winner-take-all (LWTA) units, of which only the strongest of each
small block speaks, protect what a network has learned while it learns something else. Here two
multilayer perceptrons that differ in the hidden activation learn the MNIST digits 0-4 (Task 1)
and then 5-9 (Task 2). They start from the same weights and see the same images, each in an order
of its own as in the published run, or both in the same order with --paired. *Forgetting* is the
test accuracy on Task 1 before Task 2 minus the same after it.

    python3 compete_to_compute.py --seed 0                 one seed, a second or two
    python3 compete_to_compute.py --seed 0 --n-seeds 10    ten seeds, intervals, a verdict

Read from top to bottom, sections 1 to 6 are the experiment: configuration, tasks, activations,
network, sequential training, statistics of forgetting. Sections 7 to 9 run it: seeds, outputs,
command line.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import math
import os
import platform
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from itertools import combinations, pairwise, starmap
from pathlib import Path
from typing import Any

NUMPY_CAME_FIRST = "numpy" in sys.modules
for _library in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):
    # Threads of BLAS would change the last bits, and models side by side with one each are quicker.
    # BLAS reads this on loading.
    os.environ[f"{_library}_THREADS"] = "1"

try:
    import numpy as np

    import fetch_mnist
    from fetch_mnist import (
        MNIST_SHA256,
        InputError,
        Mnist,
        load_mnist,
        on_terminal,
        sha256,
        write_atomically,
    )
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(f"{missing.name} is missing: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

SCHEMA = 1
DIGITS = 10
PIXELS = 784


class Diverged(Exception):
    """A loss or an accuracy is not finite; the message says which and where."""


class Stopped(Exception):
    """A sweep could not go on; the message says why. What was finished is in the journal."""


# --- 1. Configuration ---------------------------------------------------------------------------

# What an option may be: a test, and the same in words.
Limit = tuple[Callable[[Any], bool], str]
POSITIVE_COUNT: Limit = (lambda n: 1 <= n <= 1_000_000, "1 or more, up to 1000000")
COUNT: Limit = (lambda n: 0 <= n <= 1_000_000, "0 or more, up to 1000000")
POSITIVE: Limit = (lambda x: x is None or 0 < x < math.inf, "above 0")
NOT_NEGATIVE: Limit = (lambda x: 0 <= x < math.inf, "0 or more")
SHARE: Limit = (lambda x: 0 <= x < 1, "at least 0 and below 1")


def option(default: Any, description: str, limit: Limit | None = None, **keywords: Any) -> Any:
    """A `Config` field: its default, its line of help, its limit, and what argparse needs."""
    return field(
        default=default, metadata={"help": description, "limit": limit, "argparse": keywords}
    )


@dataclass(frozen=True)
class Config:
    """Everything that changes the result of a run, seed and activation apart.

    The command line, `results.json` and the tables derive from these fields.
    """

    tasks: tuple[str, ...] = option(
        ("01234", "56789"), "digits of each task, in training order", nargs="+", metavar="DIGITS"
    )
    hidden: int = option(400, "units in each hidden layer", POSITIVE_COUNT)
    depth: int = option(2, "hidden layers", POSITIVE_COUNT)
    k: int = option(2, "units in an LWTA block, of which one wins", POSITIVE_COUNT)
    train_per_class: int = option(500, "training images per digit, 0 = all", COUNT)
    test_per_task: int = option(1000, "test images per task, 0 = all", COUNT)
    epochs: int = option(5, "epochs per task", POSITIVE_COUNT)
    target_loss: float | None = option(
        None,
        "end a task once an epoch's mean training loss is at or below this",
        POSITIVE,
        type=float,
        metavar="X",
    )
    batch: int = option(64, "images per update", POSITIVE_COUNT)
    lr: float = option(0.05, "learning rate", POSITIVE)
    momentum: float = option(
        0.9, "momentum, carried over the task switch, but for --head frozen", SHARE
    )
    weight_decay: float = option(1e-4, "weight decay, not on biases", NOT_NEGATIVE)
    dropout: float = option(0.0, "chance that a hidden unit is dropped while training", SHARE)
    input_dropout: float = option(0.0, "chance that a pixel is dropped while training", SHARE)
    head: str = option(
        "masked",
        "masked: the softmax sees the active task's classes only; frozen: also, the other tasks' "
        "output weights stand still and each task starts with no momentum; single: all ten digits, "
        "no mask",
        choices=("masked", "frozen", "single"),
    )
    permute: bool = option(
        False, "each task after the first sees the pixels in an order of its own"
    )
    paired: bool = option(
        False,
        "every activation sees the same batches, not only the same images; with --target-loss "
        "until a task ends sooner for one",
    )
    evaluate_every: int = option(
        0, "also test after every N updates, 0 = after each epoch only", COUNT
    )
    restart_momentum: bool = option(False, "start each task with no momentum")
    protect_readout: bool = option(
        False, "a later task's error signal loses its part in what earlier tasks' output rows read"
    )
    init_scale: float = option(1.0, "factor on the initial weights", POSITIVE)
    joint: bool = option(False, "all tasks at once: the ceiling for sequential training")


def flag(name: str) -> str:
    """The command-line spelling of a `Config` field."""
    return "--" + name.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


def check_limits(options: Config | SweepOptions) -> None:
    """Raise `InputError` for a field outside its limit."""
    for item in fields(options):
        if item.metadata["limit"]:
            is_allowed, words = item.metadata["limit"]
            value = getattr(options, item.name)
            require(is_allowed(value), f"{flag(item.name)} must be {words}, not {value}")


def check_config(config: Config, activations: Sequence[Activation]) -> None:
    """Raise `InputError` for a configuration that cannot be trained, before anything is."""
    check_limits(config)
    for digits in config.tasks:
        for digit in digits:
            require(digit in "0123456789", f"--tasks {digits!r}: {digit!r} is not a digit")
        require(
            len(set(digits)) == len(digits), f"--tasks {digits!r}: a digit stands twice in one task"
        )
        require(len(digits) >= 2, f"--tasks {digits!r}: a task needs at least two digits")
    shared = [d for d in "0123456789" if sum(d in digits for digits in config.tasks) > 1]
    require(
        config.permute or not shared,
        f"--tasks: digit {', '.join(shared)} is in two tasks; that needs --permute",
    )
    require(
        not config.protect_readout or not (shared or config.joint or config.head == "single"),
        "--protect-readout needs output rows of each task's own and tasks in turn: no --joint, no "
        "--head single, no digit in two tasks",
    )
    require(
        config.hidden % config.k == 0 or all(a.name != "lwta" for a in activations),
        f"--hidden {config.hidden} cannot be cut into blocks of --k {config.k}; choose a multiple",
    )
    for activation in activations:
        if activation.name not in ACTIVATIONS:
            check_activation(activation, config.hidden, config.k)


def changes(config: Config) -> dict[str, Any]:
    """The fields that differ from the defaults, by name, as JSON has them."""
    defaults = asdict(Config())
    return without_nan({k: v for k, v in asdict(config).items() if v != defaults[k]})


def chance(config: Config) -> float:
    """Average accuracy of guessing among the classes that the softmax sees, mean over tasks."""
    seen = [DIGITS if config.head == "single" else len(digits) for digits in config.tasks]
    return float(np.mean([1 / classes for classes in seen]))


# --- 2. Tasks -----------------------------------------------------------------------------------

# Every random number of a run comes from one of these generators, each for one thing alone:
#   images          default_rng(seed)                      the published run's
#   initial weights default_rng(seed + WEIGHT_STREAM)      the published run's
#   batches         default_rng(seed + batch stream)       the published run's, see `ACTIVATIONS`
#   the others      default_rng([seed, stream])            so that an option changes no other draw
# As published, the streams of different seeds overlap: a seed's weights are drawn by the generator
# that draws the next seed's images, and LWTA's batches by that of ReLU's, 100 seeds on. What they
# draw differs in kind, so the runs of two seeds are as good as independent.
WEIGHT_STREAM = 1
PIXEL_ORDER_STREAM = 1
DROPOUT_STREAM = 2
INPUT_DROPOUT_STREAM = 3


@dataclass
class Task:
    """One task, ready for the network.

    Inputs are float32 (n, pixels + 1): the used pixels as value / 255, then a one for the bias.
    Labels are positions in `classes`, the output rows that the task's softmax sees.
    """

    classes: np.ndarray
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    fixed_rows: np.ndarray  # output rows that stand still while the task trains
    train_mask: np.ndarray | None = None  # (classes, n) of 0 or -inf; joint training only


def draw_images(config: Config, seed: int, mnist: Mnist) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each task's training and test images, as positions in the files: [(train, test), ...].

    The order of the draws is the published run's: all training draws first, task by task and
    digit by digit, then the test draws.
    """
    rng = np.random.default_rng(seed)
    training = []
    for digits in config.tasks:
        chosen = []
        for digit in sorted(digits):
            positions = np.flatnonzero(mnist.train_labels == int(digit))
            require(
                config.train_per_class <= len(positions),
                f"--train-per-class {config.train_per_class}: MNIST has only {len(positions)} "
                f"training images of digit {digit}; choose fewer, or 0 for all",
            )
            if config.train_per_class:
                positions = rng.choice(positions, config.train_per_class, replace=False)
            chosen.append(positions)
        order = np.concatenate(chosen)
        rng.shuffle(order)
        training.append(order)
    testing = []
    for digits in config.tasks:
        positions = np.flatnonzero(np.isin(mnist.test_labels, [int(d) for d in digits]))
        if 0 < config.test_per_task < len(positions):
            positions = positions[rng.permutation(len(positions))[: config.test_per_task]]
        testing.append(positions)
    return list(zip(training, testing, strict=True))


def make_tasks(config: Config, seed: int, mnist: Mnist) -> tuple[list[Task], np.ndarray]:
    """The tasks of one seed, and which of the 784 pixels their inputs hold, bool (784,).

    A pixel that is zero in every chosen image cannot reach any output, so it is left out: 784
    pixels become about 666, and the products with the first layer 15 % smaller.
    """
    draws = draw_images(config, seed, mnist)
    rng = np.random.default_rng([seed, PIXEL_ORDER_STREAM])
    images = []
    for number, (train, test) in enumerate(draws):
        order = rng.permutation(PIXELS) if config.permute and number else slice(None)
        images.append((mnist.train_images[train][:, order], mnist.test_images[test][:, order]))
    used = np.any([pixels.max(axis=0) for pair in images for pixels in pair], axis=0)
    tasks = []
    for digits, (train, test), (train_pixels, test_pixels) in zip(
        config.tasks, draws, images, strict=True
    ):
        rows = np.arange(DIGITS)
        classes = rows if config.head == "single" else np.array(sorted(map(int, digits)))
        tasks.append(
            Task(
                classes,
                with_bias(train_pixels[:, used]),
                np.searchsorted(classes, mnist.train_labels[train]),
                with_bias(test_pixels[:, used]),
                np.searchsorted(classes, mnist.test_labels[test]),
                fixed_rows=np.setdiff1d(rows, classes) if config.head == "frozen" else rows[:0],
            )
        )
    return tasks, used


def with_bias(pixels: np.ndarray) -> np.ndarray:
    """uint8 (n, pixels) to float32 (n, pixels + 1): divided by 255, with a last column of ones."""
    inputs = np.ones((len(pixels), pixels.shape[1] + 1), np.float32)
    np.divide(pixels, np.float32(255), out=inputs[:, :-1])
    return inputs


def join_tasks(tasks: Sequence[Task]) -> Task:
    """All tasks as one to train on; the mask keeps each image to the classes of its own task.

    Testing stays with the separate tasks.
    """
    classes = np.unique(np.concatenate([task.classes for task in tasks]))
    labels = [np.searchsorted(classes, task.classes[task.train_labels]) for task in tasks]
    closed = np.where([np.isin(classes, task.classes) for task in tasks], 0, -np.inf)
    return Task(
        classes=classes,
        train_inputs=np.concatenate([task.train_inputs for task in tasks]),
        train_labels=np.concatenate(labels),
        test_inputs=np.empty(0),
        test_labels=np.empty(0),
        fixed_rows=np.setdiff1d(tasks[0].fixed_rows, classes),
        train_mask=np.repeat(closed.T, list(map(len, labels)), axis=1).astype(np.float32),
    )


# --- 3. Activations -----------------------------------------------------------------------------
#
# One contract: an activation turns the pre-activations z, float (units, n), into activations h in
# place and fills `gate` with dh/dz, so that the backward pass of every activation is
# dz = dh * gate. Both arrays are contiguous. k is the block size, for units that compete.


def relu(z: np.ndarray, gate: np.ndarray, k: int) -> None:
    """h = max(z, 0), dh/dz = [z > 0]."""
    np.greater(z, 0, out=gate)
    np.multiply(z, gate, out=z)


def lwta(z: np.ndarray, gate: np.ndarray, k: int) -> None:
    """Local winner-take-all: in each block of k units the largest z passes, the others give 0.

    dh/dz is 1 for the winner and 0 for the others; a tie goes to the lowest index. (Srivastava et
    al. 2013, section 3.)
    """
    blocks = z.reshape(-1, k, z.shape[1])
    wins = gate.reshape(blocks.shape)
    if k == 2:  # the paper's block: one comparison, a tenth of the time of the general case
        np.greater(blocks[:, 1], blocks[:, 0], out=wins[:, 1])
        np.subtract(1, wins[:, 1], out=wins[:, 0])
    else:
        wins[:] = 0
        np.put_along_axis(wins, blocks.argmax(axis=1, keepdims=True), 1, axis=1)
    np.multiply(z, gate, out=z)


def sigmoid(z: np.ndarray, gate: np.ndarray, k: int) -> None:
    """h = 1 / (1 + exp(-z)), dh/dz = h (1 - h)."""
    np.exp(-z, out=z)
    np.reciprocal(1 + z, out=z)
    np.multiply(z, 1 - z, out=gate)


@dataclass(frozen=True)
class Activation:
    """A hidden activation: its function (importable, so that it can travel to worker processes),
    and the offset from the seed of its own stream of batches."""

    name: str
    label: str
    function: Callable[[np.ndarray, np.ndarray, int], None]
    batch_stream: int


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation("relu", "ReLU", relu, 100),
        Activation("lwta", "LWTA", lwta, 200),
        Activation("sigmoid", "sigmoid", sigmoid, 300),
    )
}
PAIRED_BATCH_STREAM = 100


def label(model: str) -> str:
    """How a model is called in print: one of FILE.py:FUNCTION as FUNCTION (FILE)."""
    file, _, function = model.rpartition(":")
    if file:
        return f"{function} ({Path(file).stem})"
    return ACTIVATIONS[model].label if model in ACTIVATIONS else model


@dataclass(frozen=True)
class FileFunction:
    """A function of a user's file. It travels to other processes as the file's text."""

    file: str
    name: str
    text: str

    def __call__(self, z: np.ndarray, gate: np.ndarray, k: int) -> None:
        """The activation; see the contract."""
        function_in(self)(z, gate, k)


@cache
def function_in(own: FileFunction) -> Callable[[np.ndarray, np.ndarray, int], None]:
    """The function itself; its file is run once in a process."""
    module = types.ModuleType(Path(own.file).stem)
    module.__file__ = own.file
    exec(compile(own.text, own.file, "exec"), module.__dict__)
    return getattr(module, own.name)


def find_activation(name: str) -> Activation:
    """An activation of this file, or FILE.py:FUNCTION of the user's own; else `InputError`."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    file, _, function = name.rpartition(":")
    there_are = f"there are {', '.join(ACTIVATIONS)} and FILE.py:FUNCTION"
    require(file.endswith(".py"), f"--activations {name}: {there_are}")
    try:
        own = FileFunction(file, function, Path(file).read_text(encoding="utf-8"))
        require(callable(function_in(own)), f"--activations {name}: that is no function")
    except OSError as error:
        raise InputError(f"--activations {name}: cannot be read ({error.strerror})") from None
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise InputError(f"--activations {name}: {one_line(error)}") from None
    return Activation(name, label(name), own, PAIRED_BATCH_STREAM)


def check_activation(activation: Activation, units: int, k: int) -> None:
    """Raise `InputError` unless a function keeps the contract, at so many units and this k.

    Tried on standard normal pre-activations in float64. Central differences along a random
    direction, of step 1e-6, must be gate times direction, but where a kink lies between.
    """
    rng = np.random.default_rng(0)
    images = max(4, 4000 // units)
    z, direction = rng.standard_normal((2, units, images))

    def refuse(reason: str) -> InputError:
        return InputError(f"--activations {activation.name}, {units} units, k {k}: {reason}")

    def activate(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h, gate = z.copy(), np.full_like(z, np.nan)
        try:
            with np.errstate(all="ignore"):  # what is not finite is told below
                activation.function(h, gate, k)
        except Exception as error:  # whatever the user's function does
            raise refuse(f"it raises {one_line(error)}") from None
        return h, gate

    for values in (z, z.astype(np.float32)):
        h, gate = activate(values)
        if not (np.isfinite(h).all() and np.isfinite(gate).all()):
            raise refuse("activations or gate are not finite; is all of gate filled?")
    h, gate = activate(z)
    if np.array_equal(h, z) and not (gate == 1).all():
        raise refuse("z stays as it is; it must be changed in place, as in z[:] = ...")
    few, _ = activate(z[:, : images // 2].copy())
    if not np.allclose(few, h[:, : images // 2]):
        raise refuse("an image's activations depend on the other images; units are the first axis")
    step = 1e-6
    slope = (activate(z + step * direction)[0] - activate(z - step * direction)[0]) / (2 * step)
    wrong = np.mean(np.abs(slope - gate * direction) > 1e-4 * (1 + np.abs(slope)))
    if wrong > 0.01:
        raise refuse(f"gate is not the derivative, at {wrong:.0%} of the values")


@cache
def source_hash(function: Callable[..., Any]) -> str:
    """Twelve hex digits of a function's code; docstrings, comments and layout do not count.

    Of a user's file all of it counts, since the function may call what else is there.
    """
    is_own = isinstance(function, FileFunction)
    tree = ast.parse(function.text if is_own else textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return sha256(ast.unparse(tree).encode())[:12]


# --- 4. Network ---------------------------------------------------------------------------------

# Parameters updated at a time: with their velocity and gradient 0.8 MB, so that a network's
# five passes read memory once.
UPDATE_CHUNK = 1 << 16


@dataclass
class Workspace:
    """Buffers for a pass of n images, kept so that no step allocates a large array."""

    inputs: np.ndarray  # (n, pixels + 1), for a batch
    hidden: list[np.ndarray]  # per hidden layer (units + 1, n): activations, then a row of ones
    gates: list[np.ndarray]  # per hidden layer (units, n): dh/dz
    deltas: list[np.ndarray]  # per hidden layer (units, n): dloss/dz


class MLP:
    """A multilayer perceptron: equal hidden layers, linear output.

    Activations lie as (features, images), weights as (outputs, inputs + 1) with the bias in the
    last column against a row of ones, so that an LWTA block's members are whole rows and a layer
    is one product. Parameters, gradient and velocity are one flat vector each; `weights[layer]`
    and `gradients[layer]` are views of it.
    """

    def __init__(
        self, initial: Sequence[np.ndarray], activation: Activation, k: int, dtype: Any = np.float32
    ) -> None:
        """Start from `initial` weights, one (inputs, outputs) array a layer; biases are zero."""
        shapes = [(outputs, inputs + 1) for inputs, outputs in (w.shape for w in initial)]
        size = sum(rows * columns for rows, columns in shapes)
        self.parameters, self.gradient, self.velocity = np.zeros((3, size), dtype)
        self.weights = layer_views(self.parameters, shapes)
        self.gradients = layer_views(self.gradient, shapes)
        for weights, start in zip(self.weights, initial, strict=True):
            weights[:, :-1] = start.T
        self.activation, self.k, self.dtype = activation, k, dtype
        self.workspaces: dict[int, Workspace] = {}
        self.protected: np.ndarray | None = None  # what `readout_span` gives

    def workspace(self, n: int) -> Workspace:
        """The buffers for n images."""
        if n not in self.workspaces:
            units = [len(weights) for weights in self.weights[:-1]]
            self.workspaces[n] = Workspace(
                np.empty((n, self.weights[0].shape[1]), self.dtype),
                [np.ones((u + 1, n), self.dtype) for u in units],
                [np.empty((u, n), self.dtype) for u in units],
                [np.empty((u, n), self.dtype) for u in units],
            )
        return self.workspaces[n]

    def forward(
        self,
        inputs: np.ndarray,
        classes: np.ndarray,
        drop: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> np.ndarray:
        """Logits (classes, n) of inputs (n, pixels + 1).

        Only the output rows in `classes` are computed: the mask of the inactive tasks' classes.
        `drop` changes each hidden layer's activations and returns the factors (dropout).
        """
        work = self.workspace(len(inputs))
        signal = inputs.T
        for weights, hidden, gate in zip(self.weights, work.hidden, work.gates, strict=False):
            z = hidden[:-1]
            np.matmul(weights, signal, out=z)
            self.activation.function(z, gate, self.k)
            if drop:
                gate *= drop(z)
            signal = hidden
        return self.weights[-1][classes] @ signal

    def backward(self, inputs: np.ndarray, classes: np.ndarray, delta: np.ndarray) -> None:
        """Fill `gradient` from `delta`, d loss/d logits (classes, n), after `forward(inputs)`.

        Output rows outside `classes` have gradient zero. With `protected`, an orthonormal basis Q
        (units, r), the error signal at the last hidden layer, dh = W^T delta with the rows W of
        `classes`, loses its part in Q's span: dh - Q Q^T dh = (W - W Q Q^T)^T delta, the same
        product with projected rows. The gradient of the rows themselves stays whole.
        """
        work = self.workspace(len(inputs))
        signals = [inputs.T, *work.hidden]
        self.gradients[-1][:] = 0
        self.gradients[-1][classes] = delta @ signals[-1].T
        following = self.weights[-1][classes]  # a copy
        if self.protected is not None:
            read = following[:, :-1]
            read -= read @ self.protected @ self.protected.T
        for layer in reversed(range(len(work.hidden))):
            dz = work.deltas[layer]
            np.matmul(following[:, :-1].T, delta, out=dz)
            dz *= work.gates[layer]
            np.matmul(dz, signals[layer].T, out=self.gradients[layer])
            delta, following = dz, self.weights[layer]

    def update(self, momentum: float, decay: float) -> None:
        """SGD with momentum: v = m v - g - decay W, W = W + v; biases do not decay.

        The learning rate is already in the gradient and in `decay`. The gradient's buffer is
        free once v has it, and serves for the decay.
        """
        momentum, decay = self.dtype(momentum), self.dtype(decay)
        for gradients, weights in zip(self.gradients, self.weights, strict=True):
            # The passes below decay all parameters alike, since one flat vector is quickest; a
            # bias b is given back beforehand what that takes: -(-decay b) - decay b = 0.
            gradients[:, -1] -= decay * weights[:, -1]
        for first in range(0, len(self.parameters), UPDATE_CHUNK):
            part = slice(first, first + UPDATE_CHUNK)
            v, g, w = self.velocity[part], self.gradient[part], self.parameters[part]
            v *= momentum
            v -= g
            np.multiply(w, decay, out=g)
            v -= g
            w += v


def layer_views(flat: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Consecutive pieces of a flat vector as matrices."""
    ends = np.cumsum([rows * columns for rows, columns in shapes])
    pieces = np.split(flat, ends[:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def readout_span(network: MLP, tasks: Sequence[Task]) -> np.ndarray:
    """What the output rows of some tasks read: an orthonormal basis, (units, r), of their span.

    A task's softmax reads only the differences of its logits, hence of its rows W: with W h + b
    for the logits, a change of the last hidden layer's activations h that is orthogonal to all
    rows less their mean changes no probability of that task. So each task's rows count less their
    mean, without biases: five classes span four directions. A later task's error signal without
    its part in that span (see `MLP.backward`, --protect-readout) moves h, for the images that it
    is made of, first where the earlier tasks do not look; it is a projection at one layer, of the
    signal. Orthogonal gradient descent (Farajtabar et al. 2020) projects the gradient of all
    parameters on what leaves earlier images' logits alone, gradient projection memory (Saha et al.
    2021) each layer's gradient out of the span of earlier activations; both keep something of
    the images, this keeps nothing but the rows.
    """
    own = [network.weights[-1][task.classes, :-1].astype(np.float64) for task in tasks]
    differences = np.concatenate([rows - rows.mean(axis=0) for rows in own])
    _, lengths, directions = np.linalg.svd(differences, full_matrices=False)
    # The rows are float32: what is left of a direction that they lack is some 1e-7 of the longest.
    return directions[lengths > 1e-6 * lengths[0]].T.astype(network.dtype)


def initial_weights(config: Config, seed: int) -> list[np.ndarray]:
    """He-normal weights, float32 (inputs, outputs) a layer, the same for every activation."""
    rng = np.random.default_rng(seed + WEIGHT_STREAM)
    sizes = [PIXELS, *[config.hidden] * config.depth, DIGITS]
    return [
        np.float32(rng.standard_normal((n_in, n_out)) * math.sqrt(2 / n_in) * config.init_scale)
        for n_in, n_out in pairwise(sizes)
    ]


def cross_entropy_gradient(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """d/d logits of the mean cross-entropy of a softmax: (p - one-hot) / n, (classes, n)."""
    p = np.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    p[labels, np.arange(len(labels))] -= 1
    p /= len(labels)
    return p


def loss_and_accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats and share of correct answers; logits (classes, n), labels (n,)."""
    largest = logits.max(axis=0)
    log_sum = largest + np.log(np.exp(logits - largest).sum(axis=0))
    label_logits = logits[labels, np.arange(len(labels))]
    loss = np.mean(log_sum - label_logits, dtype=np.float64)
    return float(loss), float(np.mean(logits.argmax(axis=0) == labels))


# --- 5. Sequential training ---------------------------------------------------------------------

TEST_BATCH = 500  # images evaluated at once


@dataclass
class Moment:
    """Where training stands, for whoever follows it.

    Of each task come: "start" before its first update; then, epoch by epoch, "update" after each
    update and "epoch" after the last of them. Only "epoch" has training figures, means over the
    epoch, of each image before its update.
    """

    lr: float  # of the next update; whoever follows may change it
    stage: str = "start"
    task: int = 0  # from 1
    epoch: int = 0  # from 1
    update: int = 0  # over all tasks
    task_update: int = 0  # of this task
    train_loss: float = math.nan
    train_accuracy: float = math.nan
    target_reached: bool = False
    task_over: bool = False

    @property
    def is_checkpoint(self) -> bool:
        """Before all training, and after each task."""
        return self.update == 0 or self.task_over


def train_phases(
    network: MLP, phases: Sequence[Task], config: Config, seed: int
) -> Iterator[Moment]:
    """Train on each phase in turn (a task, or all tasks joined), and say after each step where.

    Yields one `Moment`, changed in between, so that the caller may test, measure, change the rate
    or stop. Raises `Diverged` where an epoch's loss is not finite.
    """
    stream = PAIRED_BATCH_STREAM if config.paired else network.activation.batch_stream
    batches = np.random.default_rng(seed + stream)
    dropout = [np.random.default_rng([seed, s]) for s in (DROPOUT_STREAM, INPUT_DROPOUT_STREAM)]
    now = Moment(config.lr)
    for now.task, phase in enumerate(phases, start=1):
        # An output layer for each task is a task begun anew: the step carries nothing over.
        if config.head == "frozen" or config.restart_momentum:
            network.velocity[:] = 0
        if config.protect_readout and now.task > 1:
            network.protected = readout_span(network, phases[: now.task - 1])
        now.stage, now.epoch, now.task_update, now.task_over = "start", 0, 0, False
        now.train_loss = now.train_accuracy = math.nan
        yield now
        while not now.task_over:
            now.stage, now.epoch = "update", now.epoch + 1
            now.train_loss = now.train_accuracy = math.nan
            order = batches.permutation(len(phase.train_labels))
            logits = np.empty((len(phase.classes), len(order)), network.dtype)
            for first in range(0, len(order), config.batch):
                batch = slice(first, first + config.batch)
                logits[:, batch] = train_batch(
                    network, phase, order[batch], config, now.lr, dropout
                )
                now.update += 1
                now.task_update += 1
                yield now
            loss, now.train_accuracy = loss_and_accuracy(logits, phase.train_labels[order])
            check_finite([loss], "training loss", now.task, now.epoch)
            now.target_reached = config.target_loss is not None and loss <= config.target_loss
            now.task_over = now.target_reached or now.epoch == config.epochs
            now.stage, now.train_loss = "epoch", loss
            yield now


def train_batch(
    network: MLP,
    task: Task,
    batch: np.ndarray,
    config: Config,
    lr: float,
    dropout: Sequence[np.random.Generator],
) -> np.ndarray:
    """One update from the images at the positions `batch`; the logits before it."""
    hidden_dropout, input_dropout = dropout
    inputs = network.workspace(len(batch)).inputs
    # mode="clip" spares the check of every index: 6 us instead of 15.
    np.take(task.train_inputs, batch, axis=0, out=inputs, mode="clip")
    if config.input_dropout:
        drop_units(inputs[:, :-1], config.input_dropout, input_dropout)
    drop = partial(drop_units, rate=config.dropout, rng=hidden_dropout) if config.dropout else None
    logits = network.forward(inputs, task.classes, drop)
    if task.train_mask is not None:
        logits += task.train_mask[:, batch]

    # The learning rate enters here, on a few numbers, and not on every parameter's gradient; so
    # `update` knows none, and its decay comes multiplied by it.
    delta = cross_entropy_gradient(logits, task.train_labels[batch])
    delta *= network.dtype(lr)
    network.backward(inputs, task.classes, delta)
    fixed = network.weights[-1][task.fixed_rows]
    network.update(config.momentum, lr * config.weight_decay)
    network.weights[-1][task.fixed_rows] = fixed
    return logits


def drop_units(values: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Inverted dropout in place: each value is zero with chance `rate`, else divided by 1 - rate.

    Returns the factors, which are what a gate has to be multiplied by.
    """
    factors = (rng.random(values.shape, np.float32) >= rate) * np.float32(1 / (1 - rate))
    values *= factors
    return factors


def evaluate(network: MLP, tasks: Sequence[Task], active: np.ndarray | None = None) -> list[float]:
    """Test accuracy on each task, nan where a logit is not finite.

    `active`, zeros (layers, tasks, units), is filled with the share of each task's test images
    on which each unit is active: its gate is not zero (ReLU's positive units, LWTA's winners).
    """
    accuracies = []
    for number, task in enumerate(tasks):
        images = len(task.test_labels)
        logits = np.empty((len(task.classes), images), network.dtype)
        for first in range(0, images, TEST_BATCH):
            inputs = task.test_inputs[first : first + TEST_BATCH]
            logits[:, first : first + TEST_BATCH] = network.forward(inputs, task.classes)
            if active is not None:
                for layer, gate in enumerate(network.workspace(len(inputs)).gates):
                    active[layer, number] += np.count_nonzero(gate, axis=1) / images
        loss, accuracy = loss_and_accuracy(logits, task.test_labels)
        accuracies.append(accuracy if math.isfinite(loss) else math.nan)
    return accuracies


def check_finite(values: Iterable[float], what: str, task: int, epoch: int) -> None:
    """Raise `Diverged` for a value that is not finite: nothing after it means anything."""
    if not all(map(math.isfinite, values)):
        raise Diverged(f"{what} in task {task}, epoch {epoch} is not finite")


@dataclass
class Run:
    """What training one model on all tasks left behind."""

    record: dict[str, Any]  # a row of `per_seed` in results.json
    schedule: list[dict[str, Any]]  # rows of `schedule`
    snapshot: dict[str, np.ndarray]  # arrays of snapshots.npz, by their name without the model
    curve: list[list[float]]  # a row a test: update, task, accuracy on each task
    seconds: float  # training and evaluation


Test = tuple[Moment, list[float]]  # when, and the accuracy on each task


def train_and_test(
    network: MLP, tasks: Sequence[Task], config: Config, seed: int
) -> tuple[list[Test], np.ndarray, str | None]:
    """Train on all tasks in turn and test as the configuration says.

    Returns the tests; `active`, float32 (checkpoints, layers, tasks, units), see `evaluate`; and
    how the run diverged. One that did ends there, with its tests until then and no `active`.
    """
    phases = [join_tasks(tasks)] if config.joint else tasks
    active = np.zeros((len(phases) + 1, config.depth, len(tasks), config.hidden), np.float32)
    tests: list[Test] = []
    every = config.evaluate_every
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            for now in train_phases(network, phases, config, seed):
                is_due = now.stage == "update" and every and now.update % every == 0
                if not (is_due or now.stage == "epoch" or now.is_checkpoint):
                    continue
                place = now.task if now.task_over else 0  # 0: before training; t: after task t
                accuracy = evaluate(network, tasks, active[place] if now.is_checkpoint else None)
                if now.stage == "epoch":
                    check_finite(accuracy, "test accuracy", now.task, now.epoch)
                    if tests[-1][0].update == now.update:  # the epoch's end says more
                        tests.pop()
                tests.append((replace(now), accuracy))
    except Diverged as error:
        return tests, np.empty(0, np.float32), str(error)
    return tests, active, None


def train_model(
    config: Config,
    activation: Activation,
    seed: int,
    mnist: Mnist,
    start: Sequence[np.ndarray] | None = None,
) -> Run:
    """Train one model on all tasks in turn, from the initial weights of the seed or from `start`.

    Independent and deterministic: for one numpy and one BLAS kernel its bits depend on nothing
    but the arguments; section 2 lists the random streams. A run that diverged has that as status.
    """
    limit_blas_threads()
    tasks, used = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed) if start is None else start
    network = MLP([start[0][used], *start[1:]], activation, config.k)
    began = time.perf_counter()
    tests, active, failure = train_and_test(network, tasks, config, seed)
    seconds = time.perf_counter() - began

    final = start[0].copy()  # the weights of pixels that no image has are as they were
    final[used] = network.weights[0][:, :-1].T
    return Run(
        record=run_record(config, activation, seed, tests, failure, tasks),
        schedule=[
            {
                "model": activation.name,
                "task": now.task,
                "epoch": now.epoch,
                "update": now.update,
                "train_loss": now.train_loss,
                "train_accuracy": now.train_accuracy,
                "test_accuracy": accuracy,
            }
            for now, accuracy in tests
            if now.stage == "epoch"
        ],
        snapshot={
            "accuracy": np.array([accuracy for _, accuracy in tests]),
            "task": np.array([now.task if now.update else 0 for now, _ in tests]),
            "update": np.array([now.update for now, _ in tests]),
            "train_loss": np.array([now.train_loss for now, _ in tests]),
            "W1": final[:, :100],
            "W1_init": start[0][:, :100],
            "active": active,
        },
        curve=[[now.update, now.task if now.update else 0, *accuracy] for now, accuracy in tests],
        seconds=seconds,
    )


METRICS = ("forgetting", "average_accuracy", "backward_transfer", "forward_transfer")
STATUSES = ("ok", "diverged", "untrained")


def run_record(
    config: Config,
    activation: Activation,
    seed: int,
    tests: Sequence[tuple[Moment, list[float]]],
    failure: str | None,
    tasks: Sequence[Task],
) -> dict[str, Any]:
    """The row of one run in `per_seed`; `failure` says how it diverged, if it did.

    A run is untrained if right after training on a task its accuracy there is below halfway from
    chance to 1.
    """
    checkpoints = [(now, accuracy) for now, accuracy in tests if now.is_checkpoint]
    matrix = [accuracy for _, accuracy in checkpoints]
    reached = [now.target_reached for now, _ in checkpoints[1:]]
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    status = "diverged" if failure else "ok"
    if not failure:
        metrics["average_accuracy"] = float(np.mean(matrix[-1]))
        metrics.update(sequential_metrics(np.array(matrix)))
        for j, task in enumerate(tasks):
            learned = matrix[1 if config.joint else j + 1][j]
            if learned < (1 + 1 / len(task.classes)) / 2:
                status = "untrained"
                failure = f"accuracy on task {j + 1} right after training on it is {learned:.3f}"
                break
    return {
        "seed": seed,
        "model": activation.name,
        "accuracy_matrix": matrix,
        "epochs": [now.epoch for now, _ in checkpoints[1:]],
        "target_reached": reached if config.target_loss is not None else None,
        **metrics,
        "status": status,
        "failure": failure,
        "blas_kernel": blas()["blas_kernel"],
    }


def sequential_metrics(matrix: np.ndarray) -> dict[str, float | None]:
    """Forgetting and transfer from R, (tasks + 1, tasks): R[i][j] is accuracy on task j after i.

    Tasks count from 1, as rows of R do, whose row 0 is before training; columns count from 0. With
    two tasks forgetting is accuracy on the first before the second minus the same after it.

    Backward transfer is mean_{j<T} (R[T][j] - R[j][j]) (Lopez-Paz and Ranzato 2017), forward
    transfer mean_{j>1} (R[j-1][j] - R[0][j]), forgetting mean_{j<T} (max_{j<=l<T} R[l][j] -
    R[T][j]) (Chaudhry et al. 2018). A single task has none of them, nor has joint training, whose
    matrix has two rows.
    """
    last = len(matrix) - 1
    if last < 2:
        return {}
    earlier = range(last - 1)  # columns of all tasks but the last; task j is learned in row j + 1
    forgotten = [matrix[j + 1 : last, j].max() - matrix[last, j] for j in earlier]
    backward = [matrix[last, j] - matrix[j + 1, j] for j in earlier]
    forward = [matrix[j, j] - matrix[0, j] for j in range(1, last)]
    return {
        "forgetting": float(np.mean(forgotten)),
        "backward_transfer": float(np.mean(backward)),
        "forward_transfer": float(np.mean(forward)),
    }


@cache
def limit_blas_threads() -> None:
    """One BLAS thread for this process where numpy was imported before our variables were set."""
    if NUMPY_CAME_FIRST:
        import threadpoolctl

        threadpoolctl.threadpool_limits(1, user_api="blas")


@cache
def blas() -> dict[str, Any]:
    """Name, kernel and threads of numpy's BLAS; the kernel decides the last bits of a result."""
    import threadpoolctl

    limit_blas_threads()
    pool = next((p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"), {})
    return {
        "blas": f"{pool.get('internal_api', 'unknown')} {pool.get('version')}",
        "blas_kernel": pool.get("architecture"),
        "blas_threads": pool.get("num_threads"),
    }


# --- 6. Statistics of forgetting ----------------------------------------------------------------

ALIKE = 0.010  # two mean forgettings closer than this are called alike
EXACT_PAIRS = 12  # up to so many, every flip of signs is tried
FLIPS = 100_000  # drawn for more


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """n, mean, median, standard deviation (n - 1) and Student's 95 % interval of the mean.

    Missing values are left out; what too few values cannot give is None.
    """
    present = np.sort(np.array([v for v in values if v is not None], float))
    n = len(present)
    summary: dict[str, Any] = {"n": n, **dict.fromkeys(("mean", "median", "std", "ci95"))}
    if n:
        summary["mean"] = float(present.mean())
        summary["median"] = float(np.median(present))
    if n > 1:
        summary["std"] = float(present.std(ddof=1))
        summary["ci95"] = student_interval(summary, 0.95)
    return summary


def student_interval(summary: dict[str, Any], level: float) -> list[float]:
    """Student's interval of a mean at this level of confidence, from a summary of n > 1 values."""
    n, mean = summary["n"], summary["mean"]
    half = student_t_quantile((1 + level) / 2, n - 1) * summary["std"] / math.sqrt(n)
    return [mean - half, mean + half]


def compare(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Paired comparison of two activations' forgetting, seed by seed.

    The difference is first minus second: above zero where the second forgets less, which is a win.
    `p` is the permutation test's; `p_adjusted` is the same until `adjust` is told of a family.
    `smallest_detectable` is the true mean difference that a two-sided 5 % t-test would have found
    with 80 % power, if the spread is the observed one: (t_.975 + t_.8) s / sqrt(n), with n - 1
    degrees of freedom. That is an approximation, good to 1 % of power from 5 pairs on.
    """
    # Accuracies are multiples of 1 / test images; a difference below 1e-9 is rounding, so a tie.
    difference = [round(a - b, 9) for a, b in zip(first, second, strict=True)]
    summary = summarise(difference)
    wins, losses = sum(d > 0 for d in difference), sum(d < 0 for d in difference)
    comparison = {
        "difference": summary,
        "ci90": None,
        "wins": wins,
        "losses": losses,
        "ties": len(difference) - wins - losses,
        **dict.fromkeys(("p", "p_adjusted", "smallest_detectable")),
    }
    if summary["n"] > 1:
        comparison["p"] = comparison["p_adjusted"] = permutation_test(difference)
        comparison["ci90"] = student_interval(summary, 0.90)
        quantiles = sum(student_t_quantile(q, summary["n"] - 1) for q in (0.975, 0.8))
        comparison["smallest_detectable"] = quantiles * summary["std"] / math.sqrt(summary["n"])
    return comparison


def permutation_test(difference: Sequence[float]) -> float:
    """Two-sided sign-flip test of the mean: p of one at least as far from zero by flips alone.

    Exact up to `EXACT_PAIRS` pairs; else (1 + count) / (1 + flips) over `FLIPS` flips drawn from a
    fixed generator (Phipson and Smyth 2010).
    """
    values = np.array(difference, float)  # flipping one takes twice its value from the sum
    n, total = len(values), values.sum()
    least = abs(total) - 1e-12 * np.abs(values).sum()  # sums of other orders are equal but rounding
    if n <= EXACT_PAIRS:
        bits = np.arange(1 << n)[:, None] >> np.arange(n) & 1  # a row a choice of what to flip
        return float(np.mean(np.abs(total - 2 * bits @ values) >= least))
    rng = np.random.default_rng(0)
    extreme = 0
    for _ in range(10):
        octets = rng.integers(0, 256, (FLIPS // 10, -(-n // 8)), np.uint8)
        bits = np.unpackbits(octets, axis=1, count=n).astype(float)
        extreme += int(np.sum(np.abs(total - 2 * bits @ values) >= least))
    return (1 + extreme) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.sort(p_values) * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def adjust(family: Sequence[dict[str, Any]]) -> None:
    """Set `p_adjusted` of each comparison of a family; those without a test are left out."""
    tested = [comparison for comparison in family if comparison["p"] is not None]
    for comparison, p in zip(tested, holm([c["p"] for c in tested]), strict=True):
        comparison["p_adjusted"] = p


def verdict(first: str, second: str, comparison: dict[str, Any]) -> str | None:
    """What a comparison says of the activations with these labels; None for fewer than two seeds.

    The one rule: a difference is shown by the adjusted permutation test alone; two are alike if
    the 90 % interval lies within `ALIKE` (two one-sided 5 % tests; Schuirmann 1987).
    """
    if comparison["p_adjusted"] is None:
        return None
    low, high = comparison["ci90"]
    alike = low > -ALIKE and high < ALIKE
    if comparison["p_adjusted"] < 0.05:
        better = second if comparison["difference"]["mean"] > 0 else first
        return f"{better} forgets less" + (f" by less than {ALIKE:.3f}" if alike else "")
    if alike:
        return f"alike within {ALIKE:.3f}"
    n, shown = comparison["difference"]["n"], comparison["smallest_detectable"]
    return f"undecided: {n} seeds could have shown {shown:.3f}"


@cache
def student_t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t for a probability in [0.5, 0.999] and an integer df >= 1."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, df) < probability else (low, middle)
    return high


def student_t_cdf(t: float, df: int) -> float:
    """Distribution function of Student's t, integer df (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    odd = df % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for i in range(odd, df - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (i + 1) / (i + 2)
    central = math.sin(angle) * total
    if odd:
        central = (angle + central) * 2 / math.pi
    return (1 + central) / 2


def aggregate(
    records: Sequence[dict[str, Any]], models: Sequence[str], guessing: float
) -> dict[str, Any]:
    """`aggregate` of results.json from rows of `per_seed`; the pairs are one family.

    A run that diverged or never learned is in no mean, and its seed in no pair with that model.
    Where a pair has such runs, `at_chance` is the difference in average accuracy in which they
    count as `guessing`, so that no model wins by failing.
    """
    by_model = {
        model: {row["seed"]: row for row in records if row["model"] == model} for model in models
    }
    per_model = {
        model: {
            **{status: sum(r["status"] == status for r in rows.values()) for status in STATUSES},
            **{
                metric: summarise([r[metric] for r in rows.values() if r["status"] == "ok"])
                for metric in METRICS
            },
        }
        for model, rows in by_model.items()
    }
    pairs = []
    for names in combinations(models, 2):
        first, second = (by_model[model] for model in names)
        both = [(first[s], second[s]) for s in sorted(first.keys() & second.keys())]
        complete = [
            [row["forgetting"] for row in pair]
            for pair in both
            if all(row["status"] == "ok" and row["forgetting"] is not None for row in pair)
        ]
        failed = {names[i]: sum(pair[i]["status"] != "ok" for pair in both) for i in (0, 1)}
        worth = [
            [r["average_accuracy"] if r["status"] == "ok" else guessing for r in pair]
            for pair in both
        ]
        pairs.append(
            {
                "first": names[0],
                "second": names[1],
                "failed": failed,
                **compare([a for a, _ in complete], [b for _, b in complete]),
                "at_chance": summarise([a - b for a, b in worth]) if any(failed.values()) else None,
            }
        )
    adjust(pairs)
    for pair in pairs:
        pair["verdict"] = verdict(label(pair["first"]), label(pair["second"]), pair)
    return {"models": per_model, "pairs": pairs}


# --- 7. Seeds -----------------------------------------------------------------------------------

SCHEDULER_SECONDS = 5  # to answer


def train_run(
    config: Config,
    activation: Activation,
    seed: int,
    data_dir: str | None,
    start: Sequence[np.ndarray] | None = None,
    is_headline: bool = False,
) -> Run:
    """`train_model` in any process; only the headline keeps schedule and snapshot."""
    run = train_model(config, activation, seed, load_mnist(data_dir), start)
    return run if is_headline else replace(run, schedule=[], snapshot={})


def side_by_side(
    function: Callable[..., Any], arguments: Sequence[tuple], jobs: int, client: Any = None
) -> Iterator[Any]:
    """What `function` returns for each tuple of arguments, as they finish.

    `jobs` at a time here, or on the cluster of a Dask client. Raises `Stopped` if a worker process
    died or the cluster failed.
    """
    from concurrent.futures import BrokenExecutor, as_completed

    if client is None and (jobs == 1 or len(arguments) <= 1):
        yield from starmap(function, arguments)
        return
    if client is None:
        executor = local_executor(jobs, len(arguments))
    else:
        executor = client.get_executor(pure=False, retries=3)  # a lost run goes to another worker
        function = partial(run_elsewhere, software(), function)
    try:
        futures = [executor.submit(function, *values) for values in arguments]
        for future in as_completed(futures):
            yield future.result()
    except BrokenExecutor:
        reasons = "out of memory? try fewer --jobs; or see its message above"
        raise Stopped(f"a worker process died ({reasons})") from None
    except Exception as error:
        if client is None or isinstance(error, InputError | Stopped):
            raise
        raise Stopped(f"the cluster failed ({one_line(error)})") from None
    finally:
        # Not `with`: that would wait for the runs under way, and Ctrl-C ends at once. Nor
        # `future.cancel`: an executor whose processes end trips over what others cancelled.
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # Dask's knows no such argument, and cancels without
            executor.shutdown(wait=False)


def local_executor(jobs: int, runs: int) -> Any:
    """Threads for up to a pair of runs, which starting processes would delay more than it
    helps; processes for more, since threads share Python's lock."""
    if runs <= 2:
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(jobs)
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # A worker process runs the script that started it again, up to `if __name__ == "__main__":`.
    script = getattr(sys.modules["__main__"], "__file__", None)
    require(
        script is None or Path(script).exists(),
        "worker processes cannot be started from standard input; give --jobs 1, or a script's file",
    )
    refuse_unguarded()
    if sys.platform == "win32":
        jobs = min(jobs, 61)  # what Windows can wait for
    # Spawned, not forked: the same on every system, and safe beside BLAS threads.
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_worker)


def refuse_unguarded() -> None:
    """Raise `InputError` in a worker process that runs the script which started it once more."""
    import multiprocessing

    require(
        not getattr(multiprocessing.current_process(), "_inheriting", False),
        'put what starts the sweep under if __name__ == "__main__": as worker processes need it',
    )


def start_worker() -> None:
    """In each worker process: end at once on Ctrl-C, and with the main process, however it ends."""
    import multiprocessing
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def dask_client(address: str) -> Any:
    """A client of the Dask cluster whose scheduler is at `address`; our files are sent there.

    Raises `InputError` where no scheduler answers, no worker is there, or a worker would compute
    something else: another version of Python, of numpy or of the files.
    """
    try:
        import distributed
    except ImportError:
        raise InputError(
            "--dask needs: python3 -m pip install -r requirements-cluster.txt"
        ) from None
    import asyncio
    import logging

    async def knock() -> None:
        """Ask who is there; a client would wait for minutes for a port that is no scheduler."""
        async with distributed.rpc(address) as scheduler:
            await scheduler.identity()

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the one line is ours
    try:
        asyncio.run(asyncio.wait_for(knock(), SCHEDULER_SECONDS))
        client = distributed.Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError, asyncio.TimeoutError):
        raise InputError(
            f"--dask {address}: no scheduler answers there; start one: dask scheduler"
        ) from None
    try:
        for file in (fetch_mnist.__file__, __file__):
            client.upload_file(file)
        workers = client.run(software)
    except Exception as error:
        raise InputError(
            f"--dask {address}: it cannot load this project: {one_line(error)}"
        ) from None
    require(bool(workers), f"--dask {address}: no worker there; start one: dask worker {address}")
    for worker, there in workers.items():
        for name, version in software().items():
            require(
                there.get(name) == version,
                f"worker {worker} has {name} {there.get(name)}, not {version} as here; give it the "
                "same and start it again",
            )
    return client


def one_line(error: BaseException) -> str:
    """An error's type and text, for a message of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def software() -> dict[str, str]:
    """What two machines must have in common to compute the same, the BLAS kernel apart."""
    source = sha256(Path(__file__).read_bytes())[:12]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compete_to_compute.py": source,
    }


def run_elsewhere(expected: dict[str, str], function: Callable[..., Any], *values: Any) -> Any:
    """`function`, on a worker that may have joined after the others were checked."""
    if software() != expected:
        raise Stopped(f"a worker joined with {software()}, not {expected} as here")
    return function(*values)


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def with_progress(runs: Iterator[Run], total: int, quiet: bool = False) -> Iterable[Run]:
    """The same runs, with a bar where a person is watching."""
    if quiet or total <= 2 or not on_terminal():
        return runs
    from tqdm import tqdm

    return tqdm(runs, total=total, unit="run", dynamic_ncols=True)


Finished = dict[tuple[int, str], Run]  # by seed and model


def check_of(row: dict[str, Any]) -> str:
    """What tells whether a row of a journal is as it was written."""
    return sha256(json.dumps(row).encode())[:12]


class Journal:
    """The finished runs of sweeps, a line of JSON each, on disk as soon as the run is finished.

    A line names all that its run depends on: sweeps that share a journal take their own runs from
    it, and a line that was cut short or damaged is nobody's.
    """

    def __init__(self, results: Path, config: Config, activations: Sequence[Activation]) -> None:
        """The journal beside a results file; nothing is read or written yet."""
        self.path = results.with_name(results.name + ".journal")
        self.identity = {
            "schema": SCHEMA,
            "mnist_sha256": MNIST_SHA256["train-images-idx3-ubyte"],
            "changes": changes(config),
        }
        self.sources = {a.name: source_hash(a.function) for a in activations}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other sweeps away; a process that dies lets go. `InputError` if one has it."""
        with self.path.open("ab") as file:
            try:
                if sys.platform == "win32":
                    import msvcrt

                    file.seek(1 << 30)  # nobody may read what is locked: a byte far behind the rows
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                else:
                    import fcntl

                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InputError(
                    f"{self.path}: another sweep is writing there; give another --out"
                ) from None
            yield

    def read(self) -> Finished:
        """This configuration's runs, with their records, curves and seconds alone.

        Raises `InputError` where an activation was edited since.
        """
        runs = {}
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            with suppress(ValueError, KeyError, TypeError, AttributeError):
                row = json.loads(line)
                is_whole = row.pop("check") == check_of(row)
                key = row["record"]["seed"], row["record"]["model"]
                if is_whole and row["identity"] == self.identity:
                    require(
                        row["source"] == self.sources.get(key[1], row["source"]),
                        f"{key[1]} was edited since its runs in {self.path}; give another --out",
                    )
                    runs[key] = Run(row["record"], [], {}, row["curve"], row["seconds"])
        return runs

    def append(self, run: Run) -> None:
        """Add a run; on disk when this returns. Raises `Stopped` if it cannot be written."""
        row = {"identity": self.identity, "source": self.sources[run.record["model"]]}
        row |= {"record": run.record, "curve": run.curve, "seconds": run.seconds}
        row = without_nan(row)
        line = json.dumps({"check": check_of(row), **row})
        try:
            with self.path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a line was cut short; it stays alone
                        file.write(b"\n")
                file.write(line.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Stopped(f"{self.path} cannot be written ({error.strerror})") from None


def run_sweep(
    config: Config,
    activations: Sequence[Activation],
    seeds: range,
    options: SweepOptions,
    journal: Journal | None,
) -> dict[str, Any]:
    """Train every model at every seed that is not finished yet; the contents of results.json.

    Writes the snapshots of the first seed, the headline, which is trained again when a sweep is
    resumed, and finished runs into the journal if there is one. Raises `Stopped`, also where a
    run without a journal, of a single seed, diverges: a sweep counts such a run instead.
    """
    finished: Finished = {}
    if options.resume and journal:
        keep_damaged(options.out)
        finished = journal.read()
        if not options.quiet:
            print(f"{len(finished)} runs of this sweep are in {journal.path}", file=sys.stderr)
    missing = [
        (config, activation, seed, options.data_dir, None, seed == seeds[0])
        for seed in seeds
        for activation in activations
        if seed == seeds[0] or (seed, activation.name) not in finished
    ]
    client = dask_client(options.dask) if options.dask else None
    trained = 0
    try:
        runs = side_by_side(train_run, missing, options.jobs, client)
        for run in with_progress(runs, len(missing), options.quiet):
            seed, model = run.record["seed"], run.record["model"]
            if journal:
                journal.append(run)
            elif run.record["status"] == "diverged":
                failure = f"{label(model)}, seed {seed}: {run.record['failure']}"
                raise Stopped(f"{failure}; try a lower --lr")
            finished[seed, model] = run
            trained += 1
    except (KeyboardInterrupt, Stopped) as error:
        raise type(error)(
            f"{str(error) or 'stopped'}. {trained} of {len(missing)} models finished;"
            + (f" {journal.path} has them, go on with --resume" if journal else " nothing written")
        ) from None
    finally:
        if client:
            client.close()
    headline = {a.name: finished[seeds[0], a.name] for a in activations}
    save_snapshots(options.snapshots, config, seeds[0], headline, finished)
    return sweep_results(config, activations, seeds[0], headline, finished, options.jobs)


Model = str | Activation | Callable[[np.ndarray, np.ndarray, int], None]


def run_seeds(
    config: Config,
    models: Sequence[Model] = ("relu", "lwta"),
    seeds: Iterable[int] = range(10),
    jobs: int = 1,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Train models at seeds from Python; `per_seed` and `aggregate` as in results.json.

    A model is a name as of --activations, an `Activation`, or a function that keeps the contract,
    which is checked first. Nothing is written. `jobs` above 1 needs functions that worker
    processes can import. Raises `InputError`, `Stopped` and, when interrupted, `KeyboardInterrupt`.
    """
    activations = [as_activation(model, jobs) for model in models]
    check_config(config, activations)
    names, numbers = [activation.name for activation in activations], list(seeds)
    require(len({*names}) == len(names), f"two models have one name: {', '.join(names)}")
    arguments = [(config, a, seed, data_dir) for seed in numbers for a in activations]
    runs = with_progress(side_by_side(train_run, arguments, jobs), len(arguments))
    by_key = {(run.record["seed"], run.record["model"]): run.record for run in runs}
    records = [by_key[seed, name] for seed in numbers for name in names]
    return {"per_seed": records, "aggregate": aggregate(records, names, chance(config))}


def as_activation(model: Model, jobs: int) -> Activation:
    """The activation of a name or of a function, which must be able to travel to `jobs` > 1."""
    if isinstance(model, str):
        return find_activation(model)
    if isinstance(model, Activation):
        return model
    name = model.__name__
    is_importable = model.__qualname__ == name and (
        model.__module__ != "__main__" or hasattr(sys.modules["__main__"], "__file__")
    )
    require(
        jobs == 1 or is_importable,
        f"{name} cannot travel to worker processes; give jobs=1, or put it into a file: "
        f'"mine.py:{name}"',
    )
    return Activation(name, name, model, PAIRED_BATCH_STREAM)


def keep_damaged(path: Path) -> None:
    """Move a results file that is cut short, or that is none of ours, to NAME.damaged."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        if "per_seed" in json.loads(path.read_bytes()):
            return
    if path.exists():
        damaged = path.with_name(path.name + ".damaged")
        os.replace(path, damaged)
        print(f"{path} is damaged or not ours; kept as {damaged}", file=sys.stderr)


def sweep_results(
    config: Config,
    activations: Sequence[Activation],
    seed: int,
    headline: dict[str, Run],
    finished: Finished,
    jobs: int,
) -> dict[str, Any]:
    """The contents of results.json; `headline` has the runs of the first seed, by model."""
    order = list(dict.fromkeys([*headline, *(model for _, model in finished)]))
    keys = sorted(finished, key=lambda key: (key[0], order.index(key[1])))
    records = [finished[key].record for key in keys]
    seconds = {model: run.seconds for model, run in headline.items()}
    return {
        "schema": SCHEMA,
        "config": asdict(config),
        "activations": {
            a.name: {"label": a.label, "source": source_hash(a.function)} for a in activations
        },
        "environment": environment(),
        "headline": {
            "seed": seed,
            # The models of a seed are trained side by side, as far as there are jobs.
            "wallclock_s": max(max(seconds.values()), sum(seconds.values()) / jobs),
            "seconds": seconds,
            "summary": {model: headline_summary(run.record) for model, run in headline.items()},
        },
        "schedule": [row for run in headline.values() for row in run.schedule],
        "per_seed": records,
        "aggregate": aggregate(records, order, chance(config)),
    }


# --- 8. Outputs ---------------------------------------------------------------------------------


def write_or_stop(path: Path, content: bytes) -> None:
    """`write_atomically` for what was computed; `Stopped` where the disk is full."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise Stopped(f"{path} cannot be written ({error.strerror})") from None


def check_writable(path: Path) -> None:
    """Raise `InputError` now, and not after training, if a file cannot be written."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a folder or a device; give a file name")
        probe = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from None


def without_nan(value: Any) -> Any:
    """The same, ready for JSON: not-a-number is None, a tuple a list."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def to_json(data: dict[str, Any]) -> bytes:
    """JSON with a line for each row of a table; not-a-number becomes null."""
    parts = []
    for key, value in without_nan(data).items():
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1).replace("\n", "\n ")
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def environment() -> dict[str, Any]:
    """The software and machine that the figures come from."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        **blas(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "git_commit": git_commit(),
        "mnist_sha256": MNIST_SHA256,
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of this file, with "-dirty" if a script was changed since; None outside git."""
    import subprocess

    def git(command: str) -> str:
        arguments = ["git", "-C", str(Path(__file__).resolve().parent), *command.split()]
        output = subprocess.check_output(arguments, stderr=subprocess.DEVNULL, timeout=5)
        return output.decode().strip()

    try:
        changed = git("status --porcelain --untracked-files=no -- *.py")
        return git("rev-parse --short=12 HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def headline_summary(record: dict[str, Any]) -> dict[str, float | None]:
    """The four figures of the published table; None where training did not get there."""
    r = record["accuracy_matrix"]
    in_turn = len(r) == len(r[0]) + 1 and record["status"] != "diverged"
    return {
        "task1_after_task1": r[1][0] if in_turn else None,
        "task1_after_task2": r[2][0] if in_turn and len(r) > 2 else None,
        "task2_after_task2": r[2][1] if in_turn and len(r) > 2 else None,
        "forgetting": record["forgetting"],
    }


def save_snapshots(
    path: Path, config: Config, seed: int, runs: dict[str, Run], finished: Finished
) -> None:
    """Write snapshots.npz: arrays only, named `<what>_<model>`, of the headline's runs by model.

    And `curve_<model>`, float32 (seeds, tests, 2 + tasks), of all finished runs that are ok: each
    test's update, task and accuracies, nan behind the last of a run with fewer. Where no run is ok
    it is the headline's alone.
    """
    arrays = {
        "config": np.array(json.dumps(asdict(config))),
        "seed": np.array(seed),
        "models": np.array(list(runs)),
        "tasks": np.array(config.tasks),
        "W1_init": next(iter(runs.values())).snapshot["W1_init"],
    }
    for model, run in runs.items():
        own = {name: value for name, value in run.snapshot.items() if name != "W1_init"}
        arrays |= {f"{name}_{model}": value for name, value in own.items()}
        of_model = [r for key, r in sorted(finished.items()) if key[1] == model]
        ok = [r for r in of_model if r.record["status"] == "ok"] or [run]
        curves = np.full((len(ok), max(len(r.curve) for r in ok), 2 + len(config.tasks)), np.nan)
        for place, r in zip(curves, ok, strict=True):
            place[: len(r.curve)] = r.curve
        arrays[f"curve_{model}"] = curves.astype(np.float32)
    buffer = io.BytesIO()
    # Not compressed: random weights hardly shrink.
    np.savez(buffer, **arrays)
    write_or_stop(path, buffer.getvalue())


def print_report(results: dict[str, Any]) -> None:
    """Epochs and headline of the first seed; for several seeds, what they show together."""
    seed = results["headline"]["seed"]
    print_schedule(results["schedule"], len(results["config"]["tasks"]))
    records = [row for row in results["per_seed"] if row["seed"] == seed]
    print_headline(records, results["config"])
    print_caveats(records)
    if len({row["seed"] for row in results["per_seed"]}) > 1:
        print_aggregate(results["aggregate"])
    else:
        print("\nOne seed cannot tell which network forgets less; --n-seeds 20 can tell more.")
    kernels = {row["blas_kernel"] for row in results["per_seed"]}
    if len(kernels) > 1:
        print(f"\nRun on {len(kernels)} BLAS kernels ({', '.join(map(str, sorted(kernels)))}):")
        print("the last bits differ between them; per_seed says which had which.")


def print_schedule(rows: Sequence[dict[str, Any]], tasks: int) -> None:
    """One line per model and epoch; test accuracies in columns T1, T2, ..."""
    columns = min(tasks, 5)  # as many as 80 columns hold
    width = max([8, *(len(label(row["model"])) for row in rows)])
    heads = "".join(f"{f'T{j + 1}':>6}" for j in range(columns))
    print(
        f"{'model':{width}}{'task':>5}{'epoch':>6}{'train loss':>12}{'train acc':>11}   test{heads}"
    )
    for row in rows:
        tests = "".join(f"{accuracy:6.3f}" for accuracy in row["test_accuracy"][:columns])
        print(
            f"{label(row['model']):{width}}{row['task']:5}{row['epoch']:6}{row['train_loss']:12.4f}"
            f"{row['train_accuracy']:11.3f}       {tests}"
        )


def print_headline(records: Sequence[dict[str, Any]], config: dict[str, Any]) -> None:
    """What one seed shows, a column for each model: with two tasks, the published table."""
    tasks = len(config["tasks"])
    last = f"after Task {tasks}"

    names = [label(record["model"]) for record in records]
    width = max(10, *(len(name) + 2 for name in names))

    def line(text: str, figure: Callable[[dict[str, Any]], float], digits: str = ".1%") -> None:
        cells = ["-" if r["status"] == "diverged" else format(figure(r), digits) for r in records]
        print(f"{text:36}" + "".join(f"{cell:>{width}}" for cell in cells))

    seed = f"Seed {records[0]['seed']}"
    print(f"\n{seed:36}" + "".join(f"{name:>{width}}" for name in names))
    if config["joint"] and tasks > 1:
        line("Average accuracy, all tasks at once", lambda r: r["average_accuracy"])
        return
    line("Task 1 accuracy after Task 1", lambda r: r["accuracy_matrix"][1][0])
    if tasks > 1:
        line(f"Task 1 accuracy {last}", lambda r: r["accuracy_matrix"][-1][0])
        line("Forgetting" + " (mean over tasks)" * (tasks > 2), lambda r: r["forgetting"], ".3f")
        line(f"Task {tasks} accuracy {last}", lambda r: r["accuracy_matrix"][-1][-1])
    if tasks > 2:
        line("Average accuracy", lambda r: r["average_accuracy"])


def print_caveats(records: Iterable[dict[str, Any]]) -> None:
    """Which of one seed's runs failed, or ended a task short of its target loss."""
    for record in records:
        model = label(record["model"])
        if record["status"] != "ok":
            print(f"{model} {record['status']}: {record['failure']}.")
            print("  What it forgets means nothing.")
        for task, is_reached in enumerate(record["target_reached"] or [], start=1):
            if not is_reached:
                print(f"{model} did not reach --target-loss on task {task}.")


def print_aggregate(totals: dict[str, Any]) -> None:
    """Mean, spread and interval of each model's forgetting, then each pair with its verdict."""
    width = max([12, *(len(label(model)) for model in totals["models"])])
    print(f"\n{'Forgetting':{width}}  runs     mean      std   95 % interval       median")
    for model, values in totals["models"].items():
        forgetting = values["forgetting"]
        if forgetting["ci95"] is not None:
            interval = "{:.4f} to {:.4f}".format(*forgetting["ci95"])
            print(
                f"{label(model):{width}}{forgetting['n']:6}{forgetting['mean']:9.4f}"
                f"{forgetting['std']:9.4f}   {interval:18}{forgetting['median']:8.4f}"
            )
        for status in STATUSES[1:]:
            if values[status]:
                print(f"  {label(model)}: {values[status]} {status}, left out of every mean")
    for pair in totals["pairs"]:
        difference = pair["difference"]
        if difference["ci95"] is None:
            continue
        first, second = label(pair["first"]), label(pair["second"])
        interval = "{:+.4f} to {:+.4f}".format(*difference["ci95"])
        adjusted = f", adjusted {pair['p_adjusted']:.2g}" if len(totals["pairs"]) > 1 else ""
        print(f"\n{first} minus {second}, seed by seed ({difference['n']} complete pairs)")
        print(f"  mean {difference['mean']:+.4f}, 95 % interval {interval}")
        print(
            f"  median {difference['median']:+.4f}; permutation test p = {pair['p']:.2g}{adjusted}"
        )
        wins = f"{second} forgets less on {pair['wins']} seeds, {first} on {pair['losses']}"
        print(f"  {wins}, ties {pair['ties']}")
        if pair["at_chance"] and pair["at_chance"]["ci95"]:
            interval = "{:+.4f} to {:+.4f}".format(*pair["at_chance"]["ci95"])
            print("  average accuracy, with failed runs counted as guessing:")
            print(f"    difference {pair['at_chance']['mean']:+.4f}, 95 % interval {interval}")
        print(f"  Verdict: {pair['verdict']}.")


# --- 9. Command line ----------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and which takes no abbreviations."""

    def __init__(self, **keywords: Any) -> None:
        """Keywords are those of `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message}\n")


DESCRIPTION = """\
Train ReLU and LWTA networks on one MNIST task after another and measure how
much of the first task each forgets (Compete to Compute, NIPS 2013)."""
EXAMPLES = """\
examples, and what each asks:
  --seed 0                 What does the published run show? A second or two.
  --n-seeds 10             More than luck? Intervals and a verdict.
  --n-seeds 200 --paired --out paired.json
                           And if nothing differs but the activation?
  --tasks 01 23 45 67 89   Over five small tasks?
  --permute --tasks 0123456789 0123456789
                           If the digits stay and their pixels move?
  --n-seeds 10 --paired --init-scale 0.2 --lr 0.01 --epochs 20
                           And from small initial weights? A minute.
  --preset paper           With all of MNIST, an output layer for each task,
                           and trained as far as in the paper?
  --joint                  What could be kept, with all tasks at once?

Then python3 visualize_compete_to_compute.py draws what --snapshots holds.
"""


# What --preset names. The paper does not tell its learning rate, momentum and initial weights; from
# these ours err as it says, see study/README.md.
PRESETS = {
    "paper": {
        "head": "frozen",
        "target_loss": 0.03,
        "epochs": 100,
        "train_per_class": 0,
        "test_per_task": 0,
        "hidden": 1000,
        "batch": 100,
        "lr": 0.01,
        "weight_decay": 0.0,
        "init_scale": 0.3,
        "paired": True,
    }
}


def spelled(changes: dict[str, Any]) -> str:
    """Fields of `Config` as on the command line."""
    return " ".join(flag(k) if v is True else f"{flag(k)} {v}" for k, v in changes.items())


@dataclass(frozen=True)
class SweepOptions:
    """What the command line says beside `Config`: nothing here changes the result of a run."""

    seed: int = option(0, "first seed, the headline", NOT_NEGATIVE)
    n_seeds: int = option(1, "how many seeds on end", POSITIVE_COUNT)
    activations: tuple[str, ...] = option(
        ("relu", "lwta"),
        f"the models to compare, of {', '.join(ACTIVATIONS)}; or your own, FILE.py:FUNCTION",
        nargs="+",
        metavar="MODEL",
    )
    jobs: int = option(available_cores(), "models trained side by side", POSITIVE_COUNT)
    data_dir: str | None = option(
        None,
        "folder of the four MNIST files (default: $MNIST_DIR, else fetched once and cached)",
        metavar="DIR",
    )
    out: Path = option("results.json", "results", type=Path, metavar="FILE")
    snapshots: Path = option("viz/snapshots.npz", "what the plots need", type=Path, metavar="FILE")
    dask: str | None = option(
        None,
        "train on the Dask cluster with this scheduler, for example tcp://host:8786",
        metavar="ADDRESS",
    )
    preset: str | None = option(
        None,
        f"paper: the paper's protocol from small initial weights, {spelled(PRESETS['paper'])}; "
        "what is given beside it wins; about two minutes a seed on two cores",
        choices=tuple(PRESETS),
    )
    resume: bool = option(
        False, "keep what the journal of an earlier run into --out has, train what is missing"
    )
    quiet: bool = option(False, "print errors only")


def add_options(group: Any, options: type[Config] | type[SweepOptions]) -> None:
    """Give a parser's group an option for each field."""
    for item in fields(options):
        keywords = dict(item.metadata["argparse"])
        description = item.metadata["help"]
        if isinstance(item.default, bool):
            keywords["action"] = "store_true"
        elif item.default is not None:
            words = " ".join(item.default) if isinstance(item.default, tuple) else item.default
            description += f" (default {words})"
            if not isinstance(item.default, tuple | str):
                keywords["type"] = type(item.default)
                keywords.setdefault("metavar", "X" if isinstance(item.default, float) else "N")
        group.add_argument(flag(item.name), default=item.default, help=description, **keywords)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; the exit status."""
    parser = OneLineParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser.add_argument_group("the run"), SweepOptions)
    add_options(parser.add_argument_group("the experiment"), Config)
    given = vars(parser.parse_args(arguments))
    if given["preset"]:
        parser.set_defaults(**PRESETS[given["preset"]])
        given = vars(parser.parse_args(arguments))
    if given["dask"] and __name__ == "__main__":
        # Again as a module of its own name, since what is sent to workers must be importable
        # there. This does not return.
        import compete_to_compute

        compete_to_compute.run_script(partial(compete_to_compute.main, arguments))
    refuse_unguarded()  # before it meets the lock of the sweep that started it
    options, config = (
        kind(**{item.name: given[item.name] for item in fields(kind)})
        for kind in (SweepOptions, Config)
    )
    config = replace(config, tasks=tuple(config.tasks))
    activations = [find_activation(name) for name in dict.fromkeys(options.activations)]
    check_limits(options)
    check_config(config, activations)
    require(options.seed + options.n_seeds <= 1 << 32, "--seed: seeds must be below 4294967296")
    require(
        os.path.realpath(options.out) != os.path.realpath(options.snapshots),
        f"--out and --snapshots are both {options.out}; give two names",
    )
    draw_images(config, options.seed, load_mnist(options.data_dir))  # refuses too many images now
    for path in (options.out, options.snapshots):
        check_writable(path)

    seeds = range(options.seed, options.seed + options.n_seeds)
    journal = Journal(options.out, config, activations) if len(seeds) > 1 else None
    with journal.held() if journal else nullcontext():
        results = run_sweep(config, activations, seeds, options, journal)
        write_or_stop(options.out, to_json(results))
    if not options.quiet:
        print_report(results)
        print(f"\nWrote {options.out} and {options.snapshots}.")
    return 0


EXIT_STATUS = {
    InputError: 2,
    ModuleNotFoundError: 2,
    Stopped: 1,
    MemoryError: 1,
    KeyboardInterrupt: 130,
}


class Output:
    """Standard output that may fail: the files are what counts, and are finished.

    Its reader may have gone (`| head -1`), which is no error, or its disk may be full.
    """

    def __init__(self, stream: Any) -> None:
        """Instead of a text stream."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write and flush, or from the first failure on drop what is written."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not isinstance(error, BrokenPipeError):
                print(f"standard output cannot be written ({error.strerror})", file=sys.stderr)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Anything else is the stream's."""
        return getattr(self.stream, name)


def run_script(script: Callable[[], int]) -> None:
    """Run a script's main function and exit with its status; what stops it is one line."""
    if sys.stdout is not None:  # a service may have none
        sys.stdout = Output(sys.stdout)
    try:
        sys.exit(script())
    except tuple(EXIT_STATUS) as error:
        message = str(error) or "stopped"
        if isinstance(error, MemoryError):
            message = "not enough memory; try a smaller --hidden or fewer --jobs"
        if isinstance(error, ModuleNotFoundError):
            message = f"{error.name} is missing: python3 -m pip install -r requirements.txt"
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        status = next(s for kind, s in EXIT_STATUS.items() if isinstance(error, kind))
        if status != 2:
            end_training(status)
        sys.exit(status)


def end_training(status: int) -> None:
    """End what is still being trained, so that the exit need not wait for it."""
    import multiprocessing

    for child in multiprocessing.active_children():
        child.terminate()
    threads = [t for t in threading.enumerate() if not t.daemon and t != threading.main_thread()]
    if any(thread.name.startswith("ThreadPoolExecutor") for thread in threads):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a thread cannot be ended, and Python would wait for it
    # The one that watches worker processes ends with them. Python would wait for it too, but wake
    # it first, which fails with a traceback if it is just then closing what wakes it.
    for thread in threads:
        thread.join()


def command() -> None:
    """The installed command `compete-to-compute`."""
    run_script(main)


if __name__ == "__main__":
    command()
