"""ByteDMD: worked values, a naive stack, networks in plain loops, and the study's parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import count, pairwise, product
from math import ceil, exp, sqrt
from operator import add, mul, sub, truediv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    MLP,
    Config,
    InputError,
    Mnist,
    cross_entropy_gradient,
    layer_views,
    make_tasks,
)
from study import movement
from study.movement import SKIPS
from study.programs import KINDS, MODELS, NONE, Program, cost, kernel, price, stack_depths


def naive_depths(
    operations: Sequence[tuple[int, int, int]],
    arguments: Sequence[Sequence[int]],
    returned: set[int],
) -> list[list[int]]:
    """The definition, word for word, on a list whose last element is the top."""
    last_read = {s: t for t, (*operands, _) in enumerate(operations) for s in operands}

    def stays(scalar: int, now: int) -> bool:
        return scalar in returned or last_read.get(scalar, -1) > now

    stack = [s for argument in reversed(arguments) for s in argument if stays(s, -1)]
    depths = []
    for now, (first, second, result) in enumerate(operations):
        read = [s for s in (first, second) if s != NONE]
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


# --- Prices and depths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [
        ("matvec", 1, {2: 26, 3: 75, 4: 157, 5: 270, 6: 422, 7: 615, 8: 896}),
        ("vecmat", 1, {2: 25, 3: 72, 4: 150}),
        ("matmul", 1, {2: 57, 3: 258, 4: 720, 8: 8867}),
        ("matvec", 4, {4: 1129}),
        ("matmul", 4, {4: 5493}),
        ("relu-forward", 1, {4: 1240}),
        ("lwta4-momentum-skipping", 1, {4: 3961, 8: 13693}),
    ],
)
def test_kernels_have_their_known_values(name: str, size: int, values: dict) -> None:
    assert {n: cost(kernel(name, n), size)["total"] for n in values} == values


@pytest.mark.parametrize("size", [1, 3, 9])
def test_the_price_is_its_sum(size: int) -> None:
    roots = np.ceil(np.sqrt(np.arange(1, 3000 * size + 1))).reshape(-1, size)
    assert price(np.arange(3001), size).tolist() == [0, *roots.sum(axis=1)]


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


@given(programs())
def test_random_programs_agree_with_a_naive_stack(program: Program) -> None:
    naive = naive_depths(*plain(program))
    assert stack_depths(program).tolist() == naive
    assert cost(program)["total"] == sum(ceil(sqrt(depth)) for pair in naive for depth in pair)


# --- Networks in plain loops ----------------------------------------------------------------------

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01
Array = np.ndarray  # of Scalars, None for a zero that is never stored


class Scalar:
    """A number that keeps a list of all operations on it and its like."""

    def __init__(self, value: float, number: Iterator[int], operations: list) -> None:
        self.value, self.number = value, next(number)
        self.likewise = number, operations

    def do(self, function: Callable[..., float], *other: Scalar) -> Scalar:
        result = Scalar(function(self.value, *(s.value for s in other)), *self.likewise)
        second = other[0].number if other else NONE
        self.likewise[1].append((self.number, second, result.number))
        return result


def total(*factors: Iterable[Scalar | None], start: Scalar | None = None) -> Scalar | None:
    """start + the sum of products, or of single terms, as far as they are there."""
    for left, *right in zip(*factors, strict=True):
        if left is not None and None not in right:
            term = left.do(mul, right[0]) if right else left
            start = term if start is None else start.do(add, term)
    return start


def largest(scalars: Iterable[Scalar]) -> Scalar:
    return reduce(lambda a, b: a.do(max, b), scalars)


def fill(shape: tuple[int, ...], value: Callable[..., Scalar | None]) -> Array:
    result = np.empty(shape, object)
    for place in np.ndindex(shape):
        result[place] = value(*place)
    return result


def plain_forward(s: Array, weights: Array, biases: Array) -> Array:
    shape = len(biases), s.shape[1]
    return fill(shape, lambda j, n: total(s[:, n], weights[:, j], start=biases[j]))


def plain_activation(z: Array, k: int, skip: bool) -> Array:
    h = np.full_like(z, None)
    for first, n in product(range(0, len(z), k), range(z.shape[1])):
        winner = largest(z[first : first + k, n])
        for unit, scalar in enumerate(z[first : first + k, n], start=first):
            if k == 1:
                h[unit, n] = scalar.do(lambda a: max(a, 0))
            elif skip:
                h[unit, n] = winner
            else:
                h[unit, n] = scalar.do(lambda a, m: a if a == m else 0.0, winner)
            if skip and scalar.value < (winner.value if k > 1 else 0):
                h[unit, n] = None
    return h


def plain_gradient(logits: Array, labels: np.ndarray) -> Array:
    images, top = len(labels), [largest(column) for column in logits.T]
    e = fill(logits.T.shape, lambda n, j: logits[j, n].do(lambda a, m: exp(a - m), top[n]))
    sums = [total(row) for row in e]
    p = fill(e.shape, lambda n, j: e[n, j].do(truediv, sums[n]))
    return fill(p.shape, lambda n, j: p[n, j].do(lambda q: LR * (q - (labels[n] == j)) / images)).T


def plain_backward(s: Array, weights: Array, delta: Array, last: bool, skip: bool) -> list[Array]:
    gradients = [fill(weights.shape, lambda i, j: total(s[i], delta[j]))]
    gradients.append(fill(delta.shape[:1], lambda j: total(delta[j])))
    if last:
        return [*gradients, delta]
    back = fill(s.shape, lambda i, n: s[i, n] and total(weights[i], delta[:, n]))
    if not skip:
        back = fill(s.shape, lambda i, n: back[i, n].do(lambda d, h: d if h else 0.0, s[i, n]))
    return [*gradients, back]


def plain_update(w: Scalar, g: Scalar | None, v: Scalar | None, decays: bool) -> list[Scalar]:
    if v is None:
        return [w if g is None else w.do(sub, g)]
    v = v.do(lambda a: MOMENTUM * a)
    if g is not None:
        v = v.do(sub, g)
    if decays:
        v = v.do(sub, w.do(lambda a: LR * DECAY * a))
    return [w.do(add, v), v]


def plain_network(
    kind: str, k: int, skip: bool, labels: np.ndarray, x: Array, arrays: list[Array]
) -> list[Scalar]:
    """`network_program` with numbers, from weights and biases and their velocities; its results."""
    parameters, velocities, signals = arrays[:6], arrays[6:], [x]
    weights, biases = parameters[::2], parameters[1::2]
    for layer in range(2):
        z = plain_forward(signals[-1], weights[layer], biases[layer])
        signals.append(plain_activation(z, k, skip))
    logits = plain_forward(signals[-1], weights[-1], biases[-1])
    if kind == "forward":
        return [scalar for array in (*parameters, logits) for scalar in array.flat]
    delta, gradients = plain_gradient(logits, labels), []
    for layer in (2, 1, 0):
        *own, delta = plain_backward(signals[layer], weights[layer], delta, layer == 0, skip)
        gradients[:0] = own
    flat = [np.concatenate([a.ravel() for a in sort]) for sort in (parameters, gradients)]
    moving = [scalar for array in velocities for scalar in array.flat] or [None] * flat[0].size
    decays = [array.ndim == 2 for array in parameters for _ in array.flat]
    steps = [plain_update(*values) for values in zip(*flat, moving, decays, strict=True)]
    return [scalar for results in zip(*steps, strict=True) for scalar in results]


def arrays_of(network: MLP, flat: np.ndarray) -> list[np.ndarray]:
    """W (inputs, outputs) and b of each layer, copied from a vector like its parameters."""
    views = layer_views(flat.copy(), [weights.shape for weights in network.weights])
    return [array for view in views for array in (view[:, :-1].T, view[:, -1])]


@pytest.mark.parametrize(("skip", "images"), [*((skip, 2) for skip in SKIPS), ("both", 1)])
@pytest.mark.parametrize("model", MODELS)
def test_networks_agree_with_plain_loops_and_the_experiment(
    model: str, skip: str, images: int
) -> None:
    (name, k), (_, units, pixels) = MODELS[model], SKIPS[skip]
    rng = np.random.default_rng(k)
    zeros = [np.zeros(shape) for shape in pairwise([3, 4, 4, DIGITS])]
    network = MLP(zeros, ACTIVATIONS[name], max(k, 2), np.float64)
    network.parameters[:], network.velocity[:] = rng.standard_normal((2, network.velocity.size))
    start, velocity = arrays_of(network, network.parameters), arrays_of(network, network.velocity)
    x, labels = rng.random((3, images)), rng.integers(0, DIGITS, images)
    x[1, 0] = 0
    inputs = np.c_[x.T, np.ones(images)]
    logits = network.forward(inputs, np.arange(DIGITS))
    gates = [gate > 0 for gate in network.workspace(images).gates]
    network.backward(inputs, np.arange(DIGITS), LR * cross_entropy_gradient(logits, labels))
    network.update(MOMENTUM, LR * DECAY)
    moved = [*arrays_of(network, network.parameters), *arrays_of(network, network.velocity)]

    for kind in KINDS:
        operations: list[tuple[int, int, int]] = []
        scalar = np.vectorize(partial(Scalar, number=count(), operations=operations), otypes="O")
        arrays = [scalar(array) for array in (*start, *(velocity if kind == "momentum" else ()))]
        pictures = scalar(x)
        arguments = [[s.number for s in array.flat] for array in (*arrays, pictures)]
        if pixels:
            pictures[x == 0] = None
        returned = plain_network(kind, k, units, labels, pictures, arrays)
        values = [scalar.value for scalar in returned]
        if kind == "forward":
            np.testing.assert_allclose(values[-logits.size :], logits.ravel())
        if kind == "momentum":
            np.testing.assert_allclose(values, np.concatenate([a.ravel() for a in moved]))
        program = movement.program(kind, model, skip, [x != 0, *gates])
        expected = naive_depths(operations, arguments, {scalar.number for scalar in returned})
        assert stack_depths(program).tolist() == expected


# --- The study ------------------------------------------------------------------------------------


def test_half_of_the_observed_images_are_of_each_task(mnist: Mnist) -> None:
    options = movement.command_line().parse_args(["--hidden", "16", "--images", "4"])
    pixels, *gates = movement.observe("lwta4", options, 0)
    tasks, used = make_tasks(Config(), 0, mnist)
    shown = np.concatenate([task.test_inputs[:2, :-1] for task in tasks])
    assert np.array_equal(pixels[used], shown.T > 0)
    assert not pixels[~used].any()
    assert all((gate.reshape(4, 4, 4).sum(axis=1) == 1).all() for gate in gates)


def test_the_study_writes_strict_json_tables_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(model: str, options: object, seed: int) -> list[np.ndarray]:
        rng, k = np.random.default_rng(seed), max(2, MODELS[model][1])
        winners = rng.integers(0, k, (2, 8 // k, 1, 2)) == np.arange(k)[:, None]
        return [rng.random((12, 2)) < 0.3, *winners.reshape(2, 8, 2)]

    monkeypatch.setattr(movement, "observe", made_up)
    monkeypatch.setattr(movement, "PIXELS", 12)
    options = f"--hidden 8 --n-seeds 2 --images 2 --jobs 1 --out {tmp_path}/study.json"
    assert movement.main(options.split()) == 0
    written = (tmp_path / "study.json").read_text()
    study = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert study["command"] == f"python3 -m study movement {options}"
    printed, tables = capsys.readouterr().out, movement.tables(study)
    assert all(f"{title}\n\n{table}\n" in printed for title, table in tables.items())
    assert (tmp_path / "study.png").stat().st_size > 1000
    numbers = movement.quantities(study)
    for name in map(".".join, product(SKIPS, MODELS, KINDS)):
        phases = [numbers.get(f"cost.{name}.{phase}", 0) for phase in movement.PHASES]
        assert sum(phases) == pytest.approx(numbers[f"cost.{name}.total"])
        assert numbers.get(f"saved.{name}", 0) >= 0


def test_lwta_is_compared_with_relu_seed_by_seed() -> None:
    study = {"costs": []}
    for model, kind, skip in product(MODELS, KINDS, SKIPS):
        row = {"model": model, "program": kind, "skip": skip}
        for seed, relu in enumerate([1e6, 2e6]):
            total = {"relu": 1, "lwta": 1.5 - seed, "lwta4": 1}[model] * relu
            study["costs"].append({**row, "seed": seed, "cost": {"total": total}})
    numbers = movement.quantities(study)
    assert numbers["over_relu.lwta.forward"] == 0  # half more, then half less
    assert numbers["over_relu.lwta.forward.low"] == pytest.approx(-6.35, abs=0.01)
    assert numbers["over_relu.lwta4.sgd"] == numbers["over_relu.lwta4.sgd.high"] == 0
    assert numbers["cost.both.lwta4.momentum.total"] == 1.5
    assert numbers["saved.silent.lwta.forward"] == 0


# --- Command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kernel matvec", "needs --size"),
        ("--kernel matmul --size 201", "--size must be 1 to 200"),
        ("--kernel lwta4-sgd --size 6", "blocks of 4"),
        ("--kernel matvec --size 2 --bytes 0", "--bytes must be 1"),
        ("--bytes 3", "--bytes needs --kernel"),
        ("--hidden 30", "width 30"),
        ("--n-seeds 0", "--n-seeds must be 1"),
        ("--images 2 --updates 3", "--updates must not be above"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        movement.main(arguments.split())


def test_the_command_prints_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert movement.main("--kernel matmul --size 4 --bytes 4".split()) == 0
    assert capsys.readouterr().out == "5493\n"
