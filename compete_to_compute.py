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

Read from top to bottom, this file is the experiment: configuration, MNIST, tasks, activations,
network, sequential training, statistics of forgetting, seeds, outputs, command line.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

NUMPY_CAME_FIRST = "numpy" in sys.modules
for _library in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):
    # Models side by side with one BLAS thread each beat BLAS threads. BLAS reads this on loading.
    os.environ.setdefault(f"{_library}_THREADS", "1")

import numpy as np  # noqa: E402

SCHEMA = 1
DIGITS = 10
PIXELS = 784


class InputError(Exception):
    """Something the user gave cannot be used; the message says what is wrong and what to do."""


class Diverged(Exception):
    """A loss or an accuracy is not finite; the message says which and where."""


# --- 1. Configuration ---------------------------------------------------------------------------


def option(default: Any, description: str, **argparse_keywords: Any) -> Any:
    """A `Config` field with its default, its one line of help, and what argparse needs for it."""
    return field(default=default, metadata={"help": description, "argparse": argparse_keywords})


@dataclass(frozen=True)
class Config:
    """Everything that changes the result of one unit of work, seed and activation apart.

    The command line, `results.json` and the tables derive from these fields.
    """

    tasks: tuple[str, ...] = option(
        ("01234", "56789"), "digits of each task, in training order", nargs="+", metavar="DIGITS"
    )
    hidden: int = option(400, "units in each hidden layer")
    depth: int = option(2, "hidden layers")
    k: int = option(2, "units in an LWTA block, of which one wins")
    train_per_class: int = option(500, "training images per digit, 0 = all")
    test_per_task: int = option(1000, "test images per task, 0 = all")
    epochs: int = option(5, "epochs per task")
    target_loss: float | None = option(
        None,
        "end a task once an epoch's mean training loss is at or below this",
        type=float,
        metavar="X",
    )
    batch: int = option(64, "images per update")
    lr: float = option(0.05, "learning rate")
    momentum: float = option(0.9, "momentum, carried over the task switch, but for --head frozen")
    weight_decay: float = option(1e-4, "weight decay, not on biases")
    dropout: float = option(0.0, "chance that a hidden unit is dropped while training")
    input_dropout: float = option(0.0, "chance that a pixel is dropped while training")
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
    paired: bool = option(False, "every activation sees the same batches, not only the same images")
    evaluate_every: int = option(0, "also test after every N updates, 0 = after each epoch only")
    restart_momentum: bool = option(False, "start each task with no momentum")
    init_scale: float = option(1.0, "factor on the initial weights")
    joint: bool = option(False, "all tasks at once: the ceiling for sequential training")


def check_config(config: Config, activations: Sequence[Activation]) -> None:
    """Raise `InputError` for a configuration that cannot be trained, before anything is."""

    def require(condition: bool, message: str) -> None:
        if not condition:
            raise InputError(message)

    for digits in config.tasks:
        unknown = sorted(set(digits) - set("0123456789"))
        require(not unknown, f"--tasks {digits!r}: {''.join(unknown)!r} is not a digit; use 0 to 9")
        require(
            len(set(digits)) == len(digits), f"--tasks {digits!r}: a digit stands twice in one task"
        )
        require(len(digits) >= 2, f"--tasks {digits!r}: a task needs at least two digits")
    shared = [d for d in "0123456789" if sum(d in digits for digits in config.tasks) > 1]
    require(
        config.permute or not shared,
        f"--tasks: digit {', '.join(shared)} is in two tasks; that needs --permute",
    )
    for name, least in (
        *(("hidden", 1), ("depth", 1), ("k", 1), ("epochs", 1), ("batch", 1)),
        *(("train_per_class", 0), ("test_per_task", 0), ("evaluate_every", 0)),
    ):
        require(
            getattr(config, name) >= least,
            f"{flag(name)} must be {least} or more, not {getattr(config, name)}",
        )
    for name in ("dropout", "input_dropout", "momentum"):
        require(
            0 <= getattr(config, name) < 1,
            f"{flag(name)} must be at least 0 and below 1, not {getattr(config, name)}",
        )
    for name in ("lr", "init_scale", "target_loss"):
        value = getattr(config, name)
        require(
            value is None or (value > 0 and math.isfinite(value)),
            f"{flag(name)} must be above 0, not {value}",
        )
    require(
        config.weight_decay >= 0 and math.isfinite(config.weight_decay),
        f"--weight-decay must be 0 or more, not {config.weight_decay}",
    )
    require(
        config.hidden % config.k == 0 or all(a.name != "lwta" for a in activations),
        f"--hidden {config.hidden} cannot be cut into blocks of --k {config.k}; choose a multiple",
    )


def flag(name: str) -> str:
    """The command-line spelling of a `Config` field."""
    return "--" + name.replace("_", "-")


# --- 2. MNIST -----------------------------------------------------------------------------------

# SHA-256 of the decoded IDX files, whatever source they came from.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IDX_HEADERS = {  # magic number, then the sizes, big-endian
    "train-images-idx3-ubyte": (2051, 60000, 28, 28),
    "train-labels-idx1-ubyte": (2049, 60000),
    "t10k-images-idx3-ubyte": (2051, 10000, 28, 28),
    "t10k-labels-idx1-ubyte": (2049, 10000),
}


@dataclass(frozen=True)
class Mnist:
    """The data set: images uint8 (n, 784), labels uint8 (n,), in file order."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@cache
def load_mnist(data_dir: str | None = None) -> Mnist:
    """MNIST as read-only arrays, mapped from verified files, so that only drawn images are read.

    Looks in `data_dir`, then in $MNIST_DIR, then in the cache, which `fetch_mnist.py` fills when it
    is empty or damaged. A folder that was named but cannot be used is an `InputError`.
    """
    named = os.environ.get("MNIST_DIR") or None if data_dir is None else data_dir
    if named is not None:
        arrays = [read_named_file(Path(os.path.expanduser(named)), name) for name in MNIST_SHA256]
    else:
        directory = cache_directory()
        if not cache_is_sound(directory):
            import fetch_mnist  # only on a miss: a warm run needs no network code

            try:
                fetch_mnist.fetch(directory)
            except fetch_mnist.FetchError as error:
                raise InputError(str(error)) from None
            record_verified(directory)
        arrays = [map_idx(directory / name) for name in MNIST_SHA256]
    train_images, train_labels, test_images, test_labels = arrays
    return Mnist(
        train_images.reshape(-1, PIXELS), train_labels, test_images.reshape(-1, PIXELS), test_labels
    )


def cache_directory() -> Path:
    """Where the verified files are kept: the platform's own cache folder."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "compete-to-compute" / "mnist"


