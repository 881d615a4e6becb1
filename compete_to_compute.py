#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "loky>=3.5",
#                 "cloudpickle>=3.0"]
# ///
"""Does a network whose hidden units compete forget less? The experiment, in plain numpy.

R. K. Srivastava, J. Masci, S. Kazerounian, F. Gomez and J. Schmidhuber, "Compete to Compute"
(NIPS 2013), argue that local winner-take-all (LWTA) units, of which only the strongest of each
small block speaks, protect what a network has learned while it learns something else. Here two
multilayer perceptrons that differ in the hidden activation learn the MNIST digits 0-4 (Task 1)
and then 5-9 (Task 2). They start from the same weights and see the same images, each in an order
of its own as in the published run, or both in the same order with --paired. *Forgetting* is the
test accuracy on Task 1 before Task 2 minus the same after it.

    python3 compete_to_compute.py --seed 0                 one seed, a second or two
    python3 compete_to_compute.py --seed 0 --n-seeds 20    twenty seeds, intervals, a verdict
    python3 compete_to_compute.py --n-seeds 10 --paired --init-scale 0.2 --lr 0.01 --epochs 20
                                                           from small weights, a minute

What they find (forgetting, mean over seeds; the last row was confirmed on 100 fresh seeds):

                              ReLU   LWTA   difference (95 % interval)
    seed 0                    .076   .022   one seed cannot tell
    twenty seeds              .048   .043   +.004 (-.017 to +.026), undecided
    small initial weights     .278   .162   +.116 (+.105 to +.127), LWTA forgets less

Read from top to bottom. Sections 1 to 5 are one run: its configuration, tasks, activations, network
and training. Sections 6 to 8 are many: what they show together, what is saved and printed, and the
command line. Around it stands the package `compete`: files, data sets, processes, inference.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

for _library in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):
    # BLAS reads this on loading; see `compete.runs.blas`, which serves where numpy came before us.
    os.environ[f"{_library}_THREADS"] = "1"

try:
    import numpy as np

    from compete.data import MNIST_SHA256, Mnist, data_id, load_mnist
    from compete.files import (
        InputError,
        Stopped,
        check_writable,
        one_line,
        require,
        run_script,
        to_json,
        without_nan,
        write_or_stop,
    )
    from compete.inference import METRICS, aggregate
    from compete.machine import available_cores, blas, environment
    from compete.options import (
        COUNT,
        NOT_NEGATIVE,
        POSITIVE,
        POSITIVE_COUNT,
        SHARE,
        OneLineParser,
        add_options,
        check_options,
        flag,
        option,
    )
    from compete.own import file_hash, function_hash, load_module
    from compete.report import print_report
    from compete.runs import Planned, Row, RunFile, finish
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    advice = "python3 -m pip install -r requirements.txt"
    if str(missing.name).partition(".")[0] == "compete":
        advice = "it lies beside this script; take the whole repository, and run without -I"
    print(f"{missing.name} is missing: {advice}", file=sys.stderr)
    sys.exit(2)

SCHEMA = 1  # of training: a change of what it computes has another number
DIGITS = 10
PIXELS = 784


class Diverged(Exception):
    """A loss or an accuracy is not finite; the message says which and where."""


# --- 1. Configuration ---------------------------------------------------------------------------


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


def check_config(config: Config) -> None:
    """Raise `InputError` for a configuration that cannot be trained, before anything is."""
    check_options(config)
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
    """A hidden activation: its function, its name in files and in print, the offset from the seed
    of its own stream of batches, and for one of a user's file the hash of its source."""

    name: str
    label: str
    function: Callable[[np.ndarray, np.ndarray, int], None]
    batch_stream: int
    source: str | None = None


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
        return f"{function} ({file.removesuffix('.py')})"
    return ACTIVATIONS[model].label if model in ACTIVATIONS else model


