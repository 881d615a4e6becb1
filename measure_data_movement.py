#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""Does competition save memory traffic? ByteDMD, exactly and at full size.

    python3 measure_data_movement.py                              the whole table
    python3 measure_data_movement.py --kernel matmul --size 8     one number: 8867

LWTA lets one unit of each block through, but looks at all of them to find it. Here every scalar
that a forward pass or an update reads is priced by its distance, dense and where silent units and
zero pixels are skipped, for ReLU and LWTA. Writes study/data_movement.json and its figure.

The price is ByteDMD's (github.com/cybertronai/ByteDMD): scalars lie on one least-recently-used
stack; reading the one at depth d, the top being 1, costs ceil(sqrt(d)), or with b bytes a scalar
the sum of ceil(sqrt(j)) over j = (d - 1) b + 1 .. d b. Writing and arithmetic are free. All
operands of an operation are priced before any moves; then they move to the top in their order, and
the result is pushed. Arguments are there from the start, the first on top, within an argument the
first element deepest. A scalar leaves after its last read, and one never read is not there at all;
what the program returns stays. Constants, indices and the choice of what to skip are free.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    MLP,
    PIXELS,
    SCHEMA,
    Config,
    History,
    InputError,
    OneLineParser,
    as_finished,
    available_cores,
    check_writable,
    environment,
    initial_weights,
    label,
    limit_blas_threads,
    load_mnist,
    local_executor,
    make_tasks,
    run_script,
    summarise,
    to_json,
    train_phases,
    write_or_stop,
)
from study_open_questions import markdown
from visualize_compete_to_compute import colour, save_figure

# --- Programs -------------------------------------------------------------------------------------

NONE = -1  # in place of a scalar's number: there is none


@dataclass
class Program:
    """A straight-line program over scalars, each written once and known by its number.

    An operation is a row (first operand, second operand or NONE, result). Arrays of scalars are
    int32 arrays of their numbers, in which NONE stands for a zero that is never stored.

    For a program too long to be kept, `sample` above 1 follows one random scalar of each `sample`
    neighbours, and drops what is done to the others alone.
    """

    sample: int = 1
    followed: np.ndarray = field(default_factory=lambda: np.empty(0, bool))  # (scalars,), sampling
    draws: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    scalars: int = 0
    arguments: list[np.ndarray] = field(default_factory=list)
    returned: list[np.ndarray] = field(default_factory=list)
    parameters: list[np.ndarray] = field(default_factory=list)  # what outlives the example
    phase: str = ""  # of the operations recorded next
    blocks: list[tuple[str, np.ndarray]] = field(default_factory=list)  # (phase, operations)

    def new(self, *shape: int) -> np.ndarray:
        """Fresh scalars."""
        first = self.scalars
        self.scalars += int(np.prod(shape))
        if self.sample > 1:
            count = self.scalars - first
            followed = np.zeros(count, bool)
            group = np.arange(0, count, self.sample)
            chosen = group + self.draws.integers(0, self.sample, len(group))
            followed[chosen[chosen < count]] = True
            self.followed = np.concatenate([self.followed, followed])
        return np.arange(first, self.scalars, dtype=np.int32).reshape(shape)

    def argument(self, *shape: int) -> np.ndarray:
        """The next argument."""
        self.arguments.append(self.new(*shape))
        return self.arguments[-1]

    def record(self, operations: np.ndarray) -> None:
        """Append operations, (n, 3)."""
        if self.sample > 1:
            # NONE finds the last scalar; an operation kept for that is one that is not priced.
            operations = operations[self.followed[operations].any(axis=1)]
        self.blocks.append((self.phase, operations))

    def apply(self, first: np.ndarray, second: np.ndarray | int = NONE) -> np.ndarray:
        """One operation per element of `first`, in order, with that of `second` if there is one."""
        results = self.new(*first.shape)
        columns = np.broadcast_arrays(first, np.int32(second), results)
        self.record(np.stack([column.ravel() for column in columns], axis=1))
        return results

    def sums(
        self,
        count: int,
        of: np.ndarray,
        left: np.ndarray,
        right: np.ndarray | None = None,
        start: np.ndarray | int = NONE,
    ) -> np.ndarray:
        """Sums over terms left * right, or over `left` alone: (count,) scalars, NONE for none.

        Terms are in the order of execution; term t belongs to sum `of[t]`, whose terms follow one
        another. Each product is added as soon as it is there, to `start` of its sum if there is
        one. A sum without terms is its start. Any other operation of two operands, such as the
        maximum, reads alike.
        """
        sums = np.broadcast_to(np.int32(start), count).copy()
        begins = np.diff(of, prepend=NONE) != 0
        added = ~begins | (sums[of] != NONE)
        terms = left if right is None else self.new(len(of))
        totals = np.where(added, self.new(len(of)), terms)
        before = np.where(begins, sums[of], np.roll(totals, 1))
        operations = np.empty((len(of), 2, 3), np.int32)
        operations[:, 0, 0], operations[:, 0, 2] = left, terms
        operations[:, 0, 1] = NONE if right is None else right
        operations[:, 1] = np.stack([before, terms, totals], axis=1)
        executed = np.stack([np.full(len(of), right is not None), added], axis=1)
        self.record(operations[executed])
        ends = np.roll(begins, -1)
        sums[of[ends]] = totals[ends]
        return sums

    def operations(self) -> np.ndarray:
        """All operations, int32 (n, 3)."""
        return np.concatenate([np.empty((0, 3), np.int32), *(rows for _, rows in self.blocks)])


# --- Depths ---------------------------------------------------------------------------------------

LEAF = 16  # elements compared pair by pair before merging begins


def stable_order(keys: np.ndarray) -> np.ndarray:
    """The stable argsort of int32 keys >= 0; sorting 64-bit numbers is numpy's quickest sort."""
    packed = keys.astype(np.int64) << 32
    packed |= np.arange(len(keys))
    packed.sort()
    return packed.astype(np.int32)  # keeps the low half