def read_named_file(directory: Path, name: str) -> np.ndarray:
    """One file of a folder the user named: raw or .gz, there or in MNIST/raw below it."""
    folders = (directory, directory / "MNIST" / "raw")
    candidates = [folder / file for folder in folders for file in (name, name + ".gz")]
    try:
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        content = path.read_bytes() if path else b""
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror})") from None
    if path is None:
        raise InputError(
            f"{directory}: no {name} or {name}.gz there; give the folder of the MNIST files"
        )
    zipped = path.suffix == ".gz"
    if zipped:
        import gzip
        import zlib

        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged ({error}); replace it") from None
    if sha256(content) != MNIST_SHA256[name]:
        raise InputError(f"{path}: not the MNIST file of that name (SHA-256 differs); replace it")
    if not zipped:
        return map_idx(path)
    sizes = IDX_HEADERS[name][1:]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def map_idx(path: Path) -> np.ndarray:
    """A verified IDX file as a read-only uint8 array, read page by page as it is used."""
    sizes = IDX_HEADERS[path.name][1:]
    return np.memmap(path, np.uint8, mode="r", offset=4 + 4 * len(sizes), shape=sizes)


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    import hashlib  # 15 ms, and a warm run never hashes

    return hashlib.sha256(content).hexdigest()


def cache_is_sound(directory: Path) -> bool:
    """True if all four cached files are MNIST.

    Hashing 55 MB takes 60 ms or more, so it is done only where a file's size or time of change
    differs from what was recorded when it was last hashed; otherwise the header is compared.
    """
    try:
        recorded = dict(json.loads((directory / "verified.json").read_text()))
    except (OSError, ValueError, TypeError):
        recorded = {}
    unchanged = True
    for name, expected in MNIST_SHA256.items():
        path = directory / name
        try:
            if recorded.get(name) == file_stamp(path):
                header = IDX_HEADERS[name]
                with path.open("rb") as file:
                    if file.read(4 * len(header)) != idx_header(name):
                        return False
            elif sha256(path.read_bytes()) == expected:
                unchanged = False
            else:
                return False
        except OSError:
            return False
    if not unchanged:
        record_verified(directory)
    return True


def idx_header(name: str) -> bytes:
    """The first bytes of an IDX file."""
    return b"".join(value.to_bytes(4, "big") for value in IDX_HEADERS[name])