def find_activation(name: str) -> Activation:
    """An activation of this file, or FILE.py:FUNCTION of the user's own; else `InputError`.

    However its file is spelled, it is called by the file's last name alone.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    file, _, function_name = name.rpartition(":")
    there_are = f"there are {', '.join(ACTIVATIONS)} and FILE.py:FUNCTION"
    require(file.endswith(".py"), f"--activations {name}: {there_are}")
    function = getattr(load_module(file), function_name, None)
    require(callable(function), f"--activations {name}: that file has no such function")
    own_name = f"{Path(file).name}:{function_name}"
    return Activation(own_name, label(own_name), function, PAIRED_BATCH_STREAM, file_hash(file))


def find_activations(names: Iterable[str]) -> list[Activation]:
    """Each activation once; two of one name are told apart by the folders of their files."""
    found = {find_activation(name): name for name in names}
    count = Counter(activation.name for activation in found)
    activations = []
    for activation, given in found.items():
        if count[activation.name] > 1:
            folder = Path(given.rpartition(":")[0]).expanduser().resolve().parent.name
            name = f"{folder}/{activation.name}"
            activation = replace(activation, name=name, label=label(name))
        activations.append(activation)
    return activations


def check_models(config: Config, activations: Sequence[Activation]) -> None:
    """Raise `InputError` for models that cannot be trained at this configuration, or be told apart.

    What is not of this file must keep the contract.
    """
    check_config(config)
    names = [activation.name for activation in activations]
    require(len({*names}) == len(names), f"two models have one name: {', '.join(names)}")
    require(
        config.hidden % config.k == 0 or "lwta" not in names,
        f"--hidden {config.hidden} cannot be cut into blocks of --k {config.k}; choose a multiple",
    )
    for activation in activations:
        if activation != ACTIVATIONS.get(activation.name):
            check_activation(activation, config.hidden, config.k)


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
PICTURED = 100  # units of the first layer whose weights are saved


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
class Prepared:
    """A network and its tasks before training."""

    network: MLP
    tasks: list[Task]
    start: Sequence[np.ndarray]  # initial weights, (inputs, outputs) a layer
    used: np.ndarray  # bool (784,): the pixels that the network's inputs hold

    def first_weights(self) -> np.ndarray:
        """Weights of the `PICTURED` first units, float32 (784, units), as pictures show them.

        Those of pixels that no image has are as they were at the start.
        """
        weights = self.start[0].copy()
        weights[self.used] = self.network.weights[0][:, :-1].T
        return weights[:, :PICTURED]


def prepare(
    config: Config,
    activation: Activation,
    seed: int,
    mnist: Mnist,
    start: Sequence[np.ndarray] | None = None,
) -> Prepared:
    """What is drawn for one run; `start` takes the place of the seed's initial weights."""
    tasks, used = make_tasks(config, seed, mnist)
    start = initial_weights(config, seed) if start is None else start
    return Prepared(MLP([start[0][used], *start[1:]], activation, config.k), tasks, start, used)


Evaluation = tuple[Moment, list[float]]  # when, and the accuracy on each task
Follower = Callable[[MLP, Sequence[Task], Moment], None]


def train_and_test(
    network: MLP, tasks: Sequence[Task], config: Config, seed: int, follow: Follower | None = None
) -> tuple[list[Evaluation], np.ndarray, str | None]:
    """Train on all tasks in turn and test as the configuration says.

    `follow` is called at each `Moment`, before its test, and may measure or change the network.
    Returns the tests; `active`, float32 (checkpoints, layers, tasks, units), see `evaluate`; and
    how the run diverged. One that did ends there, with its tests until then and no `active`.
    """
    phases = [join_tasks(tasks)] if config.joint else tasks
    active = np.zeros((len(phases) + 1, config.depth, len(tasks), config.hidden), np.float32)
    tests: list[Evaluation] = []
    every = config.evaluate_every
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            for now in train_phases(network, phases, config, seed):
                if follow:
                    follow(network, tasks, now)
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


@dataclass
class Run:
    """What training one model on all tasks left behind."""

    record: dict[str, Any]  # a row of `per_seed` in results.json
    tests: list[dict[str, Any]]  # in their order; those of epochs are `schedule` in results.json
    snapshot: dict[str, np.ndarray]  # arrays of snapshots.npz, by their name without the model
    seconds: float  # training and evaluation


