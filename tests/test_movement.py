"""ByteDMD: worked values, a naive stack, networks in plain loops, and the study's parts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, product
from math import ceil, exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compete_to_compute import ACTIVATIONS, DIGITS, MLP, InputError, cross_entropy_gradient
from study import movement
from study.movement import MODELS, SKIPS, Activity
from study.programs import KERNELS, KINDS, NONE, Program, cost, kernel, price, stack_depths


def naive_depths(
    operations: Sequence[tuple[int, int, int]],
    arguments: Sequence[Sequence[int]],
    returned: set[int],
    liveness: bool = True,
    on_stack: Callable[[int], bool] = lambda scalar: True,
) -> list[list[int]]:
    """The definition, word for word, on a list whose last element is the top."""
    last_read = {s: t for t, (*operands, _) in enumerate(operations) for s in operands}

    def stays(scalar: int, now: int) -> bool:
        needed = not liveness or scalar in returned or last_read.get(scalar, -1) > now
        return needed and on_stack(scalar)

    stack = [s for argument in reversed(arguments) for s in argument if stays(s, -1)]
    depths = []
    for now, (first, second, result) in enumerate(operations):
        read = [s for s in (first, second) if s != NONE and on_stack(s)]
        depth = {s: len(stack) - stack.index(s) for s in read}
        depths.append([depth.get(s, 0) for s in (first, second)])
        for scalar in read:
            stack.remove(scalar)
            stack.append(scalar)
        stack = [s for s in [*stack, result] if s not in (*read, result) or stays(s, now)]
    return depths


def plain(program: Program) -> tuple[list, list, set]:
    """Operations, arguments and what is returned, as `naive_depths` takes them."""
    arguments = [argument.ravel().tolist() for argument in program.arguments]
    returned = {scalar for values in program.returned for scalar in values.ravel().tolist()}
    return program.operations().tolist(), arguments, returned


def naive_price(depth: int, size: int) -> int:
    return sum(ceil(sqrt(j)) for j in range((depth - 1) * size + 1, depth * size + 1))


# --- Prices and depths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [
        ("matvec", 1, {2: 26, 3: 75, 4: 157, 5: 270, 6: 422, 7: 615, 8: 896}),
        ("vecmat", 1, {2: 25, 3: 72, 4: 150}),
        ("matmul", 1, {2: 57, 3: 258, 4: 720, 8: 8867}),
        ("matvec", 4, {4: 1129}),
        ("matmul", 4, {4: 5493}),
    ],
)
def test_products_have_their_known_values(name: str, size: int, values: dict) -> None:
    assert {n: cost(kernel(name, n), size)["total"] for n in values} == values


def test_small_programs_by_hand() -> None:
    program = Program()
    a, b, c = (program.argument(1) for _ in range(3))
    program.returned.append(program.apply(program.apply(a, b), c))
    assert stack_depths(program).tolist() == [[1, 2], [1, 2]]
    assert [cost(program, size)["total"] for size in (1, 2)] == [6, 14]

    program = Program()
    a, b = program.argument(1), program.argument(1)
    program.returned += [program.apply(a, a), program.apply(b, b), b]  # read twice by one operation
    assert stack_depths(program).tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_agrees_with_a_naive_stack(name: str) -> None:
    depths = naive_depths(*plain(kernel(name, 4)))
    assert cost(kernel(name, 4))["total"] == sum(ceil(sqrt(d)) for pair in depths for d in pair)


def test_a_million_reads_and_writes_a_second() -> None:
    program = kernel("matmul", 45)
    began = time.process_time()
    cost(program)
    seconds = time.process_time() - began
    assert np.count_nonzero(program.operations() != NONE) / seconds >= 1e6


@given(st.integers(1, 3000), st.integers(1, 9))
def test_the_price_is_its_sum(depth: int, size: int) -> None:
    assert price(np.array([depth, 0]), size).tolist() == [naive_price(depth, size), 0]


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Reads of anything there is, some results returned, some never read."""
    program = Program()
    for size in draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)):
        program.argument(size)
    for _ in range(draw(st.integers(0, 60))):
        there = st.integers(0, program.scalars - 1)
        second = draw(st.one_of(st.just(NONE), there))
        program.apply(np.array([draw(there)], np.int32), second)
    returned = draw(st.sets(st.integers(0, program.scalars - 1)))
    program.returned.append(np.array(sorted(returned), np.int32))
    return program