def file_stamp(path: Path) -> list[int]:
    """Size in bytes and time of last change in nanoseconds."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def record_verified(directory: Path) -> None:
    """Note size and time of the four files, whose contents were just verified."""
    stamps = {name: file_stamp(directory / name) for name in MNIST_SHA256}
    with suppress(OSError):  # a read-only cache is hashed at each start instead
        write_atomically(directory / "verified.json", json.dumps(stamps).encode())


# --- 3. Tasks -----------------------------------------------------------------------------------

# Every random number of a run comes from one of these generators, each for one thing alone:
#   images          default_rng(seed)                      the published run's
#   initial weights default_rng(seed + WEIGHT_STREAM)      the published run's
#   batches         default_rng(seed + batch stream)       the published run's, see `ACTIVATIONS`
#   the others      default_rng([seed, stream])            so that an option changes no other draw
# As published, the streams of different seeds overlap: a seed's weights are drawn by the generator
# that draws the next seed's images, and LWTA's batches by that of ReLU's, 100 seeds on.
WEIGHT_STREAM = 1
PIXEL_ORDER_STREAM = 1
DROPOUT_STREAM = 2
INPUT_DROPOUT_STREAM = 3


@dataclass
class Task:
    """One task, ready for the network.

    Inputs are float32 (n, pixels + 1): the live pixels as value / 255, then a one for the bias.
    Labels are positions in `classes`, the output rows that the task's softmax sees.
    """

    classes: np.ndarray
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray
    held: np.ndarray  # output rows that stand still while the task trains
    train_mask: np.ndarray | None = None  # (classes, n) of 0 or -inf; joint training only


def draw_images(config: Config, seed: int, labels: np.ndarray, test_labels: np.ndarray) -> list:
    """Each task's training and test images, as positions in the files: [(train, test), ...].

    The order of the draws is the published run's: all training draws first, task by task and
    digit by digit, then the test draws.
    """
    rng = np.random.default_rng(seed)
    training = []
    for digits in config.tasks:
        chosen = []
        for digit in sorted(digits):
            positions = np.flatnonzero(labels == int(digit))
            if config.train_per_class > len(positions):
                raise InputError(
                    f"--train-per-class {config.train_per_class}: MNIST has only {len(positions)} "
                    f"training images of digit {digit}; choose fewer, or 0 for all"
                )
            if config.train_per_class:
                positions = rng.choice(positions, config.train_per_class, replace=False)
            chosen.append(positions)
        order = np.concatenate(chosen)
        rng.shuffle(order)
        training.append(order)
    testing = []
    for digits in config.tasks:
        positions = np.flatnonzero(np.isin(test_labels, [int(d) for d in digits]))
        if 0 < config.test_per_task < len(positions):
            positions = positions[rng.permutation(len(positions))[: config.test_per_task]]
        testing.append(positions)
    return list(zip(training, testing, strict=True))


def make_tasks(config: Config, seed: int, mnist: Mnist) -> tuple[list[Task], np.ndarray]:
    """The tasks of one seed, and which of the 784 pixels their inputs hold.

    A pixel that is zero in every chosen image cannot reach any output, so it is left out: 784
    pixels become about 666, and the products with the first layer 15 % smaller.
    """
    pixel_orders = np.random.default_rng([seed, PIXEL_ORDER_STREAM])
    images = []
    draws = draw_images(config, seed, mnist.train_labels, mnist.test_labels)
    for number, (train, test) in enumerate(draws):
        pair = [mnist.train_images[train], mnist.test_images[test]]
        if config.permute and number > 0:
            order = pixel_orders.permutation(PIXELS)
            pair = [pixels[:, order] for pixels in pair]
        images.append(pair)
    live = np.any([pixels.max(axis=0) for pair in images for pixels in pair], axis=0)
    tasks = []
    for digits, (train, test), (train_pixels, test_pixels) in zip(
        config.tasks, draws, images, strict=True
    ):
        rows = np.arange(DIGITS)
        classes = rows if config.head == "single" else np.array(sorted(map(int, digits)))
        tasks.append(
            Task(
                classes,
                with_bias(train_pixels[:, live]),
                np.searchsorted(classes, mnist.train_labels[train]),
                with_bias(test_pixels[:, live]),
                np.searchsorted(classes, mnist.test_labels[test]),
                held=np.setdiff1d(rows, classes) if config.head == "frozen" else rows[:0],
            )
        )
    return tasks, live


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
    masks = [
        np.repeat(np.where(np.isin(classes, task.classes), 0, -np.inf)[:, None], len(own), axis=1)
        for task, own in zip(tasks, labels, strict=True)
    ]
    return Task(
        classes=classes,
        train_inputs=np.concatenate([task.train_inputs for task in tasks]),
        train_labels=np.concatenate(labels),
        test_inputs=np.empty(0),
        test_labels=np.empty(0),
        held=np.setdiff1d(tasks[0].held, classes),
        train_mask=np.concatenate(masks, axis=1).astype(np.float32),
    )


# --- 4. Activations -----------------------------------------------------------------------------
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


# --- 5. Network ---------------------------------------------------------------------------------


# Parameters updated at a time: with their velocity and gradient 3 MB, so that a large network's
# five passes read memory once.
UPDATE_CHUNK = 1 << 18


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
    is one product. Parameters, gradient and velocity are one flat vector
    each, `weights[layer]` and `gradients[layer]` are views of it.
    """

    def __init__(
        self, initial: Sequence[np.ndarray], activation: Activation, k: int, dtype: Any = np.float32
    ) -> None:
        """Start from `initial` weights, one (inputs, outputs) array a layer; biases are zero."""
        shapes = [(outputs, inputs + 1) for inputs, outputs in (w.shape for w in initial)]
        # One parameter more that no image reaches: decay alone changes it, from 1. It tells what
        # became of the weights of the pixels that were left out.
        size = sum(rows * columns for rows, columns in shapes) + 1
        self.parameters, self.gradient, self.velocity = np.zeros((3, size), dtype)
        self.weights = layer_views(self.parameters, shapes)
        self.gradients = layer_views(self.gradient, shapes)
        for weights, start in zip(self.weights, initial, strict=True):
            weights[:, :-1] = start.T
        self.parameters[-1] = 1
        self.activation, self.k, self.dtype = activation, k, dtype
        self.workspaces: dict[int, Workspace] = {}

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

        `drop` changes each hidden layer's activations and returns the factors (dropout).

        Only the output rows in `classes` are computed: the mask of the inactive tasks' classes.
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

        Output rows outside `classes` have gradient zero.
        """
        work = self.workspace(len(inputs))
        signals = [inputs.T, *work.hidden]
        self.gradients[-1][:] = 0
        self.gradient[-1] = 0
        self.gradients[-1][classes] = delta @ signals[-1].T
        following = self.weights[-1][classes]
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
            gradients[:, -1] -= decay * weights[:, -1]  # what the decay takes below is given back
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
    return [
        flat[end - rows * columns : end].reshape(rows, columns)
        for end, (rows, columns) in zip(ends, shapes, strict=True)
    ]


def initial_weights(config: Config, seed: int) -> list[np.ndarray]:
    """He-normal weights, float32 (inputs, outputs) a layer, the same for every activation."""
    rng = np.random.default_rng(seed + WEIGHT_STREAM)
    sizes = [PIXELS, *[config.hidden] * config.depth, DIGITS]
    return [
        (rng.standard_normal((n_in, n_out)) * math.sqrt(2 / n_in) * config.init_scale).astype(
            np.float32
        )
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


# --- 6. Sequential training ---------------------------------------------------------------------

TEST_BATCH = 500  # images evaluated at once


@dataclass
class Evaluation:
    """One test of the network: after which task, epoch and update, and what it showed.

    The training figures, means over the epoch before each update, are nan within an epoch.
    """

    task: int
    epoch: int
    update: int
    train_loss: float
    train_accuracy: float
    test_accuracy: list[float]


@dataclass
class History:
    """What one run has shown so far. A checkpoint is before training and after each task."""

    active: np.ndarray  # (checkpoints, layers, tasks, units), see `evaluate`
    evaluations: list[Evaluation] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)  # (checkpoints, tasks) accuracies
    epochs: list[int] = field(default_factory=list)  # used by each task
    reached: list[bool] = field(default_factory=list)  # each task's target loss, if there is one


@dataclass
class Run:
    """What training one model on all tasks left behind."""

    record: dict[str, Any]  # a row of `per_seed` in results.json
    schedule: list[dict[str, Any]]  # rows of `schedule`
    snapshot: dict[str, np.ndarray]  # arrays of snapshots.npz, by their name without the model
    seconds: float  # training and evaluation


def train_model(config: Config, activation: Activation, seed: int, mnist: Mnist) -> Run:
    """Train one model on all tasks in turn: the unit of work.

    Independent and deterministic: for one numpy and one BLAS kernel its bits depend on nothing
    but the arguments; section 3 lists the random streams. A run that diverges ends there, and its
    status says so.
    """
    limit_blas_threads()
    tasks, live = make_tasks(config, seed, mnist)
    phases = [join_tasks(tasks)] if config.joint else tasks
    start = initial_weights(config, seed)
    network = MLP([start[0][live], *start[1:]], activation, config.k)
    history = History(np.zeros((len(phases) + 1, config.depth, len(tasks), config.hidden), "f4"))

    failure = None
    began = time.perf_counter()
    try:
        train_phases(network, phases, tasks, config, seed, history)
    except Diverged as error:
        failure = str(error)
    seconds = time.perf_counter() - began

    final = np.empty_like(start[0])
    final[live] = network.weights[0][:, :-1].T
    final[~live] = start[0][~live] * network.parameters[-1]
    shown = history.evaluations
    return Run(
        record=unit_record(config, activation, seed, history, failure, tasks),
        schedule=[
            {"model": activation.name, **asdict(e)} for e in shown if math.isfinite(e.train_loss)
        ],
        snapshot={
            "accuracy": np.array([e.test_accuracy for e in shown]),
            "task": np.array([e.task for e in shown]),
            "update": np.array([e.update for e in shown]),
            "train_loss": np.array([e.train_loss for e in shown]),
            "W1": final[:, :100],
            "W1_init": start[0][:, :100],
            "active": history.active,
        },
        seconds=seconds,
    )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # `Diverged` says it better
def train_phases(
    network: MLP,
    phases: Sequence[Task],
    tasks: Sequence[Task],
    config: Config,
    seed: int,
    history: History,
) -> None:
    """Train on each phase in turn (a task, or all tasks joined), testing on every task.

    Fills `history`; raises `Diverged`.
    """
    stream = PAIRED_BATCH_STREAM if config.paired else network.activation.batch_stream
    batches = np.random.default_rng(seed + stream)
    dropout = [np.random.default_rng([seed, s]) for s in (DROPOUT_STREAM, INPUT_DROPOUT_STREAM)]
    update = 0
    accuracies = evaluate(network, tasks, history.active[0])
    history.evaluations.append(Evaluation(0, 0, 0, math.nan, math.nan, accuracies))
    history.matrix.append(accuracies)

    for number, phase in enumerate(phases, start=1):
        # An output layer for each task is a task begun anew: the step carries nothing over.
        if config.head == "frozen" or config.restart_momentum:
            network.velocity[:] = 0
        for epoch in range(1, config.epochs + 1):
            order = batches.permutation(len(phase.train_labels))
            logits = np.empty((len(phase.classes), len(order)), network.dtype)
            for first in range(0, len(order), config.batch):
                batch = slice(first, first + config.batch)
                logits[:, batch] = train_batch(network, phase, order[batch], config, dropout)
                update += 1
                if config.evaluate_every and update % config.evaluate_every == 0:
                    within = Evaluation(number, epoch, update, math.nan, math.nan, [])
                    within.test_accuracy = evaluate(network, tasks)
                    history.evaluations.append(within)

            loss, accuracy = loss_and_accuracy(logits, phase.train_labels[order])
            check_finite([loss], "training loss", number, epoch)
            reached = config.target_loss is not None and loss <= config.target_loss
            last = reached or epoch == config.epochs
            accuracies = evaluate(network, tasks, history.active[number] if last else None)
            check_finite(accuracies, "test accuracy", number, epoch)
            if history.evaluations[-1].update == update:  # the epoch's end says more
                history.evaluations.pop()
            history.evaluations.append(
                Evaluation(number, epoch, update, loss, accuracy, accuracies)
            )
            if last:
                break
        history.matrix.append(accuracies)
        history.epochs.append(epoch)
        history.reached.append(reached)


def train_batch(
    network: MLP,
    task: Task,
    batch: np.ndarray,
    config: Config,
    dropout: Sequence[np.random.Generator],
) -> np.ndarray:
    """One update from the images at the positions `batch`; the logits before it."""
    hidden_dropout, input_dropout = dropout
    inputs = network.workspace(len(batch)).inputs
    # mode="clip" spares the check of every index: 6 us instead of 15.
    np.take(task.train_inputs, batch, axis=0, out=inputs, mode="clip")
    drop = None
    if config.input_dropout:
        drop_units(inputs[:, :-1], config.input_dropout, input_dropout)
    if config.dropout:
        drop = partial(drop_units, rate=config.dropout, rng=hidden_dropout)
    logits = network.forward(inputs, task.classes, drop)
    if task.train_mask is not None:
        logits += task.train_mask[:, batch]

    # The learning rate enters here, on a few numbers, and not on every parameter's gradient.
    delta = cross_entropy_gradient(logits, task.train_labels[batch])
    delta *= network.dtype(config.lr)
    network.backward(inputs, task.classes, delta)
    held = network.weights[-1][task.held]
    network.update(config.momentum, config.lr * config.weight_decay)
    network.weights[-1][task.held] = held
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
    pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
    pool = pools[0] if pools else {"internal_api": "unknown", "num_threads": None}
    return {
        "blas": f"{pool['internal_api']} {pool.get('version')}",
        "blas_kernel": pool.get("architecture"),
        "blas_threads": pool["num_threads"],
    }


METRICS = ("forgetting", "average_accuracy", "backward_transfer", "forward_transfer")
STATUSES = ("ok", "diverged", "untrained")


def unit_record(
    config: Config,
    activation: Activation,
    seed: int,
    history: History,
    failure: str | None,
    tasks: Sequence[Task],
) -> dict[str, Any]:
    """The row of one run in `per_seed`. `failure` says how it diverged, if it did."""
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    status = "diverged" if failure else "ok"
    if not failure:
        matrix = np.array(history.matrix)
        metrics["average_accuracy"] = float(matrix[-1].mean())
        metrics.update(sequential_metrics(matrix))
        for j, task in enumerate(tasks):
            learned = matrix[1 if config.joint else j + 1, j]
            if learned < (1 + 1 / len(task.classes)) / 2:  # halfway from chance to 1
                status = "untrained"
                failure = f"accuracy on task {j + 1} right after training on it is {learned:.3f}"
                break
    return {
        "seed": seed,
        "model": activation.name,
        "accuracy_matrix": history.matrix,
        "epochs": history.epochs,
        "target_reached": history.reached if config.target_loss is not None else None,
        **metrics,
        "status": status,
        "failure": failure,
        "blas_kernel": blas()["blas_kernel"],
    }


def sequential_metrics(matrix: np.ndarray) -> dict[str, float | None]:
    """Forgetting and transfer from R, (tasks + 1, tasks): R[i][j] is accuracy on j after i.

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