def train_model(
    config: Config,
    activation: Activation,
    seed: int,
    mnist: Mnist,
    start: Sequence[np.ndarray] | None = None,
    follow: Follower | None = None,
) -> Run:
    """Train one model on all tasks in turn, from the initial weights of the seed or from `start`.

    Independent and deterministic: for one numpy and one BLAS kernel its bits depend on nothing
    but the arguments; section 2 lists the random streams. A run that diverged has that as status.
    """
    blas()  # with one thread
    prepared = prepare(config, activation, seed, mnist, start)
    began = time.perf_counter()
    tests, active, failure = train_and_test(prepared.network, prepared.tasks, config, seed, follow)
    seconds = time.perf_counter() - began
    return Run(
        record=run_record(config, activation, seed, tests, failure, prepared.tasks),
        tests=[
            {
                "task": now.task if now.update else 0,
                "epoch": now.epoch,
                "update": now.update,
                "train_loss": now.train_loss,
                "train_accuracy": now.train_accuracy,
                "test_accuracy": accuracy,
            }
            for now, accuracy in tests
        ],
        snapshot={
            "W1": prepared.first_weights(),
            "W1_init": prepared.start[0][:, :PICTURED],
            "active": active,
        },
        seconds=seconds,
    )


def run_record(
    config: Config,
    activation: Activation,
    seed: int,
    tests: Sequence[Evaluation],
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


# --- 6. Many runs -------------------------------------------------------------------------------


def identity(
    config: Config, activation: Activation, seed: int, besides: dict[str, Any] | None = None
) -> Row:
    """All that the result of a run depends on, numpy and its BLAS apart.

    `besides` says what no configuration can: what somebody does while a network trains.
    """
    return {
        "schema": SCHEMA,
        "data": data_id(),
        "changes": changes(config),
        "besides": besides,
        "model": activation.name,
        "source": activation.source or function_hash(activation.function),
        "seed": seed,
    }


def train_row(
    config: Config, activation: Activation, seed: int, data_dir: str | None, has_snapshot: bool
) -> Row:
    """`train_model` in any process: what a run's row has beside its identity."""
    run = train_model(config, activation, seed, load_mnist(data_dir))
    row = {**run.record, "seconds": run.seconds, "tests": run.tests}
    return {**row, "snapshot": run.snapshot} if has_snapshot else row


def plan(
    config: Config,
    activations: Sequence[Activation],
    seeds: Sequence[int],
    data_dir: str | None,
    headline: int | None = None,
) -> list[Planned]:
    """Every model at every seed; the headline's rows have snapshots."""
    return [
        Planned(
            identity(config, activation, seed),
            (config, activation, seed, data_dir, seed == headline),
            has_snapshot=seed == headline,
        )
        for seed in seeds
        for activation in activations
    ]


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
    which is checked first. Nothing is written. Raises `InputError`, `Stopped` and, when
    interrupted, `KeyboardInterrupt`.
    """
    activations = [as_activation(model) for model in models]
    check_models(config, activations)
    planned = plan(config, activations, list(seeds), data_dir)
    rows = finish(train_row, planned, jobs=jobs)
    names = [activation.name for activation in activations]
    return {"per_seed": per_seed(rows), "aggregate": aggregate(rows, names, chance(config), label)}


def as_activation(model: Model) -> Activation:
    """The activation of a name or of a function."""
    if isinstance(model, str):
        return find_activation(model)
    if isinstance(model, Activation):
        return model
    name = getattr(model, "__name__", type(model).__name__)
    return Activation(name, name, model, PAIRED_BATCH_STREAM)


def per_seed(rows: Iterable[Row]) -> list[Row]:
    """`per_seed` of results.json: the rows without what stands elsewhere in that file."""
    elsewhere = {"schema", "data", "besides", "seconds", "tests", "snapshot"}
    return [{name: row[name] for name in row if name not in elsewhere} for row in rows]


# --- 7. What is saved ---------------------------------------------------------------------------


def sweep_results(
    config: Config, activations: Sequence[Activation], rows: Sequence[Row], wallclock: float
) -> dict[str, Any]:
    """The contents of results.json; the headline's rows come first, `wallclock` is all training."""
    models = [activation.name for activation in activations]
    headline = rows[: len(models)]
    return {
        "schema": SCHEMA,
        "config": asdict(config),
        "activations": {
            activation.name: {"label": activation.label, "source": row["source"]}
            for activation, row in zip(activations, headline, strict=True)
        },
        "environment": {**environment(Path(__file__)), "mnist_sha256": MNIST_SHA256},
        "headline": {
            "seed": headline[0]["seed"],
            "wallclock_s": wallclock,
            "seconds": {row["model"]: row["seconds"] for row in headline},
            "summary": {row["model"]: headline_summary(row) for row in headline},
        },
        "schedule": [
            {"model": row["model"], **test}
            for row in headline
            for test in row["tests"]
            if math.isfinite(test["train_loss"])
        ],
        "per_seed": per_seed(rows),
        "aggregate": aggregate(rows, models, chance(config), label),
    }


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


def snapshot_file(config: Config, models: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The contents of snapshots.npz: arrays only, most named `<what>_<model>`.

    Of the headline, the first seed: `W1`, `active`, and `status`, its run's. And `curve_<model>`,
    float32 (seeds, tests, 2 + tasks), the headline's first, then those of all other runs that are
    ok: each test's update, task and accuracies, nan behind the last of a run with fewer.
    """
    arrays = {
        "config": np.array(json.dumps(asdict(config))),
        "seed": np.array(rows[0]["seed"]),
        "models": np.array(models),
        "W1_init": rows[0]["snapshot"]["W1_init"],
    }
    for model in models:
        headline, *others = (row for row in rows if row["model"] == model)
        arrays |= {f"{name}_{model}": headline["snapshot"][name] for name in ("W1", "active")}
        arrays[f"status_{model}"] = np.array(headline["status"])
        shown = [
            row["tests"] for row in (headline, *others) if row is headline or row["status"] == "ok"
        ]
        curves = np.full((len(shown), max(map(len, shown)), 2 + len(config.tasks)), np.nan)
        for place, tests in zip(curves, shown, strict=True):
            place[: len(tests)] = [[t["update"], t["task"], *t["test_accuracy"]] for t in tests]
        arrays[f"curve_{model}"] = curves.astype(np.float32)
    buffer = io.BytesIO()
    # Not compressed: random weights hardly shrink.
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# --- 8. Command line ----------------------------------------------------------------------------

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
    options, config = (
        kind(**{item.name: given[item.name] for item in fields(kind)})
        for kind in (SweepOptions, Config)
    )
    config = replace(config, tasks=tuple(config.tasks))
    check_options(options)
    check_config(config)
    activations = find_activations(options.activations)
    check_models(config, activations)
    require(options.seed + options.n_seeds <= 1 << 32, "--seed: seeds must be below 4294967296")
    require(
        options.n_seeds > 1 or not options.resume,
        "--resume goes on with a sweep of several seeds; give its --n-seeds too",
    )
    require(
        os.path.realpath(options.out) != os.path.realpath(options.snapshots),
        f"--out and --snapshots are both {options.out}; give two names",
    )
    draw_images(config, options.seed, load_mnist(options.data_dir))  # refuses too many images now
    for path in (options.out, options.snapshots):
        check_writable(path)

    results = run_sweep(config, activations, options)
    if not options.quiet:
        print_report(results)
        print(f"\nWrote {options.out} and {options.snapshots}.")
    return 0


def run_sweep(
    config: Config, activations: Sequence[Activation], options: SweepOptions
) -> dict[str, Any]:
    """Train what is asked for and write what it gave; the contents of results.json.

    Several seeds have a file of finished runs, so that they can be resumed. A single run that
    diverged raises `Stopped`: a sweep counts it instead.
    """
    seeds = range(options.seed, options.seed + options.n_seeds)
    file = RunFile(options.out.with_name(options.out.name + ".journal")) if seeds[1:] else None
    folder = options.data_dir and os.path.expanduser(options.data_dir)
    data_dir = folder and os.path.abspath(folder)  # the same for all workers
    began = time.perf_counter()
    rows = finish(
        train_row,
        plan(config, activations, seeds, data_dir, headline=options.seed),
        file,
        options.jobs,
        options.dask,
        finished=file.rows() if file and options.resume else (),
        quiet=options.quiet,
    )
    wallclock = time.perf_counter() - began
    for row in () if file else rows:
        if row["status"] == "diverged":
            where = f"{label(row['model'])}, seed {row['seed']}"
            raise Stopped(f"{where}: {row['failure']}; try a lower --lr; nothing is written")
    results = sweep_results(config, activations, rows, wallclock)
    models = [activation.name for activation in activations]
    write_or_stop(options.snapshots, snapshot_file(config, models, rows))
    write_or_stop(options.out, to_json(results))
    return results


def command() -> None:
    """The installed command `compete-to-compute`."""
    run_script(main)


if __name__ == "__main__":
    command()