def smaller_to_the_right(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each of n int32 values >= 0, how many later ones are smaller; O(n log n).

    `order`, int32 (n,), is the stable argsort of the values.

    A merge sort backwards: from the positions in the order of the values, the halves of each
    group are taken apart level by level. An element of the left half has before it, in its group,
    the smaller ones of the right half: its index in the group minus its index in the half.
    """
    levels = (len(values) // LEAF).bit_length()
    leaf = max(1, -(-len(values) >> levels))
    padded = np.full(leaf << levels, np.iinfo(np.int32).max, np.int32)
    padded[: len(values)] = values
    order = np.concatenate([order, np.arange(len(values), len(padded), dtype=np.int32)])
    counts = np.zeros(len(padded), np.int32)
    for level in reversed(range(levels)):
        half = leaf << level
        group = np.arange(0, len(order), 2 * half, dtype=np.int32)[:, None]
        in_left = order.reshape(-1, 2 * half) < group + half
        left, right = (np.flatnonzero(side).reshape(-1, half) for side in (in_left, ~in_left))
        smaller = (left - (group + np.arange(half))).astype(np.int32)
        counts = np.concatenate([counts[left] + smaller, counts[right]], axis=1).ravel()
        order = np.concatenate([order[left], order[right]], axis=1).ravel()
    found = np.empty_like(counts)
    found[order] = counts
    leaves, found = padded.reshape(-1, leaf), found.reshape(-1, leaf)
    for step in range(1, leaf):
        found[:, :-step] += leaves[:, step:] < leaves[:, :-step]
    return found.ravel()[: len(values)]


def order_of_ends(ends: np.ndarray, until: np.ndarray, touches: int) -> np.ndarray:
    """The stable argsort of `until`, the operations of the touches `ends`, without sorting."""
    interval = np.full(touches, NONE, np.int32)
    interval[ends] = np.arange(len(ends), dtype=np.int32)
    order = interval[interval != NONE]
    # An operation ends two intervals at most, here in the order of its operands.
    swap = (until[order[1:]] == until[order[:-1]]) & (order[1:] < order[:-1])
    first = np.flatnonzero(swap)
    order[first], order[first + 1] = order[first + 1], order[first]
    return order


def stack_depths(
    program: Program, liveness: bool = True, stack: np.ndarray | None = None
) -> np.ndarray:
    """The depth of every read, int32 (operations, 2), 0 where nothing is read.

    `liveness=False`: nothing ever leaves. `stack`, bool (scalars,): the stack holds these alone,
    and reads of others are 0.

    A scalar lies still from each touch (placement, read or write) to its next one, an interval. At
    the end of an interval its depth is the number of intervals under way that began no earlier:
    all that began since, up to this operation, without those that have ended before it, which are
    nested in it. Without an end are the intervals of what stays; of what leaves there is none.
    """
    operations = program.operations()
    placed = [argument.ravel() for argument in reversed(program.arguments)]
    scalar = np.concatenate([*placed, operations.ravel()])
    placements = len(scalar) - operations.size
    operation = np.zeros(len(scalar), np.int32)  # 0 is the placement
    operation[placements:] = np.repeat(np.arange(1, len(operations) + 1, dtype=np.int32), 3)
    held = np.ones(program.scalars, bool) if stack is None else stack
    touches = np.flatnonzero((scalar != NONE) & held[scalar])
    scalar, operation = scalar[touches], operation[touches]

    order = stable_order(scalar)
    same = np.diff(scalar[order]) == 0
    touch, following = order[:-1][same], order[1:][same]
    twin = operation[touch] == operation[following]  # read twice by one operation, as in a + a
    stays = np.full(program.scalars, not liveness)
    for values in program.returned:
        stays[values[values != NONE]] = True
    begins = stays[scalar]
    begins[touch] = ~twin
    began = np.cumsum(begins, dtype=np.int32)
    began_by = np.bincount(operation[begins], minlength=len(operations) + 1).cumsum()

    end_of = np.zeros(len(scalar), np.int32)
    end_of[touch[~twin]] = following[~twin]
    starts = np.flatnonzero(end_of)
    ends = end_of[starts]
    until = operation[ends]
    nested = smaller_to_the_right(until, order_of_ends(ends, until, len(scalar)))
    depth = np.zeros(len(scalar), np.int32)
    depth[ends] = began_by[until - 1] - (began[starts] - 1) - nested
    depth[following[twin]] = depth[touch[twin]]
    depths = np.zeros(placements + operations.size, np.int32)
    depths[touches] = depth
    return depths[placements:].reshape(-1, 3)[:, :2]


def price(depths: np.ndarray, size: int = 1) -> np.ndarray:
    """ByteDMD's cost of reading scalars of `size` bytes at these depths, 0 for depth 0; int64.

    With s = ceil(sqrt(n)) the sum of ceil(sqrt(j)) over j = 1 .. n is
    n s - (s - 1) s (2 s - 1) / 6, since ceil(sqrt(j)) counts the integers q >= 0 with q^2 < j.
    """

    def up_to(n: np.ndarray) -> np.ndarray:
        s = np.ceil(np.sqrt(n)).astype(np.int64)  # exact: a double holds n, and n is below 2^52
        return n * s - (s - 1) * s * (2 * s - 1) // 6

    last = depths.astype(np.int64) * size
    return up_to(last) - up_to(np.maximum(last - size, 0))


def cost_by_phase(program: Program, depths: np.ndarray, size: int = 1) -> dict[str, int]:
    """The cost of each phase's reads, from the program's depths."""
    costs = dict.fromkeys((phase for phase, _ in program.blocks), 0)
    first = 0
    for phase, operations in program.blocks:
        last = first + len(operations)
        costs[phase] += int(price(depths[first:last], size).sum())
        first = last
    return costs


# --- Kernels and networks -------------------------------------------------------------------------


def grid(*shape: int) -> list[np.ndarray]:
    """The indices of nested loops, the first outermost: one flat array each."""
    return [index.ravel() for index in np.indices(shape)]


def matvec(n: int) -> Program:
    """y_i = sum_j A_ij x_j, i the outer loop; arguments (A, x), n x n and n."""
    program = Program()
    a, x = program.argument(n, n), program.argument(n)
    i, j = grid(n, n)
    program.returned.append(program.sums(n, i, a[i, j], x[j]))
    return program


def vecmat(n: int) -> Program:
    """y_j = sum_i x_i A_ij, j the outer loop; arguments (A, x), n x n and n."""
    program = Program()
    a, x = program.argument(n, n), program.argument(n)
    j, i = grid(n, n)
    program.returned.append(program.sums(n, j, x[i], a[i, j]))
    return program


def matmul(n: int) -> Program:
    """C_ij = sum_k A_ik B_kj, loops i, j, k; arguments (A, B), n x n."""
    program = Program()
    a, b = program.argument(n, n), program.argument(n, n)
    i, j, k = grid(n, n, n)
    program.returned.append(program.sums(n * n, i * n + j, a[i, k], b[k, j]))
    return program


def activate(program: Program, z: np.ndarray, gates: np.ndarray, k: int, skip: bool) -> np.ndarray:
    """Activations of pre-activations z, (units, images); gates, bool, says which units speak.

    Block by block, and within it image by image. ReLU (k = 1): h = max(z, 0), an operation of one
    operand. LWTA: the maximum m of a block of k by k - 1 operations max(m, z), then for each of its
    units h = z if z = m else 0, an operation on z and m. Skipping, a unit that is silent has no h,
    and the winner's h is m itself, so that the second step falls away.
    """
    units, images = z.shape
    blocks = z.reshape(-1, k, images).swapaxes(1, 2)  # (blocks, images, k)
    if k == 1:
        h = program.apply(blocks)
    else:
        maxima, h = program.new(*blocks.shape[:2], k - 1), program.new(*blocks.shape)
        before = np.concatenate([blocks[..., :1], maxima[..., :-1]], axis=-1)
        steps = [np.stack([before, blocks[..., 1:], maxima], axis=-1)]
        if skip:
            h[:] = maxima[..., -1:]
        else:
            winner = np.broadcast_to(maxima[..., -1:], blocks.shape)
            steps.append(np.stack([blocks, winner, h], axis=-1))
        program.record(np.concatenate(steps, axis=2).reshape(-1, 3))
    h = h.swapaxes(1, 2).reshape(units, images)
    return np.where(gates, h, NONE) if skip else h


def network_program(
    kind: str, k: int, pixels: np.ndarray, gates: Sequence[np.ndarray], skip: bool, sample: int = 1
) -> Program:
    """One pass of a batch through a multilayer perceptron with ten outputs.

    `kind`: forward; sgd (forward, backward, one step); or momentum (a step with momentum and weight
    decay). `k`: LWTA's block, 1 for ReLU. `pixels`, bool (pixels, images): those that are read.
    `gates`, a bool (units, images) for each hidden layer: the units that speak, used if `skip`;
    then a silent unit's outgoing weights are not read, nor its h, and it passes nothing back.

    Arguments, in order: W (inputs, outputs) and b (outputs,) of each layer; for momentum each
    one's velocity; the images (pixels, images). Returned: the parameters, then velocities or,
    for forward, the logits. The loops, the first outermost, n running over the images:

    - forward, by layer: z_jn = b_j + sum_i x_in W_ij for j, n, i; then `activate`.
    - output: over all ten logits, image by image, the maximum, exp(z - m), their sum; then
      e / sum, and d = lr (p - target), each for all logits.
    - backward, from the last layer: dW_ij = sum_n x_in d_jn for i, j, n; db_j = sum_n d_jn; then,
      but for the first layer, dh_in = sum_j W_ij d_jn for i, n, j, and d = dh if h is not 0, else
      0, an operation on dh and h. With one image dW is one product and db is d.
    - update, of each parameter in the order of the arguments: W - dW; or
      v = m v, v = v - dW, t = decay W, v = v - t, W = W + v, without t for biases. A gradient that
      is zero because of what was skipped is not subtracted.
    """
    program = Program(sample)
    images = pixels.shape[1]
    sizes = [len(pixels), *map(len, gates), DIGITS]
    shapes = [shape for i, o in pairwise(sizes) for shape in ((i, o), (o,))]
    parameters = [program.argument(*shape) for shape in shapes]
    velocities = [program.argument(*s) for s in shapes] if kind == "momentum" else []
    program.parameters += parameters + velocities
    signals = [np.where(pixels, program.argument(*pixels.shape), NONE)]

    for layer, (weights, biases) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
        last = layer == len(gates)
        program.phase = "output" if last else "later layers" if layer else "first layer"
        z = forward_layer(program, signals[-1], weights, biases)
        if not last:
            program.phase = "activation"
            signals.append(activate(program, z, gates[layer], k, skip))
    if kind == "forward":
        program.returned += [*parameters, z]
        return program

    delta = output_gradient(program, z.T).T
    program.phase = "backward"
    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(signals))):
        signal, weights = signals[layer], parameters[2 * layer]
        gradients[:0] = layer_gradients(program, signal, delta)
        if layer:
            i, n, j = np.nonzero((signal != NONE)[:, :, None] & (delta != NONE).T)
            of, count = i * images + n, signal.size
            back = program.sums(count, of, weights[i, j], delta[j, n]).reshape(signal.shape)
            delta = back if skip else program.apply(back, signal)

    program.phase = "update"
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (parameters, gradients)]
    if kind == "sgd":
        updated = [subtract(program, *flat)]
    else:
        decays = np.concatenate([np.full(a.size, a.ndim == 2) for a in parameters])
        velocity = np.concatenate([a.ravel() for a in velocities])
        updated = momentum_step(program, *flat, velocity, decays)
    program.returned += updated
    program.parameters += updated
    return program


def forward_layer(
    program: Program, signal: np.ndarray, weights: np.ndarray, biases: np.ndarray
) -> np.ndarray:
    """z_jn = b_j + sum_i x_in W_ij, loops j, n, i; signal (inputs, images) to (outputs, images)."""
    inputs, images = signal.shape
    outputs = len(biases)
    read = np.broadcast_to((signal != NONE).T, (outputs, images, inputs))
    j, n, i = np.nonzero(read)
    start = np.repeat(biases, images)
    z = program.sums(outputs * images, j * images + n, signal[i, n], weights[i, j], start)
    return z.reshape(outputs, images)


def output_gradient(program: Program, logits: np.ndarray) -> np.ndarray:
    """lr times the gradient of the cross-entropy of a softmax; (images, classes)."""
    images, classes = logits.shape
    n, _ = grid(images, classes)
    largest = program.sums(images, n, logits.ravel())
    exponentials = program.apply(logits, largest[:, None])
    total = program.sums(images, n, exponentials.ravel())
    return program.apply(program.apply(exponentials, total[:, None]))


def layer_gradients(program: Program, signal: np.ndarray, delta: np.ndarray) -> list[np.ndarray]:
    """dW_ij = sum_n x_in d_jn, loops i, j, n, and db_j = sum_n d_jn; NONE where nothing flows."""
    inputs, outputs = len(signal), len(delta)
    i, j, n = np.nonzero((signal != NONE)[:, None, :] & (delta != NONE))
    weights = program.sums(inputs * outputs, i * outputs + j, signal[i, n], delta[j, n])
    j, n = np.nonzero(delta != NONE)
    return [weights, program.sums(outputs, j, delta[j, n])]


def subtract(program: Program, values: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """value - gradient, where there is a gradient."""
    result = values.copy()
    there = gradient != NONE
    result[there] = program.apply(values[there], gradient[there])
    return result


def momentum_step(
    program: Program,
    values: np.ndarray,
    gradient: np.ndarray,
    velocity: np.ndarray,
    decays: np.ndarray,
) -> list[np.ndarray]:
    """Parameters and velocities after a step, parameter by parameter; see `network_program`."""
    there = gradient != NONE
    none = np.full_like(values, NONE)
    kept, pushed, decay, decayed, updated = (program.new(len(values)) for _ in range(5))
    pushed = np.where(there, pushed, kept)
    decayed = np.where(decays, decayed, pushed)
    steps = [
        (velocity, none, kept),
        (kept, gradient, pushed),
        (values, none, decay),
        (pushed, decay, decayed),
        (values, decayed, updated),
    ]
    always = np.ones(len(values), bool)
    executed = np.stack([always, there, decays, decays, always], axis=1)
    operations = np.stack([np.stack(step, axis=1) for step in steps], axis=1)
    program.record(operations[executed])
    return [updated, decayed]


# Each model's activation in the main script and the block size.
MODELS = {"relu": ("relu", 1), "lwta": ("lwta", 2), "lwta4": ("lwta", 4)}
KINDS = {"forward": "forward pass", "sgd": "SGD step", "momentum": "step with momentum and decay"}
SIMPLE_KERNELS = {"matvec": matvec, "vecmat": vecmat, "matmul": matmul}
KERNELS = [
    *SIMPLE_KERNELS,
    *(f"{m}-{kind}{end}" for m in MODELS for kind in KINDS for end in ("", "-skipping")),
]


def kernel(name: str, size: int) -> Program:
    """A program to check by hand: a product, or one example in a network size-size-size-10.

    A skipping network reads the pixels 0, 2, 4 ...; the first unit of each block speaks, for ReLU
    the units 0, 2, 4 ...
    """
    most = 200 if name == "matmul" else 1000  # 5 GB
    if not 1 <= size <= most:
        raise InputError(f"--size must be 1 to {most} for {name}, not {size}")
    if name in SIMPLE_KERNELS:
        return SIMPLE_KERNELS[name](size)
    model, kind, *skipping = name.split("-")
    k = MODELS[model][1]
    if size % k:
        raise InputError(f"--size {size} cannot be cut into blocks of {k}; choose a multiple")
    units = np.arange(size)[:, None]
    pixels = (units % 2 == 0) | (not skipping)
    return network_program(kind, k, pixels, [units % max(k, 2) == 0] * 2, bool(skipping))


# --- The study ------------------------------------------------------------------------------------

# What is skipped: silent units, zero pixels.
SKIPS = {
    "dense": (False, False),
    "zero pixels": (False, True),
    "silent units": (True, False),
    "silent units, zero pixels": (True, True),
}
PHASES = ("first layer", "activation", "later layers", "output", "backward", "update")
BATCH = Config().batch
FEW = 3  # the largest batch that is exact at the full width, in 2.3 GB
SAMPLE = 16  # the full batch at the full width, by one scalar in so many, takes 3.5 GB
TARGET = 0.95


def name_of(model: str) -> str:
    """How a model is called in print."""
    return "LWTA, k = 4" if model == "lwta4" else label(model)


@dataclass(frozen=True)
class Activity:
    """What the programs depend on: pixels, bool (784, n), and each hidden layer's gates."""

    pixels: np.ndarray
    gates: list[np.ndarray]

    def images(self, chosen: Sequence[int]) -> Activity:
        """Some of the images."""
        return Activity(self.pixels[:, chosen], [gate[:, chosen] for gate in self.gates])

    def narrow(self, width: int, k: int) -> Activity:
        """With `width` units a layer: blocks from those often to those rarely won by one unit."""
        gates = []
        for gate in self.gates:
            blocks = gate.reshape(-1, k, gate.shape[1])
            by_rate = np.argsort(blocks[:, 0].mean(axis=1), kind="stable")
            spread = (np.arange(width // k) + 0.5) * len(blocks) * k / width
            gates.append(blocks[by_rate[spread.astype(int)]].reshape(width, -1))
        return Activity(self.pixels, gates)

    def program(self, kind: str, model: str, skip: str, sample: int = 1) -> Program:
        """The program of one pass of all these images."""
        units, pixels = SKIPS[skip]
        read = self.pixels if pixels else np.ones_like(self.pixels)
        return network_program(kind, MODELS[model][1], read, self.gates, units, sample)


def observe(
    hidden: int, model: str, seed: int, images: int, data_dir: str | None, every: int = 0
) -> tuple[dict[str, Activity], int | None]:
    """The activity of the initial and of the trained network on test images, half of each task.

    The network is the main script's at its default configuration but for the width. Also, after
    how many updates the test accuracy on Task 1 first was `TARGET`, tested after every so many and
    after each epoch; None if it never was.
    """
    limit_blas_threads()
    activation, k = ACTIVATIONS[MODELS[model][0]], max(2, MODELS[model][1])
    config = Config(hidden=hidden, k=k, evaluate_every=every)
    tasks, live = make_tasks(config, seed, load_mnist(data_dir))
    start = initial_weights(config, seed)
    network = MLP([start[0][live], *start[1:]], activation, k)
    halves = [images - images // 2, images // 2]
    shown = [task.test_inputs[:half] for task, half in zip(tasks, halves, strict=True)]
    inputs = np.concatenate(shown)
    pixels = np.zeros((PIXELS, images), bool)
    pixels[live] = inputs[:, :-1].T > 0

    def activity() -> Activity:
        network.forward(inputs, np.arange(DIGITS))
        return Activity(pixels, [gate > 0 for gate in network.workspace(images).gates])

    seen = {"initial": activity()}
    history = History(np.zeros((len(tasks) + 1, config.depth, len(tasks), hidden), "f4"))
    train_phases(network, tasks, tasks, config, seed, history)
    seen["trained"] = activity()
    learned = [
        row.update
        for row in history.evaluations
        if row.task <= 1 and row.test_accuracy[0] >= TARGET
    ]
    return seen, min(learned, default=None)


def costs_of(program: Program) -> dict[str, int]:
    """Cost by phase with one byte a scalar, and the total with four.

    Of a sampled program an estimate: a scalar that lies below n of those that are followed is
    taken to lie below n `sample` of all, and to be read for as many (spatial sampling, as
    Waldspurger et al. 2015 do for reuse distances). Exact if `sample` is 1.
    """
    sample = program.sample
    found = stack_depths(program, stack=program.followed if sample > 1 else None)
    depths = np.where(found > 0, 1 + (found - 1) * sample, 0)
    phases = {phase: sample * cost for phase, cost in cost_by_phase(program, depths).items()}
    four = sample * int(price(depths, 4).sum())
    return {"total": sum(phases.values()), "total of 4 bytes": four, **phases}


def mean_costs(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean over several images of each cost."""
    return {key: float(np.mean([costs[key] for costs in found])) for key in found[0]}


def measure_seed(
    model: str, seed: int, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """Rows of costs, the row of `learning`, and CPU seconds, of one model at one seed.

    A row's costs are means over its images; `std` is the total's standard deviation over them.
    """
    began = time.process_time()
    seen, updates = observe(options.hidden, model, seed, options.images, options.data_dir, every=1)
    rows = []
    for weights, activity in seen.items():
        shares = {
            "pixels": float(activity.pixels.mean()),
            **{f"layer {n}": float(gate.mean()) for n, gate in enumerate(activity.gates, 1)},
        }
        for kind in KINDS:
            images = options.images if kind == "forward" else options.updates
            # Spread over all images, so that few are of both tasks.
            chosen = np.linspace(0, options.images - 1, images).astype(int)
            for skip, (units, _) in list(SKIPS.items())[1:]:
                if not units and weights == "initial":
                    continue  # the same as with trained weights
                found = [costs_of(activity.images([n]).program(kind, model, skip)) for n in chosen]
                names = {"model": model, "seed": seed, "program": kind, "skip": skip}
                rows.append(
                    {
                        **names,
                        "weights": weights if units else "any",
                        "std": summarise([row["total"] for row in found])["std"],
                        "cost": mean_costs(found),
                        "active": shares,
                    }
                )
    learning = {"model": model, "seed": seed, "updates": updates}
    return rows, learning, time.process_time() - began


def measure_dense(model: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """The costs without skipping, which no weight and no image changes; CPU seconds."""
    began = time.process_time()
    shape = [np.zeros((units, 1), bool) for units in (PIXELS, options.hidden, options.hidden)]
    activity = Activity(shape[0], shape[1:])  # only its shape matters: nothing is skipped
    rows = []
    for kind in KINDS:
        names = {"model": model, "seed": None, "program": kind, "skip": "dense", "weights": "any"}
        program = activity.program(kind, model, "dense")
        touches = int(np.count_nonzero(program.operations() != NONE))
        cost = costs_of(program)
        rows.append({**names, "std": None, "cost": cost, "active": {}, "touches": touches})
    return rows, time.process_time() - began


def measure_variants(model: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """One image of the first seed's trained network under other ways of accounting; CPU seconds.

    Two stacks: one holds the parameters, their velocities and what the update makes of both, the
    other everything else, so that neither pushes the other down. Also the cost of a network with
    the same silent units that needs no winners, because each unit looks at itself alone.
    """
    began = time.process_time()
    activity = observe(options.hidden, model, 0, 2, options.data_dir)[0]["trained"].images([0])
    rows = []
    for kind in KINDS:
        for skip in SKIPS:
            program = activity.program(kind, model, skip)
            outlives = np.zeros(program.scalars, bool)
            for values in program.parameters:
                outlives[values] = True
            depths = {
                "ByteDMD": stack_depths(program),
                "no liveness": stack_depths(program, liveness=False),
                "two stacks": stack_depths(program, stack=outlives)
                + stack_depths(program, stack=~outlives),
            }
            totals = {name: int(price(found).sum()) for name, found in depths.items()}
            totals["4 bytes"] = int(price(depths["ByteDMD"], 4).sum())
            alone = price(stack_depths(activity.program(kind, "relu", skip))).sum()
            names = {"model": model, "program": kind, "skip": skip}
            rows.append({**names, "total": totals, "without competition": int(alone)})
    return rows, time.process_time() - began


def measure_batches(model: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    """Steps with momentum of several images at a time; CPU seconds.

    Exact and by a sample of the scalars: `BATCH` images in a narrow network, and `FEW` at the full
    width. By a sample alone: `BATCH` at the full width. The narrow network has the activity of some
    units of the full one, spread over all rates, so that the width alone differs.
    """
    began = time.process_time()
    full = observe(options.hidden, model, 0, BATCH, options.data_dir)[0]["trained"]
    few = full.images(np.linspace(0, BATCH - 1, FEW).astype(int))  # of both tasks
    narrow = full.narrow(options.narrow, MODELS[model][1])
    rows = []
    for activity in (narrow, few, full):
        for skip in SKIPS:
            hidden, images = activity.gates[0].shape
            exact = activity is not full
            rows.append(
                {
                    **{"model": model, "skip": skip, "hidden": hidden, "images": images},
                    "sampled": costs_of(activity.program("momentum", model, skip, SAMPLE)),
                    "exact": costs_of(activity.program("momentum", model, skip)) if exact else None,
                }
            )
    return rows, time.process_time() - began


def learning_rows(
    updates: Sequence[dict[str, Any]], batches: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The traffic of learning Task 1 to `TARGET`: median updates times the cost of an update.

    `batches` are those of `BATCH` images at the full width. A run that never got there counts as
    one that takes longest; None if half of the runs did not.
    """
    rows = []
    for batch in batches:
        found = [r["updates"] or np.inf for r in updates if r["model"] == batch["model"]]
        median = float(np.median(found))
        learns = bool(np.isfinite(median))
        rows.append(
            {
                **{"model": batch["model"], "skip": batch["skip"]},
                "updates": median if learns else None,
                "traffic": median * batch["sampled"]["total"] if learns else None,
            }
        )
    return rows


def summarise_costs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per model, program, weights and skipping: each cost's summary over the seeds."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("model", "program", "weights", "skip"))
        groups.setdefault(key, []).append(row)
    summaries = []
    for key, of in groups.items():
        names = dict(zip(("model", "program", "weights", "skip"), key, strict=True))
        cost = {name: summarise([row["cost"][name] for row in of]) for name in of[0]["cost"]}
        # Between images of one seed; what `cost` has is between seeds.
        std = summarise([row["std"] for row in of])["mean"]
        active = {
            name: summarise([row["active"][name] for row in of])["mean"] for name in of[0]["active"]
        }
        summaries.append({**names, "cost": cost, "std_images": std, "active": active})
    return summaries


def run_study(options: argparse.Namespace) -> dict[str, Any]:
    """Everything: the contents of study/data_movement.json."""
    began, jobs = time.perf_counter(), options.jobs or min(4, available_cores())
    units: list[partial[Any]] = [
        partial(measure, model, options)
        for model in MODELS
        for measure in (measure_dense, measure_variants)
    ]
    units += [
        partial(measure_seed, model, seed, options)
        for seed in range(options.n_seeds)
        for model in MODELS
    ]
    costs, variants, updates, batches, speeds, seconds = [], [], [], [], [], 0.0
    executor = local_executor(jobs, len(units))  # a job takes up to 1.3 GB
    futures = [executor.submit(unit) for unit in units]
    for number, _ in enumerate(as_finished(executor, futures), start=1):
        print(f"{number} of {len(units)} done", flush=True)
    for unit, future in zip(units, futures, strict=True):
        *found, took = future.result()
        seconds += took
        if unit.func is measure_variants:
            variants += found[0]
        else:
            costs += found[0]
            if unit.func is measure_dense:
                speeds.append(sum(row["touches"] for row in found[0]) / took)
            updates += found[1:]
    for model in MODELS:  # one after the other: a batch takes gigabytes
        rows, took = measure_batches(model, options)
        batches += rows
        seconds += took
        print(f"measure_batches {model}: {took:.0f} s", flush=True)
    full = [row for row in batches if row["exact"] is None]
    return {
        "schema": SCHEMA,
        "name": "data_movement",
        "question": "Does competition save memory traffic?",
        "command": options.command,
        "environment": environment(),
        "seconds": time.perf_counter() - began,
        "jobs": jobs,
        "core_seconds": seconds,
        "touches_per_second": float(np.mean(speeds)),
        "config": asdict(Config(hidden=options.hidden)),
        "n": options.n_seeds,
        "images": {"forward": options.images, "sgd": options.updates, "momentum": options.updates},
        "costs": summarise_costs(costs),
        "variants": variants,
        "batches": batches,
        "learning": learning_rows(updates, full),
        "updates_to_target": updates,
        "per_seed": costs,
    }


# --- Answer, tables, figure -----------------------------------------------------------------------

SILENT, BOTH = "silent units", "silent units, zero pixels"  # of SKIPS


def millions(cost: float | None) -> str:
    """A cost in millions, a dash for none."""
    return "-" if cost is None else f"{cost / 1e6:,.2f}"


def cost_rows(study: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    """The rows of `costs` of one program, model by model, trained before initial."""
    order = {"any": 0, "trained": 1, "initial": 2}
    rows = [row for row in study["costs"] if row["program"] == kind]
    yield from sorted(rows, key=lambda r: (list(MODELS).index(r["model"]), order[r["weights"]]))


def cost_row(
    study: dict[str, Any], kind: str, model: str, skip: str, weights: str = "trained"
) -> dict[str, Any]:
    """The row of `costs` of one program; weights matter only where silent units are skipped."""
    sought = (model, skip, weights if SKIPS[skip][0] else "any")
    (row,) = (
        row
        for row in cost_rows(study, kind)
        if (row["model"], row["skip"], row["weights"]) == sought
    )
    return row


def saved(
    study: dict[str, Any], kind: str, model: str, skip: str, weights: str = "trained"
) -> float:
    """The share of the dense cost that skipping saves."""
    skipping, dense = (
        cost_row(study, kind, model, name, weights)["cost"]["total"]["mean"]
        for name in (skip, "dense")
    )
    return 1 - skipping / dense


def each(text: Callable[[str], str], models: Sequence[str] = tuple(MODELS)) -> str:
    """A text for each model."""
    return ", ".join(f"{text(model)} ({name_of(model)})" for model in models)


def share(study: dict[str, Any], kind: str, model: str, phase: str) -> float:
    """A phase's share of the dense cost."""
    cost = cost_row(study, kind, model, "dense")["cost"]
    return cost[phase]["mean"] / cost["total"]["mean"]


def saved_by_each(study: dict[str, Any], kind: str, skip: str) -> str:
    """What skipping saves of each trained network's dense cost."""
    return each(lambda model: f"{saved(study, kind, model, skip):.1%}")


def winners_cost(study: dict[str, Any]) -> list[float]:
    """Of each program, the share that an activation with the same silent units, but without
    competition, would save."""
    return [1 - row["without competition"] / row["total"]["ByteDMD"] for row in study["variants"]]


def point_winners(study: dict[str, Any]) -> str:
    """What it costs to read everything for the maximum."""
    shares = each(lambda model: f"{share(study, 'forward', model, 'activation'):.2%}")
    return (
        f"Of a dense forward pass the activation costs {shares}. An activation with the same "
        "silent units that needs no winner, each unit looking at itself alone, would save at most "
        f"{max(winners_cost(study)):.3%} of any program here."
    )


def point_silence(study: dict[str, Any]) -> str:
    """What silent units save of a forward pass, trained and initial."""

    def active(model: str, weights: str = "trained") -> str:
        shares = cost_row(study, "forward", model, SILENT, weights)["active"]
        return f"{shares['layer 1']:.0%} and {shares['layer 2']:.0%}"

    return (
        f"After training {each(active)} of the units of the two hidden layers are active. Skipping "
        f"the others saves {saved_by_each(study, 'forward', SILENT)} of a forward pass; the first "
        f"layer, {share(study, 'forward', 'relu', 'first layer'):.0%} of it, is read all the same. "
        f"With initial weights ReLU has {active('relu', 'initial')} active and saves "
        f"{saved(study, 'forward', 'relu', SILENT, 'initial'):.1%}. Zero pixels save every network "
        f"{saved(study, 'forward', 'relu', 'zero pixels'):.1%}; on top of that, silent units bring "
        f"it to {saved_by_each(study, 'forward', BOTH)}."
    )


def point_rivals(study: dict[str, Any]) -> str:
    """Whether LWTA costs more than trained ReLU, paired by seeds, where both skip silent units."""

    def totals(model: str, kind: str) -> dict[int, float]:
        sought = (model, kind, SILENT, "trained")
        return {
            row["seed"]: row["cost"]["total"]
            for row in study["per_seed"]
            if (row["model"], row["program"], row["skip"], row["weights"]) == sought
        }

    sentences = []
    for model in ("lwta", "lwta4"):
        found: dict[str, list[str]] = {}
        for kind, title in KINDS.items():
            relu = totals("relu", kind)
            more = summarise([cost / relu[seed] - 1 for seed, cost in totals(model, kind).items()])
            low, high = more["ci95"] or [more["mean"]] * 2
            verdict = "more" if low > 0 else "less" if high < 0 else "neither more nor less"
            interval = f"{low:+.1%} to {high:+.1%}"
            found.setdefault(verdict, []).append(f"{title} {more['mean']:+.1%}, {interval}")
        verdicts = [f"**{word}** ({'; '.join(kinds)})" for word, kinds in found.items()]
        sentences.append(f"{name_of(model)} costs {', '.join(verdicts)}.")
    return "Compared with trained ReLU, both skipping silent units: " + " ".join(sentences)


def point_update(study: dict[str, Any]) -> str:
    """How momentum and decay change the answer."""
    return (
        f"The update is {share(study, 'sgd', 'relu', 'update'):.0%} of a dense SGD step of one "
        "image, and a silent unit's weights need none: silent units save "
        f"{saved_by_each(study, 'sgd', SILENT)}. Momentum and decay touch every weight whatever is "
        f"silent: the update is {share(study, 'momentum', 'relu', 'update'):.0%}, and silent units "
        f"save {saved_by_each(study, 'momentum', SILENT)}."
    )


def point_batch(study: dict[str, Any]) -> str:
    """How a batch does, and how well that is known."""
    costs, errors = batch_costs(study), batch_errors(study)
    per_image = costs["relu", "dense"] / BATCH / one_image(study, "relu", "dense")

    def saves(skip: str) -> str:
        return each(lambda model: f"{1 - costs[model, skip] / costs[model, 'dense']:.1%}")

    return (
        f"{BATCH} images share one update: a dense step, with momentum and decay, costs per image "
        f"{per_image:.0%} of a step of one. Silent units save {saves(SILENT)}, zero pixels too "
        f"{saves(BOTH)}. This is extrapolated from one scalar in {SAMPLE}; the same extrapolation "
        f"misses what is known exactly by {min(errors):+.1%} to {max(errors):+.1%}."
    )


def point_accounting(study: dict[str, Any]) -> str:
    """Whether the ranking depends on the accounting."""
    kept = [kept for _, accounting, kept in agreements(study) if accounting != "ByteDMD"]
    return (
        "If nothing ever leaves the stack, with a second stack for the parameters, or with 4 bytes "
        f"a scalar, {min(kept):.0%} to {max(kept):.0%} of all pairs of networks rank as before."
    )


def point_learning(study: dict[str, Any]) -> str:
    """The traffic to learn."""
    traffic = {(row["model"], row["skip"]): row["traffic"] for row in study["learning"]}

    def billions(skip: str) -> str:
        return each(lambda m: "-" if traffic[m, skip] is None else f"{traffic[m, skip] / 1e9:.1f}")

    return (
        f"{TARGET:.0%} on Task 1 takes a median over {study['n']} seeds of "
        f"{each(lambda m: updates_text(study, m))} updates of {BATCH} images, so "
        f"{billions('dense')} billion dense, {billions(SILENT)} without silent units, "
        f"{billions(BOTH)} without zero pixels too."
    )


POINTS = {
    "Finding the winners": point_winners,
    "Silent units": point_silence,
    "Competition or ReLU's own sparsity": point_rivals,
    "Momentum and decay": point_update,
    f"A batch of {BATCH}": point_batch,
    "Other accounting": point_accounting,
    "The traffic to learn": point_learning,
}


def answer(study: dict[str, Any]) -> str:
    """What the tables come to, as Markdown points."""
    return "\n".join(f"- **{title}.** {point(study)}" for title, point in POINTS.items())


def batch_costs(study: dict[str, Any]) -> dict[tuple[str, str], float]:
    """The estimated cost of a batch at the full width, by network and what is skipped."""
    return {
        (row["model"], row["skip"]): row["sampled"]["total"]
        for row in study["batches"]
        if row["exact"] is None
    }


def batch_errors(study: dict[str, Any]) -> list[float]:
    """By how much the same estimate misses each cost that is known."""
    return [
        row["sampled"]["total"] / row["exact"]["total"] - 1
        for row in study["batches"]
        if row["exact"] is not None
    ]


def one_image(study: dict[str, Any], model: str, skip: str) -> float:
    """The cost of a step of one image with momentum and decay, after training."""
    return cost_row(study, "momentum", model, skip)["cost"]["total"]["mean"]


def updates_text(study: dict[str, Any], model: str) -> str:
    """The median number of updates to `TARGET`, with the lowest and the highest."""
    found = sorted(
        r["updates"] or np.inf for r in study["updates_to_target"] if r["model"] == model
    )
    median, low, high = (
        f"{value:g}" if np.isfinite(value) else "never"
        for value in (np.median(found), found[0], found[-1])
    )
    return f"{median} [{low} to {high}]"


def overview_table(study: dict[str, Any]) -> str:
    """Each network's cost in millions, and in brackets what skipping saves."""
    batches = batch_costs(study)
    rows = []
    for row in cost_rows(study, "forward"):
        model, skip, weights = row["model"], row["skip"], row["weights"]
        if weights == "initial" and model != "relu":
            continue  # as many units are active as after training
        cells = []
        for kind in KINDS:
            cost = cost_row(study, kind, model, skip, weights)["cost"]["total"]["mean"]
            cells.append((cost, saved(study, kind, model, skip, weights)))
        if weights != "initial":
            batch = batches[model, skip]
            cells.append((batch, 1 - batch / batches[model, "dense"]))
        texts = [
            millions(cost) + (f" ({share:.1%})" if skip != "dense" else "") for cost, share in cells
        ]
        untrained = ", untrained" if weights == "initial" else ""
        rows.append(
            [name_of(model) + untrained, skip, *texts, *["-"] * (len(KINDS) + 1 - len(texts))]
        )
    head = ["network", "skipped", *KINDS.values(), f"the same, {BATCH} images, extrapolated"]
    return markdown(head, rows)


def phase_table(study: dict[str, Any], kind: str) -> str:
    """The cost of one program by phase, in millions, and what skipping saves."""
    rows = []
    for row in cost_rows(study, kind):
        cost = row["cost"]
        total = cost["total"]
        phases = [phase for phase in PHASES if phase in cost]
        interval = total["ci95"] and (total["ci95"][1] - total["ci95"][0]) / 2
        spread = f" ± {millions(interval)}" if interval else ""
        share = saved(study, kind, row["model"], row["skip"], row["weights"])
        rows.append(
            [
                name_of(row["model"]),
                row["skip"],
                row["weights"],
                millions(total["mean"]) + spread,
                millions(row["std_images"]),
                *(millions(cost[phase]["mean"]) for phase in phases),
                f"{cost['activation']['mean'] / total['mean']:.2%}",
                f"{share:.1%}" if row["skip"] != "dense" else "",
            ]
        )
    head = ["network", "skipped", "weights", "total, 95 % interval", "std over images"]
    return markdown([*head, *phases, "share of the activation", "saved"], rows)


def agreements(study: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """For each program and accounting, the share of pairs of networks ranked as by ByteDMD."""
    for kind in KINDS:
        of = [row["total"] for row in study["variants"] if row["program"] == kind]
        for accounting in of[0]:
            pair = ([totals[name] for totals in of] for name in ("ByteDMD", accounting))
            yield kind, accounting, agreement(*pair)


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """The share of pairs that two lists of costs put in the same order."""
    i, j = np.triu_indices(len(first), 1)
    signs = [np.sign(np.array(costs)[i] - np.array(costs)[j]) for costs in (first, second)]
    return float(np.mean(signs[0] == signs[1]))


def variant_table(study: dict[str, Any]) -> str:
    """What skipping saves of each network, by accounting, and the pairs ranked alike."""
    totals = {
        (row["program"], row["model"], row["skip"]): row["total"] for row in study["variants"]
    }
    columns = [("relu", "zero pixels"), *((m, skip) for skip in (SILENT, BOTH) for m in MODELS)]
    rows = []
    for kind, accounting, kept in agreements(study):
        cells = [
            f"{1 - totals[kind, m, skip][accounting] / totals[kind, m, 'dense'][accounting]:.1%}"
            for m, skip in columns
        ]
        dense = millions(totals[kind, "relu", "dense"][accounting])
        rows.append([KINDS[kind], accounting, dense, *cells, f"{kept:.0%}"])
    head = [f"{name_of(model)} saves by {skip}" for model, skip in columns]
    return markdown(
        ["program", "accounting", "dense ReLU, millions", *head, "pairs ranked alike"], rows
    )


def batch_table(study: dict[str, Any]) -> str:
    """Steps of several images with momentum and decay, exact and extrapolated from a sample."""
    sizes = list(dict.fromkeys((row["hidden"], row["images"]) for row in study["batches"]))
    found = {
        (row["model"], row["skip"], row["hidden"], row["images"]): row for row in study["batches"]
    }
    rows = []
    for model, skip in batch_costs(study):
        cells = [name_of(model), skip]
        for size in sizes:
            row, dense = (found[(model, name, *size)] for name in (skip, "dense"))
            best = "exact" if row["exact"] else "sampled"
            cost = row[best]["total"]
            saving = f" ({1 - cost / dense[best]['total']:.1%})" if skip != "dense" else ""
            cells.append(millions(cost) + saving)
            if row["exact"]:
                cells.append(f"{row['sampled']['total'] / cost - 1:+.1%}")
        cells.append(
            f"{batch_costs(study)[model, skip] / BATCH / one_image(study, model, skip):.3f}"
        )
        rows.append(cells)
    (narrow, few, full) = (f"{images} images, {hidden} units" for hidden, images in sizes)
    head = ["network", "skipped", f"{narrow}, exact", "error of a sample", f"{few}, exact"]
    head += ["error of a sample", f"{full}, extrapolated from a sample"]
    return markdown([*head, "per image, over one alone"], rows)


def learning_table(study: dict[str, Any]) -> str:
    """Updates to learn Task 1, and their traffic in millions."""
    rows = [
        [
            name_of(row["model"]),
            row["skip"],
            updates_text(study, row["model"]),
            millions(row["traffic"]),
            "-"
            if row["updates"] is None
            else millions(row["updates"] * one_image(study, row["model"], row["skip"])),
        ]
        for row in study["learning"]
    ]
    head = ["network", "skipped", f"median updates to {TARGET:.0%} [lowest to highest]"]
    head += [f"traffic with batches of {BATCH}, extrapolated", "if a step had one image, exact"]
    return markdown(head, rows)


def detail_tables(study: dict[str, Any]) -> dict[str, str]:
    """Each table beyond the overview, in Markdown, by its title; costs in millions."""
    return {
        **{f"By phase: {text}, one image": phase_table(study, k) for k, text in KINDS.items()},
        "Other ways of accounting": variant_table(study),
        f"A batch of {BATCH}, with momentum and decay": batch_table(study),
        "The traffic to learn Task 1": learning_table(study),
    }


def report(study: dict[str, Any]) -> str:
    """The answer and every table, in Markdown."""
    tables = [f"{title}\n\n{table}" for title, table in detail_tables(study).items()]
    return "\n\n".join([answer(study), overview_table(study), *tables])


# Not the colours of the models; greys for the two phases that are largest.
PHASE_COLOURS = ("0.35", "#CC79A7", "#F0E442", "#009E73", "#56B4E9", "0.8")


def movement_figure(study: dict[str, Any]) -> Figure:
    """Cost by phase of each program; a diamond shows the total with initial weights."""
    figure, panels = plt.subplots(
        1, len(KINDS), figsize=(14, 5.5), layout="constrained", sharey=True
    )
    hidden = study["config"]["hidden"]
    figure.suptitle(
        f"Memory traffic of one image by phase, {PIXELS}-{hidden}-{hidden}-{DIGITS}, "
        "mean over images and seeds"
    )
    places = {
        (model, skip): block * (len(SKIPS) + 1) + line
        for block, model in enumerate(MODELS)
        for line, skip in enumerate(SKIPS)
    }
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for row in cost_rows(study, kind):
            y = places[row["model"], row["skip"]]
            total = row["cost"]["total"]["mean"] / 1e6
            if row["weights"] == "initial":
                axes.plot(total, y, "D", color="white", markeredgecolor="black", markersize=6)
                continue
            left = 0.0
            for phase, shade in zip(PHASES, PHASE_COLOURS, strict=True):
                if phase in row["cost"]:
                    length = row["cost"][phase]["mean"] / 1e6
                    axes.barh(y, length, 0.8, left, color=shade)
                    left += length
        axes.set(title=title, xlabel="ByteDMD cost, millions")
        axes.title.set_fontsize(11)
    names = [
        f"{name_of(model)}, {skip if skip == 'dense' else f'skip {skip}'}" for model, skip in places
    ]
    panels[0].set_yticks(list(places.values()), names)
    panels[0].invert_yaxis()
    for text, (model, _) in zip(panels[0].get_yticklabels(), places, strict=True):
        text.set_color(colour(MODELS[model][0]))
    handles: list[Any] = [plt.Rectangle((0, 0), 1, 1, color=shade) for shade in PHASE_COLOURS]
    handles.append(
        plt.Line2D([], [], color="white", marker="D", markeredgecolor="black", linestyle="")
    )
    legend = [*PHASES, "total with initial weights"]
    figure.legend(handles, legend, loc="outside lower center", ncols=len(legend), frameon=False)
    return figure


# --- Command line ---------------------------------------------------------------------------------


def command_line() -> argparse.ArgumentParser:
    """One kernel, or the study."""
    parser = OneLineParser(
        description="Memory traffic of ReLU and LWTA networks by ByteDMD.", allow_abbrev=False
    )
    parser.add_argument(
        "--kernel", default=None, metavar="NAME", help=f"one number; of {', '.join(KERNELS)}"
    )
    parser.add_argument("--size", type=int, default=None, metavar="N", help="size of the kernel")
    parser.add_argument("--bytes", type=int, default=None, metavar="B", help="a scalar (default 1)")
    parser.add_argument("--hidden", type=int, default=400, metavar="N", help="units (default 400)")
    parser.add_argument("--n-seeds", type=int, default=5, metavar="N", help="seeds (default 5)")
    parser.add_argument(
        "--images", type=int, default=20, metavar="N", help="for forward passes (default 20)"
    )
    parser.add_argument(
        "--updates", type=int, default=2, metavar="N", help="images for updates (default 2)"
    )
    parser.add_argument(
        "--narrow",
        type=int,
        default=40,
        metavar="N",
        help=f"hidden units at which a batch of {BATCH} is exact (default 40)",
    )
    parser.add_argument(
        "--jobs", type=int, default=None, metavar="N", help="default: the cores, up to 4"
    )
    parser.add_argument(
        "--data-dir",
        default=None,
        metavar="DIR",
        help="the four MNIST files (default: $MNIST_DIR, else the cache)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("study/data_movement.json"),
        metavar="FILE",
        help="results, with a figure beside them (default study/data_movement.json)",
    )
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raise `InputError` for what cannot be measured."""
    if options.kernel is None:
        for name in ("size", "bytes"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} needs --kernel")
    elif options.kernel not in KERNELS:
        raise InputError(f"--kernel {options.kernel}: there are {', '.join(KERNELS)}")
    elif options.size is None:
        raise InputError("--kernel needs --size")
    if options.bytes is not None and not 1 <= options.bytes <= 64:
        raise InputError(f"--bytes must be 1 to 64, not {options.bytes}")
    for name, least in (("n_seeds", 1), ("images", 2), ("updates", 1), ("jobs", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more, not {value}")
    if options.images > 2 * Config().test_per_task:
        raise InputError(f"--images must be at most {2 * Config().test_per_task}, those of tests")
    if options.updates > options.images:
        raise InputError("--updates must not be above --images")
    for width in (options.hidden, options.narrow):
        if width < 4 or width % 4:
            raise InputError(
                f"width {width} cannot be cut into blocks of 2 and 4; choose a multiple"
            )
    if options.narrow >= options.hidden:
        raise InputError("--narrow must be below --hidden")


def main(arguments: Sequence[str] | None = None) -> int:
    """Price one kernel, or run the study; the exit status."""
    options = command_line().parse_args(arguments)
    check_options(options)
    given = sys.argv[1:] if arguments is None else arguments
    options.command = " ".join(["python3 measure_data_movement.py", *given])
    if options.kernel is not None:
        depths = stack_depths(kernel(options.kernel, options.size))
        print(price(depths, options.bytes or 1).sum())
        return 0
    check_writable(options.out)
    load_mnist(options.data_dir)
    study = run_study(options)
    write_or_stop(options.out, to_json(study))
    save_figure(movement_figure(study), options.out.with_suffix(".png"))
    print(f"\n{report(study)}\n")
    print(f"{study['touches_per_second'] / 1e6:.1f} million touches a second of one core")
    print(f"Wrote {options.out}")
    return 0


if __name__ == "__main__":
    run_script(main)