@settings(max_examples=60)
@given(programs(), st.booleans(), st.integers(1, 9), st.integers(1, 3))
def test_random_programs_agree_with_a_naive_stack(
    program: Program, liveness: bool, size: int, stacks: int
) -> None:
    some = np.arange(program.scalars) % stacks == 0
    naive = naive_depths(*plain(program), liveness, lambda scalar: bool(some[scalar]))
    assert stack_depths(program, liveness, some).tolist() == naive
    expected = sum(naive_price(depth, size) for pair in naive for depth in pair if depth)
    assert cost(program, size, liveness, some)["total"] == expected


# --- Networks in plain loops ----------------------------------------------------------------------

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
Array = np.ndarray  # of Scalars, None for a zero that is never stored


class Scalar:
    """A number that keeps a list of all operations on it and its like."""

    def __init__(self, value: float, scalars: list[Scalar], operations: list) -> None:
        self.value, self.number = value, len(scalars)
        self.scalars, self.operations = scalars, operations
        scalars.append(self)

    def do(self, function: Callable[..., float], *other: Scalar) -> Scalar:
        value = function(self.value, *(scalar.value for scalar in other))
        result = Scalar(value, self.scalars, self.operations)
        second = other[0].number if other else NONE
        self.operations.append((self.number, second, result.number))
        return result

    def __add__(self, other: Scalar) -> Scalar:
        return self.do(lambda a, b: a + b, other)

    def __sub__(self, other: Scalar) -> Scalar:
        return self.do(lambda a, b: a - b, other)

    def __mul__(self, other: Scalar) -> Scalar:
        return self.do(lambda a, b: a * b, other)


def total(*factors: Iterable[Scalar | None], start: Scalar | None = None) -> Scalar | None:
    """start + the sum of products, or of single terms, as far as they are there."""
    for left, *right in zip(*factors, strict=True):
        if left is not None and None not in right:
            term = left * right[0] if right else left
            start = term if start is None else start + term
    return start


def plain_activation(z: Array, k: int, skip: bool) -> Array:
    h = np.full_like(z, None)
    for first, n in product(range(0, len(z), k), range(z.shape[1])):
        block = z[first : first + k, n]
        largest = block[0]
        for scalar in block[1:]:
            largest = largest.do(max, scalar)
        for unit, scalar in enumerate(block, start=first):
            speaks = scalar.value == largest.value if k > 1 else scalar.value > 0
            if k == 1:
                h[unit, n] = scalar.do(lambda a: max(a, 0))
            elif not skip:
                h[unit, n] = scalar.do(lambda a, m: a if a == m else 0.0, largest)
            else:
                h[unit, n] = largest
            if skip and not speaks:
                h[unit, n] = None
    return h


def plain_gradient(logits: Array, labels: np.ndarray) -> Array:
    images, classes = range(logits.shape[1]), range(len(logits))
    largest = list(logits[0])
    for n, j in product(images, classes[1:]):
        largest[n] = largest[n].do(max, logits[j, n])
    e = [[logits[j, n].do(lambda a, m: exp(a - m), largest[n]) for j in classes] for n in images]
    sums = [total(row) for row in e]
    p = [[e[n][j].do(lambda a, s: a / s, sums[n]) for j in classes] for n in images]

    def times_lr(n: int, j: int) -> Scalar:
        return p[n][j].do(lambda share: LR * (share - (labels[n] == j)) / len(images))

    return np.array([[times_lr(n, j) for j in classes] for n in images]).T


def plain_update(w: Scalar, g: Scalar | None, v: Scalar | None, decays: bool) -> list[Scalar]:
    if v is None:
        return [w if g is None else w - g]
    v = v.do(lambda a: MOMENTUM * a)
    if g is not None:
        v = v - g
    if decays:
        v = v - w.do(lambda a: LR * DECAY * a)
    return [w + v, v]