# --- 7. Statistics of forgetting ----------------------------------------------------------------


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """n, mean, median, interquartile mean, standard deviation (n - 1), 95 % interval of the mean.

    The interval is Student's t. Missing values are left out; what too few values cannot give is
    None. The interquartile mean drops floor(n / 4) values at each end (Agarwal et al. 2021).
    """
    present = np.sort(np.array([v for v in values if v is not None], float))
    n = len(present)
    summary: dict[str, Any] = {"n": n, **dict.fromkeys(("mean", "median", "iqm", "std", "ci95"))}
    if n:
        summary["mean"] = float(present.mean())
        summary["median"] = float(present[(n - 1) // 2 : n // 2 + 1].mean())
        summary["iqm"] = float(present[n // 4 : n - n // 4].mean())
    if n > 1:
        summary["std"] = float(present.std(ddof=1))
        half = student_t_quantile(0.975, n - 1) * summary["std"] / math.sqrt(n)
        summary["ci95"] = [summary["mean"] - half, summary["mean"] + half]
    return summary


def compare(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Paired comparison of two activations' forgetting, seed by seed.

    The difference is first minus second: above zero where the second forgets less, which is a win.
    `smallest_detectable` is the true mean difference that the two-sided 5 % t-test would have
    found with 80 % power, if the spread is the observed one: (t_.975 + t_.8) s / sqrt(n), with
    n - 1 degrees of freedom. That is an approximation, good to 1 % of power from 5 pairs on.
    """
    # Accuracies are multiples of 1 / test images; a difference below 1e-9 is rounding, so a tie.
    difference = [round(a - b, 9) for a, b in zip(first, second, strict=True)]
    wins = sum(d > 0 for d in difference)
    losses = sum(d < 0 for d in difference)
    summary = summarise(difference)
    detectable = None
    if summary["n"] > 1:
        quantiles = sum(student_t_quantile(p, summary["n"] - 1) for p in (0.975, 0.8))
        detectable = quantiles * summary["std"] / math.sqrt(summary["n"])
    return {
        "difference": summary,
        "wins": wins,
        "losses": losses,
        "ties": len(difference) - wins - losses,
        "sign_test_p": sign_test(wins, losses),
        "smallest_detectable": detectable,
    }


def sign_test(wins: int, losses: int) -> float:
    """Exact two-sided sign test: p of a split at least as uneven, if both are equally likely."""
    n = wins + losses
    tail = sum(math.comb(n, i) for i in range(min(wins, losses) + 1))
    return float(min(1.0, 2 * tail / 2**n))


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


def aggregate(records: Sequence[dict[str, Any]], models: Sequence[str]) -> dict[str, Any]:
    """`aggregate` of results.json from rows of `per_seed`.

    A run that diverged or never learned is in no mean, and its seed in no pair with that model.
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
    for i, first in enumerate(models):
        for second in models[i + 1 :]:
            seeds = sorted(by_model[first].keys() & by_model[second].keys())
            failed = {
                model: sum(by_model[model][seed]["status"] != "ok" for seed in seeds)
                for model in (first, second)
            }
            complete = [
                seed
                for seed in seeds
                if all(by_model[model][seed]["status"] == "ok" for model in (first, second))
                and by_model[first][seed]["forgetting"] is not None
            ]
            values = [
                [by_model[model][seed]["forgetting"] for seed in complete]
                for model in (first, second)
            ]
            comparison = compare(*values)
            pairs.append(
                {
                    "first": first,
                    "second": second,
                    "failed": failed,
                    **comparison,
                    "verdict": verdict(first, second, comparison),
                }
            )
    return {"models": per_model, "pairs": pairs}


def verdict(first: str, second: str, comparison: dict[str, Any]) -> str | None:
    """What the paired difference's interval says; None for fewer than two seeds."""
    summary = comparison["difference"]
    if summary["ci95"] is None:
        return None
    shown = comparison["smallest_detectable"]
    if not shown:  # no spread to judge by
        if not summary["mean"]:
            return f"no difference shown: all {summary['n']} pairs are equal"
        return f"not judged: all {summary['n']} pairs differ by exactly {summary['mean']:+.4f}"
    low, high = summary["ci95"]
    if low > 0:
        return f"{label(second)} forgets less"
    if high < 0:
        return f"{label(first)} forgets less"
    return f"no difference shown: {summary['n']} seeds could have shown {shown:.3f}"


def label(model: str) -> str:
    """How a model is called in print."""
    return ACTIVATIONS[model].label if model in ACTIVATIONS else model


# --- 8. Seeds -----------------------------------------------------------------------------------

Unit = tuple[Activation, int]  # one model, one seed
SCHEDULER_SECONDS = 5  # to answer


class Stopped(Exception):
    """A sweep could not go on; the message says why. What was finished is in the journal."""


def run_unit(
    config: Config, activation: Activation, seed: int, data_dir: str | None, whole: bool
) -> Run:
    """Train one model wherever this runs; `whole` keeps what only the headline seed shows."""
    run = train_model(config, activation, seed, load_mnist(data_dir))
    return run if whole else replace(run, schedule=[], snapshot={})


def run_units(
    config: Config,
    units: Sequence[Unit],
    headline: int,
    jobs: int,
    data_dir: str | None,
    executor: Any = None,
) -> Iterator[Run]:
    """Runs of all units, as they finish: `jobs` side by side here, or on another executor.

    Raises `Stopped` if a worker process died.
    """
    arguments = [
        (config, activation, seed, data_dir, seed == headline) for activation, seed in units
    ]
    if executor is None and (jobs == 1 or len(units) <= 1):
        for unit in arguments:
            yield run_unit(*unit)
        return
    if executor is None:
        executor = local_executor(min(jobs, len(units)), len(units))
        yield from as_finished(executor, [executor.submit(run_unit, *unit) for unit in arguments])
        return
    try:
        elsewhere = partial(run_unit_elsewhere, software())
        yield from as_finished(executor, [executor.submit(elsewhere, *unit) for unit in arguments])
    except (InputError, Stopped):
        raise
    except Exception as error:
        raise Stopped(f"the cluster failed ({one_line(error)})") from None


def as_finished(executor: Any, futures: Sequence[Any]) -> Iterator[Any]:
    """What an executor's futures return, as they finish; none goes on when this ends.

    Raises `Stopped` if a worker process died.
    """
    from concurrent.futures import BrokenExecutor, as_completed

    try:
        for future in as_completed(futures):
            yield future.result()
    except BrokenExecutor:
        raise Stopped("a worker process died (out of memory? try fewer --jobs)") from None
    finally:
        # Not `with`: that would wait for the units under way, and Ctrl-C ends at once. Nor
        # `future.cancel`: an executor whose processes end trips over what others cancelled.
        try:
            executor.shutdown(wait=False, cancel_futures=True)
        except TypeError:  # Dask's knows no such argument, and cancels without
            executor.shutdown(wait=False)


def local_executor(jobs: int, units: int) -> Any:
    """Threads for up to a pair of models, which starting processes would delay more than it
    helps; processes for more, since threads share Python's lock."""
    if units <= 2:
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(jobs)
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    if sys.platform == "win32":
        jobs = min(jobs, 61)  # what Windows can wait for
    # Spawned, not forked: the same on every system, and safe beside BLAS threads.
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), start_worker)


def dask_client(address: str) -> Any:
    """A client of the Dask cluster whose scheduler is at `address`.

    Raises `InputError` where no scheduler answers, no worker is there, or a worker would compute
    something else: another version of this file, of numpy or of Python.
    """
    try:
        import distributed
    except ImportError:
        raise InputError(
            "--dask needs: python3 -m pip install -r requirements-cluster.txt"
        ) from None
    import logging

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the one line is ours
    try:
        client = distributed.Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError):
        raise InputError(
            f"--dask {address}: no scheduler answers there; start one in this folder: "
            "PYTHONPATH=. dask scheduler"
        ) from None
    try:
        client.run_on_scheduler(software)  # it unpacks the units before it hands them out
    except Exception as error:
        raise InputError(
            f"the scheduler at {address} cannot load this project: {one_line(error)}; start it in "
            "this folder with PYTHONPATH=."
        ) from None
    workers = client.run(software, on_error="return")
    if not workers:
        raise InputError(
            f"--dask {address}: no worker there; in this folder: PYTHONPATH=. dask worker {address}"
        )
    for worker, found in workers.items():
        if isinstance(found, Exception):
            raise InputError(
                f"worker {worker} cannot load this project: {one_line(found)}; start it "
                "in this folder with PYTHONPATH=."
            )
        for name, version in software().items():
            if found.get(name) != version:
                raise InputError(
                    f"worker {worker} has {name} {found.get(name)}, not {version} as here; "
                    "give it the same and start it again"
                )
    return client


def dask_executor(client: Any) -> Any:
    """An executor on a client's cluster; a unit whose worker dies goes to another."""
    return client.get_executor(pure=False, retries=3)


def one_line(error: BaseException) -> str:
    """An error's type and text, for a message of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@cache
def software() -> dict[str, str]:
    """What two machines must have in common to compute the same, the BLAS kernel apart."""
    import platform

    source = sha256(Path(__file__).read_bytes())[:12]
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compete_to_compute.py": source,
    }


def run_unit_elsewhere(expected: dict[str, str], *unit: Any) -> Run:
    """`run_unit`, on a worker that may have joined after the others were checked."""
    if software() != expected:
        raise Stopped(f"a worker joined with {software()}, not {expected} as here")
    return run_unit(*unit)


def start_worker() -> None:
    """In each worker process: end at once on Ctrl-C, and with the main process, however it ends."""
    import multiprocessing
    import signal
    import threading

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Journal:
    """The finished units of a sweep, each on disk as soon as it is finished.

    A text file beside the results: a first line with what the units depend on, then one line of
    JSON a unit. A line cut short by a crash is dropped when the journal is read.
    """

    def __init__(self, results: Path, identity: dict[str, Any]) -> None:
        """The journal of one results file; nothing is read or written yet."""
        self.path = results.with_name(results.name + ".journal")
        self.identity = identity

    def read(self) -> list[Run]:
        """The units in it; `InputError` if they come from another configuration."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        rows = []
        for line in lines:
            with suppress(ValueError):  # cut short
                rows.append(json.loads(line))
        if rows and "schema" not in rows[0]:
            raise InputError(f"{self.path}: its first line is damaged; move it out of the way")
        if rows:
            check_identity(self.path, rows[0], self.identity)
        return [Run(row["record"], row["schedule"], {}, row["seconds"]) for row in rows[1:]]

    def start(self, runs: Sequence[Run]) -> None:
        """Begin the file with these units.

        A journal that is in the way and has units is kept as NAME.old, NAME.old2 and so on.
        """
        if self.path.exists() and not runs and self.path.read_bytes().count(b"\n") > 1:
            names = (f"{self.path.name}.old{n if n > 1 else ''}" for n in count(1))
            kept = next(p for p in map(self.path.with_name, names) if not p.exists())
            os.replace(self.path, kept)
        lines = [json.dumps(self.identity), *map(self.line, runs)]
        write_or_stop(self.path, "".join(line + "\n" for line in lines).encode())

    def append(self, run: Run) -> None:
        """Add a unit; on disk when this returns. Raises `Stopped` if it cannot be written."""
        try:
            with self.path.open("a") as file:
                file.write(self.line(run) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Stopped(f"{self.path} cannot be written ({error.strerror})") from None

    @staticmethod
    def line(run: Run) -> str:
        """A unit as a line of JSON."""
        row = {"record": run.record, "schedule": run.schedule, "seconds": run.seconds}
        return json.dumps(without_nan(row))


def run_identity(config: Config) -> dict[str, Any]:
    """What the bits of every unit depend on: schema, configuration, data."""
    return {"schema": SCHEMA, "config": without_nan(asdict(config)), "mnist_sha256": MNIST_SHA256}


def check_identity(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `InputError`, naming the first field that differs, if a file is from another run."""

    def refuse(name: str, here: Any, there: Any) -> None:
        raise InputError(
            f"{path}: cannot resume, {name} is {there!r} there and {here!r} here; "
            "give the same options, or another --out"
        )

    if found.get("schema") != wanted["schema"]:
        refuse("schema", wanted["schema"], found.get("schema"))
    for part in ("config", "mnist_sha256"):
        there = found.get(part) or {}
        for name in {**wanted[part], **there}:
            if there.get(name) != wanted[part].get(name):
                refuse(name, wanted[part].get(name), there.get(name))


def finished_runs(results: Path, journal: Journal, identity: dict[str, Any]) -> list[Run]:
    """What an earlier run of the same configuration finished, from its results and its journal.

    A results file that is cut short is kept as NAME.damaged, and the journal alone is used.
    """
    runs = []
    try:
        found = json.loads(results.read_bytes()) if results.exists() else None
    except ValueError:
        damaged = results.with_name(results.name + ".damaged")
        os.replace(results, damaged)
        print(f"{results} is cut short; kept as {damaged}, going on without it", file=sys.stderr)
        found = None
    if found is not None:
        parts = ("config", "environment", "headline", "schedule", "per_seed")
        if not isinstance(found, dict) or not all(part in found for part in parts):
            raise InputError(f"{results}: not a results file of ours; give another --out")
        machine, headline = found["environment"], found["headline"]
        check_identity(results, {**found, "mnist_sha256": machine.get("mnist_sha256")}, identity)
        here = environment()
        for name in ("numpy", "python"):
            if machine.get(name) != here[name]:
                print(
                    f"{results} is from {name} {machine.get(name)}, this is {here[name]}: "
                    "the last bits of what is added may differ",
                    file=sys.stderr,
                )
        for record in found["per_seed"]:
            shown = record["seed"] == headline["seed"]
            model = record["model"]
            schedule = [row for row in found["schedule"] if shown and row["model"] == model]
            seconds = headline.get("seconds", {}).get(model, 0.0) if shown else 0.0
            runs.append(Run(record, schedule, {}, seconds))
    return [*runs, *journal.read()]


# --- 9. Outputs ---------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then move into place: all or nothing."""
    path = Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    import platform

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
    import platform

    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of this file, with "-dirty" if a script was changed since; None outside git."""
    import subprocess

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).resolve().parent,
            timeout=5,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
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


def save_snapshots(path: Path, config: Config, seed: int, runs: dict[str, Run]) -> None:
    """Write snapshots.npz: arrays only, named `<what>_<model>`."""
    import io

    arrays = {
        "config": np.array(json.dumps(asdict(config))),
        "seed": np.array(seed),
        "models": np.array(list(runs)),
        "tasks": np.array(config.tasks),
        "W1_init": next(iter(runs.values())).snapshot["W1_init"],
    }
    for model, run in runs.items():
        for name, value in run.snapshot.items():
            if name != "W1_init":
                arrays[f"{name}_{model}"] = value
    buffer = io.BytesIO()
    # Not compressed: random weights hardly shrink.
    np.savez(buffer, **arrays)
    write_or_stop(path, buffer.getvalue())


def snapshots_are_of(path: Path, config: Config, seed: int, models: Sequence[str]) -> bool:
    """True if a snapshot file is of this configuration, seed and models."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as file:
            found = [str(file["config"]), int(file["seed"]), [str(m) for m in file["models"]]]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        return False
    return found == [json.dumps(asdict(config)), seed, list(models)]


def print_report(results: dict[str, Any]) -> None:
    """Epochs and headline of the first seed; for several seeds, what they show together."""
    seed = results["headline"]["seed"]
    print_schedule(results["schedule"], len(results["config"]["tasks"]))
    print_headline(seed, [row for row in results["per_seed"] if row["seed"] == seed])
    if len({row["seed"] for row in results["per_seed"]}) > 1:
        print_aggregate(results["aggregate"])
    kernels = {row["blas_kernel"] for row in results["per_seed"]}
    if len(kernels) > 1:
        print(f"\nRun on {len(kernels)} BLAS kernels ({', '.join(map(str, sorted(kernels)))}):")
        print("the last bits differ between them; per_seed says which had which.")


def print_schedule(rows: Iterable[dict[str, Any]], tasks: int) -> None:
    """One line per model and epoch; test accuracies in columns T1, T2, ..."""
    shown = min(tasks, 5)  # as many as 80 columns hold
    heads = "".join(f"{f'T{j + 1}':>6}" for j in range(shown))
    print(f"{'model':8}{'task':>5}{'epoch':>6}{'train loss':>12}{'train acc':>11}   test{heads}")
    for row in rows:
        tests = "".join(f"{accuracy:6.3f}" for accuracy in row["test_accuracy"][:shown])
        print(
            f"{label(row['model']):8}{row['task']:5}{row['epoch']:6}{row['train_loss']:12.4f}"
            f"{row['train_accuracy']:11.3f}       {tests}"
        )


def print_headline(seed: int, records: Sequence[dict[str, Any]]) -> None:
    """What one seed shows, a column per model, and what to keep in mind about it."""
    print(f"\n{f'Seed {seed}':40}" + "".join(f"{label(r['model']):>10}" for r in records))
    for text, cells in headline_rows(records):
        print(f"{text:40}" + "".join(f"{cell:>10}" for cell in cells))
    for line in caveats(records):
        print(line)


def headline_rows(records: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """What one seed shows, a text and a cell per model: with two tasks, the published table."""
    complete = [r if r["status"] != "diverged" else None for r in records]
    matrices = [r["accuracy_matrix"] if r else None for r in complete]
    tasks = max(len(r["accuracy_matrix"][0]) for r in records)
    joint = all(m is None or len(m) == 2 for m in matrices) and tasks > 1
    rows = []

    def add(text: str, values: Iterable[float | None], digits: str) -> None:
        rows.append((text, ["-" if value is None else format(value, digits) for value in values]))

    if joint:
        add("Average accuracy, all tasks at once", averages(complete), ".1%")
    else:
        add("Task 1 accuracy after Task 1", (m and m[1][0] for m in matrices), ".1%")
    if tasks > 1 and not joint:
        several = " (mean over tasks)" if tasks > 2 else ""
        add(f"Task 1 accuracy after Task {tasks}", (m and m[-1][0] for m in matrices), ".1%")
        add(f"Forgetting{several}", (r and r["forgetting"] for r in complete), ".3f")
        add(f"Task {tasks} accuracy after Task {tasks}", (m and m[-1][-1] for m in matrices), ".1%")
    if tasks > 2 and not joint:
        add("Average accuracy", averages(complete), ".1%")
    return rows


def caveats(records: Iterable[dict[str, Any]]) -> list[str]:
    """Which of one seed's runs failed, or ended a task short of its target loss."""
    lines = []
    for record in records:
        model = label(record["model"])
        if record["status"] != "ok":
            lines.append(f"{model} {record['status']}: {record['failure']}.")
            lines.append("  What it forgets means nothing.")
        missed = [i for i, ok in enumerate(record["target_reached"] or [], start=1) if not ok]
        lines += [f"{model} did not reach --target-loss on task {task}." for task in missed]
    return lines


def averages(records: Iterable[dict[str, Any] | None]) -> list[float | None]:
    """Average accuracy over the tasks at the end, of each run that has one."""
    return [record and record["average_accuracy"] for record in records]


def print_aggregate(totals: dict[str, Any]) -> None:
    """Mean, spread and interval of each model's forgetting, then each pair with its verdict."""
    print("\nForgetting    runs     mean      std   95 % interval       median     IQM")
    for model, values in totals["models"].items():
        forgetting = values["forgetting"]
        if forgetting["ci95"] is not None:
            interval = "{:.4f} to {:.4f}".format(*forgetting["ci95"])
            print(
                f"{label(model):12}{forgetting['n']:6}{forgetting['mean']:9.4f}"
                f"{forgetting['std']:9.4f}   {interval:18}{forgetting['median']:8.4f}"
                f"{forgetting['iqm']:8.4f}"
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
        print(f"\n{first} minus {second}, seed by seed ({difference['n']} complete pairs)")
        print(f"  difference {difference['mean']:+.4f}, 95 % interval {interval}")
        print(
            f"  {second} forgets less on {pair['wins']} seeds, {first} on {pair['losses']},"
            f" ties {pair['ties']}; sign test p = {pair['sign_test_p']:.3f}"
        )
        print(f"  Verdict: {pair['verdict']}.")


def run_sweep(
    config: Config, activations: Sequence[Activation], seeds: range, options: argparse.Namespace
) -> dict[str, Any]:
    """Train every model at every seed that is not finished yet; the contents of results.json.

    Writes the headline seed's snapshots and, for several seeds, a journal of finished units.
    Raises `Stopped`, also where a single seed diverges: a sweep counts such a run instead.
    """
    identity = run_identity(config)
    journal = Journal(options.out, identity)
    models = [activation.name for activation in activations]
    headline = seeds[0]
    finished: dict[tuple[int, str], Run] = {}
    if options.resume:
        for run in finished_runs(options.out, journal, identity):
            finished[run.record["seed"], run.record["model"]] = run
        whole = all((headline, model) in finished for model in models)
        if not (whole and snapshots_are_of(options.snapshots, config, headline, models)):
            for model in models:  # train the headline again, for its snapshots
                finished.pop((headline, model), None)
    sweep = len(seeds) > 1 or options.resume
    units = [(a, seed) for seed in seeds for a in activations if (seed, a.name) not in finished]
    executor = dask_executor(dask_client(options.dask)) if options.dask and units else None
    if sweep:
        journal.start(list(finished.values()))

    jobs = options.jobs or available_cores()
    done = 0
    try:
        runs = run_units(config, units, headline, jobs, options.data_dir, executor)
        for run in with_progress(runs, len(units), options.quiet):
            record = run.record
            if record["status"] == "diverged" and not sweep:
                raise Stopped(
                    f"{label(record['model'])}, seed {record['seed']}: {record['failure']}; "
                    "try a lower --lr"
                )
            finished[record["seed"], record["model"]] = run
            if run.snapshot and all((headline, model) in finished for model in models):
                shown = {model: finished[headline, model] for model in models}
                save_snapshots(options.snapshots, config, headline, shown)
            if sweep:
                journal.append(run)
            done += 1
    except (KeyboardInterrupt, Stopped) as error:
        left = f"{journal.path} has what is finished, go on with --resume" if sweep else ""
        raise type(error)(
            f"{str(error) or 'stopped'}. {done} of {len(units)} models finished; "
            + (left or "nothing was written")
        ) from None

    order = list(dict.fromkeys([*models, *(model for _, model in finished)]))
    keys = sorted(finished, key=lambda key: (key[0], order.index(key[1])))
    records = [finished[key].record for key in keys]
    shown = {model: finished[headline, model] for model in models}
    seconds = {model: run.seconds for model, run in shown.items()}
    return {
        "schema": SCHEMA,
        "config": asdict(config),
        "environment": environment(),
        "headline": {
            "seed": headline,
            # The models of a seed are trained side by side, as far as there are jobs.
            "wallclock_s": max(max(seconds.values()), sum(seconds.values()) / jobs),
            "seconds": seconds,
            "summary": {model: headline_summary(run.record) for model, run in shown.items()},
        },
        "schedule": [row for run in shown.values() for row in run.schedule],
        "per_seed": records,
        "aggregate": aggregate(records, order),
    }


def watched() -> bool:
    """Whether standard error is there (a service may have none) and is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def with_progress(runs: Iterator[Run], total: int, quiet: bool) -> Iterator[Run]:
    """The same runs, with a bar and running means of forgetting where a person is watching."""
    if quiet or total <= 2 or not watched():
        yield from runs
        return
    from tqdm import tqdm

    forgetting: dict[str, list[float]] = {}
    with tqdm(total=total, unit="model", dynamic_ncols=True) as bar:
        for run in runs:
            record = run.record
            if record["status"] == "ok" and record["forgetting"] is not None:
                forgetting.setdefault(record["model"], []).append(record["forgetting"])
            means = (f"{label(m)} {np.mean(v):.3f}" for m, v in sorted(forgetting.items()))
            bar.set_postfix_str("forgets " + ", ".join(means), refresh=False)
            bar.update()
            yield run


# --- 10. Command line ---------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

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
  --head frozen --target-loss 0.03 --epochs 100
                           With an output layer for each task, and trained as
                           far as in the paper?
  --joint                  What could be kept, with all tasks at once?

Then python3 visualize_compete_to_compute.py draws what --snapshots holds.
"""


def command_line() -> argparse.ArgumentParser:
    """The options of the run, then every field of `Config`."""
    parser = OneLineParser(
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--seed", type=int, default=0, metavar="N", help="first seed, the headline (default 0)"
    )
    run.add_argument(
        "--n-seeds", type=int, default=1, metavar="N", help="how many consecutive seeds (default 1)"
    )
    run.add_argument(
        "--activations",
        nargs="+",
        choices=list(ACTIVATIONS),
        default=["relu", "lwta"],
        metavar="MODEL",
        help=f"the models to compare, of {', '.join(ACTIVATIONS)} (default relu lwta)",
    )
    run.add_argument(
        "--jobs",
        type=int,
        default=None,
        metavar="N",
        help="models trained side by side (default: the cores)",
    )
    run.add_argument(
        "--data-dir",
        default=None,
        metavar="DIR",
        help="folder of the four MNIST files (default: $MNIST_DIR, else fetched once and cached)",
    )
    run.add_argument(
        "--out",
        type=Path,
        default=Path("results.json"),
        metavar="FILE",
        help="results (default results.json)",
    )
    run.add_argument(
        "--snapshots",
        type=Path,
        default=Path("viz/snapshots.npz"),
        metavar="FILE",
        help="what the plots need (default viz/snapshots.npz)",
    )
    run.add_argument(
        "--dask",
        default=None,
        metavar="ADDRESS",
        help="train on the Dask cluster with this scheduler, for example tcp://host:8786",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="keep what an earlier run into --out finished, train what is missing",
    )
    run.add_argument("--quiet", action="store_true", help="print errors only")
    experiment = parser.add_argument_group("the experiment")
    for item in fields(Config):
        keywords = dict(item.metadata["argparse"])
        description = item.metadata["help"]
        if isinstance(item.default, bool):
            keywords["action"] = "store_true"
        elif item.default is not None:
            shown = " ".join(item.default) if isinstance(item.default, tuple) else item.default
            description += f" (default {shown})"
            if not isinstance(item.default, tuple | str):
                keywords["type"] = type(item.default)
                keywords.setdefault("metavar", "X" if isinstance(item.default, float) else "N")
        experiment.add_argument(flag(item.name), default=item.default, help=description, **keywords)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiment; the exit status."""
    options = command_line().parse_args(arguments)
    if options.dask and __name__ == "__main__":
        # Again as a module of its own name, since what is sent to workers must be importable
        # there. This does not return.
        import compete_to_compute

        compete_to_compute.run_script(partial(compete_to_compute.main, arguments))
    values = {item.name: getattr(options, item.name) for item in fields(Config)}
    config = Config(**{**values, "tasks": tuple(values["tasks"])})
    activations = [ACTIVATIONS[name] for name in dict.fromkeys(options.activations)]
    check_config(config, activations)
    for name, least in (("seed", 0), ("n_seeds", 1), ("jobs", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"{flag(name)} must be {least} or more, not {value}")
    if options.seed + options.n_seeds > 1 << 32:
        raise InputError("--seed: seeds must be below 4294967296")
    mnist = load_mnist(options.data_dir)
    draw_images(config, options.seed, mnist.train_labels, mnist.test_labels)
    if os.path.realpath(options.out) == os.path.realpath(options.snapshots):
        raise InputError(f"--out and --snapshots are both {options.out}; give two names")
    for path in (options.out, options.snapshots):
        check_writable(path)

    seeds = range(options.seed, options.seed + options.n_seeds)
    results = run_sweep(config, activations, seeds, options)
    write_or_stop(options.out, to_json(results))
    if not options.quiet:
        print_report(results)
        print(f"\nWrote {options.out} and {options.snapshots}.")
    return 0


EXIT_STATUS = {InputError: 2, Stopped: 1, MemoryError: 1, KeyboardInterrupt: 130}


def run_script(script: Callable[[], int]) -> None:
    """Run a script's main function and exit with its status; what stops it is one line."""
    try:
        sys.exit(script())
    except tuple(EXIT_STATUS) as error:
        message = str(error) or "stopped"
        if isinstance(error, MemoryError):
            message = "not enough memory; try a smaller --hidden or fewer --jobs"
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        status = next(s for kind, s in EXIT_STATUS.items() if isinstance(error, kind))
        if status != 2:
            end_training(status)
        sys.exit(status)


def end_training(status: int) -> None:
    """End what is still being trained, so that the exit need not wait for it."""
    import multiprocessing
    import threading

    for child in multiprocessing.active_children():
        child.terminate()
    if any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # a thread cannot be ended, and Python would wait for it


if __name__ == "__main__":
    run_script(main)