def plain_network(
    kind: str,
    k: int,
    parameters: list[Array],
    velocities: list[Array],
    x: Array,
    labels: Any,
    skip: bool,
) -> list[Scalar]:
    """`network_program` scalar by scalar, with numbers; what is returned."""
    signals = [x]
    for weights, biases in zip(parameters[::2], parameters[1::2], strict=True):
        z = np.empty((len(biases), x.shape[1]), object)
        for j, n in np.ndindex(z.shape):
            z[j, n] = total(signals[-1][:, n], weights[:, j], start=biases[j])
        signals.append(z if biases is parameters[-1] else plain_activation(z, k, skip))
    logits = signals.pop()
    if kind == "forward":
        return [scalar for array in (*parameters, logits) for scalar in array.ravel()]

    delta, gradients = plain_gradient(logits, labels), []
    for layer in reversed(range(len(signals))):
        s, weights = signals[layer], parameters[2 * layer]
        gradient, back = np.empty_like(weights), np.full_like(s, None)
        for i, j in np.ndindex(gradient.shape):
            gradient[i, j] = total(s[i], delta[j])
        gradients[:0] = [gradient, np.array([total(row) for row in delta])]
        if layer:
            for i, n in np.argwhere(s != None):  # noqa: E711 (element by element)
                back[i, n] = total(weights[i], delta[:, n])
            if not skip:
                for i, n in np.ndindex(s.shape):
                    back[i, n] = back[i, n].do(lambda d, h: d if h else 0.0, s[i, n])
            delta = back
    flat = [np.concatenate([a.ravel() for a in arrays]) for arrays in (parameters, gradients)]
    flat.append(np.concatenate([a.ravel() for a in velocities or [np.full_like(flat[0], None)]]))
    decays = np.concatenate([np.full(a.size, a.ndim == 2) for a in parameters])
    steps = [plain_update(*values) for values in zip(*flat, decays, strict=True)]
    return [scalar for group in zip(*steps, strict=True) for scalar in group]


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("model", MODELS)
def test_networks_agree_with_plain_loops_and_the_experiment(
    model: str, skip: str, images: int
) -> None:
    (name, k), (_, units, pixels) = MODELS[model], SKIPS[skip]
    rng = np.random.default_rng(k)
    weights = [rng.standard_normal(shape) for shape in pairwise([3, 4, 8, DIGITS])]
    start = [array for w in weights for array in (w, np.zeros(w.shape[1]))]
    velocity = [rng.standard_normal(array.shape) for array in start]
    x, labels = rng.random((3, images)), rng.integers(0, DIGITS, images)
    x[1, 0] = 0

    network = MLP(weights, ACTIVATIONS[name], max(k, 2), np.float64)
    rows = [np.c_[w.T, b] for w, b in zip(velocity[::2], velocity[1::2], strict=True)]
    network.velocity[:] = np.concatenate([array.ravel() for array in rows])
    inputs = np.c_[x.T, np.ones(images)]
    logits = network.forward(inputs, np.arange(DIGITS))
    gates = [gate > 0 for gate in network.workspace(images).gates]
    network.backward(inputs, np.arange(DIGITS), LR * cross_entropy_gradient(logits, labels))
    network.update(MOMENTUM, LR * DECAY)

    for kind in KINDS:
        scalars: list[Scalar] = []
        operations: list[tuple[int, int, int]] = []
        make = np.vectorize(lambda v, s=scalars, o=operations: Scalar(v, s, o), otypes=[object])
        parameters = [make(array) for array in start]
        velocities = [make(array) for array in velocity] if kind == "momentum" else []
        pictures = make(x)
        arguments = [[s.number for s in a.ravel()] for a in (*parameters, *velocities, pictures)]
        if pixels:
            pictures[x == 0] = None
        returned = plain_network(kind, k, parameters, velocities, pictures, labels, units)
        values = [scalar.value for scalar in returned]
        if kind == "forward":
            np.testing.assert_allclose(values[-logits.size :], logits.ravel())
        if kind == "momentum":
            ours = np.concatenate([np.r_[w[:, :-1].T.ravel(), w[:, -1]] for w in network.weights])
            np.testing.assert_allclose(values[: len(ours)], ours)
        program = Activity(x != 0, gates).program(kind, model, skip)
        expected = naive_depths(operations, arguments, {scalar.number for scalar in returned})
        assert stack_depths(program).tolist() == expected
