"""ByteDMD: worked values, a naive stack, networks in plain loops, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partialmethod, reduce
from itertools import count, pairwise, product
from math import ceil, exp, sqrt
from operator import add, mul, sub, truediv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import compete_to_compute as experiment
from compete.data import Mnist
from compete.files import InputError
from compete_to_compute import DIGITS, MLP, Config, cross_entropy_gradient, layer_views
from study import movement
from study.movement import SKIPS
from study.traffic import KINDS, MODELS, NONE, Program, cost, kernel, stack_depths


def naive_depths(operations: list, arguments: list, returned: set[int]) -> list[list[int]]:
    """The definition, word for word, on a list whose last element is the top."""
    last_read = {s: t for t, (*operands, _) in enumerate(operations) for s in operands}
    last_read |= dict.fromkeys(returned, len(operations))
    stack = [s for argument in reversed(arguments) for s in argument if s in last_read]
    depths = []
    for now, (*operands, result) in enumerate(operations):
        depths.append([0 if s == NONE else len(stack) - stack.index(s) for s in operands])
        for scalar in operands:
            if scalar != NONE:
                stack.remove(scalar)
                stack.append(scalar)
        stack = [s for s in [*stack, result] if last_read.get(s, NONE) > now]
    return depths


# --- Prices and depths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "values"),
    [
        ("matvec", 1, {2: 26, 3: 75, 4: 157, 5: 270, 6: 422, 7: 615, 8: 896}),
        ("vecmat", 1, {2: 25, 3: 72, 4: 150}),
        ("matmul", 1, {2: 57, 3: 258, 4: 720, 8: 8867}),
        ("matvec", 4, {4: 1129}),
        ("matmul", 4, {4: 5493}),
        ("lwta4-momentum-skipping", 1, {4: 3961, 8: 13693}),
    ],
)
def test_kernels_have_their_known_values(name: str, size: int, values: dict) -> None:
    assert {n: cost(kernel(name, n), size)["total"] for n in values} == values


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
    arguments = [argument.tolist() for argument in program.arguments]
    returned = set(program.returned[0].tolist())
    naive = naive_depths(program.operations().tolist(), arguments, returned)
    assert stack_depths(program).tolist() == naive
    for size in (1, 3):
        ends = [depth * size for pair in naive for depth in pair if depth]
        prices = (ceil(sqrt(j)) for end in ends for j in range(end - size + 1, end + 1))
        assert cost(program, size)["total"] == sum(prices)


# --- Networks in plain loops ----------------------------------------------------------------------

LR, MOMENTUM, DECAY, LABEL = 0.1, 0.9, 0.01, 7


class Scalar:
    """A number; all operations on such numbers are noted."""

    numbers, operations = count(), []

    def __init__(self, value: float) -> None:
        self.value, self.number = value, next(self.numbers)

    def do(self, function: Callable[..., float], other: Scalar | None = None) -> Scalar:
        result = Scalar(function(self.value, *([other.value] if other else ())))
        self.operations.append((self.number, other.number if other else NONE, result.number))
        return result

    __add__, __sub__ = partialmethod(do, add), partialmethod(do, sub)
    __mul__, __truediv__ = partialmethod(do, mul), partialmethod(do, truediv)


Signal = Sequence[Scalar | None]  # None for a zero that is never stored


def total(lefts: Signal, rights: Signal, start: Scalar | None = None) -> Scalar | None:
    for left, right in zip(lefts, rights, strict=True):
        if left and right:
            start = start + left * right if start else left * right
    return start


def largest(scalars: Signal) -> Scalar:
    return reduce(lambda a, b: a.do(max, b), scalars)


def plain_activation(z: Signal, k: int, skip: bool) -> Signal:
    h = []
    for block in np.reshape(z, (-1, k)):
        winner = largest(block)
        for unit in block:
            if k == 1:
                own = unit.do(lambda a: max(a, 0))
            else:
                own = winner if skip else unit.do(lambda a, m: a if a == m else 0.0, winner)
            is_silent = unit.value < (winner.value if k > 1 else 0)
            h.append(None if skip and is_silent else own)
    return h


def plain_gradient(logits: Signal) -> Signal:
    top = largest(logits)
    exponentials = [z.do(lambda a, m: exp(a - m), top) for z in logits]
    whole = reduce(add, exponentials)
    p = [e / whole for e in exponentials]
    return [p[j].do(lambda q, target=j == LABEL: LR * (q - target)) for j in range(DIGITS)]


def plain_update(w: Scalar, g: Scalar | None, v: Scalar | None, decays: bool) -> list[Scalar]:
    if v is None:
        return [w - g if g else w]
    v = v.do(lambda a: MOMENTUM * a)
    v = v - g if g else v
    v = v - w.do(lambda a: LR * DECAY * a) if decays else v
    return [w + v, v]


def plain_network(kind: str, k: int, skip: bool, x: Signal, arrays: list) -> list[Scalar]:
    """`network_program` with numbers, from weights and biases and their velocities; its results."""
    parameters, velocities, signals = arrays[:6], arrays[6:], [x]
    weights, biases = parameters[::2], parameters[1::2]
    for layer in range(3):
        columns = zip(weights[layer].T, biases[layer], strict=True)
        z = [total(signals[-1], column, start) for column, start in columns]
        signals.append(plain_activation(z, k, skip) if layer < 2 else z)
    flat = [scalar for array in parameters for scalar in array.flat]
    if kind == "forward":
        return [*flat, *z]
    delta, gradients = plain_gradient(z), []
    for layer in (2, 1, 0):
        s = signals[layer]
        gradients[:0] = [*(total([left], [d]) for left in s for d in delta), *delta]
        if layer:
            delta = [h and total(row, delta) for row, h in zip(weights[layer], s, strict=True)]
        if layer and not skip:
            gated = zip(delta, s, strict=True)
            delta = [d.do(lambda a, b: a if b else 0.0, h) for d, h in gated]
    moving = [scalar for array in velocities for scalar in array.flat] or [None] * len(flat)
    decays = [array.ndim == 2 for array in parameters for _ in array.flat]
    steps = [plain_update(*values) for values in zip(flat, gradients, moving, decays, strict=True)]
    return [scalar for results in zip(*steps, strict=True) for scalar in results]


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("model", MODELS)
def test_networks_agree_with_plain_loops_and_the_experiment(model: str, skip: str) -> None:
    (name, k), (_, units, pixels) = MODELS[model], SKIPS[skip]
    rng, classes = np.random.default_rng(k), np.arange(DIGITS)
    zeros = [np.zeros(shape) for shape in pairwise([3, 4, 4, DIGITS])]
    network = MLP(zeros, experiment.ACTIVATIONS[name], max(k, 2), np.float64)
    vectors, shapes = (network.parameters, network.velocity), [w.shape for w in network.weights]

    def arrays_now() -> list[np.ndarray]:  # W (inputs, outputs) and b of each layer, velocities
        views = [view for vector in vectors for view in layer_views(vector.copy(), shapes)]
        return [array for view in views for array in (view[:, :-1].T, view[:, -1])]

    network.parameters[:], network.velocity[:] = rng.standard_normal((2, network.velocity.size))
    start, x = arrays_now(), rng.random(3) * [1, 0, 1]
    inputs = np.array([[*x, 1]])
    logits = network.forward(inputs, classes)
    gates = [gate > 0 for gate in network.workspace(1).gates]
    delta = LR * cross_entropy_gradient(logits, np.array([LABEL]))
    network.backward(inputs, classes, delta)
    network.update(MOMENTUM, LR * DECAY)
    moved = np.concatenate([*map(np.ravel, arrays_now())])

    scalars = np.vectorize(Scalar, otypes="O")
    for kind, right in zip(KINDS, (logits[:, 0], (), moved), strict=True):
        arrays, picture = [scalars(a) for a in start[: 12 if kind == "momentum" else 6]], scalars(x)
        arguments = [[s.number for s in array.flat] for array in (*arrays, picture)]
        if pixels:
            picture[x == 0] = None
        Scalar.operations.clear()
        returned = plain_network(kind, k, units, picture, arrays)
        values = [scalar.value for scalar in returned]
        np.testing.assert_allclose(values[len(values) - len(right) :], right)
        program = movement.program(kind, model, skip, [x[:, None] != 0, *gates], 0)
        expected = naive_depths(Scalar.operations, arguments, {s.number for s in returned})
        assert stack_depths(program).tolist() == expected


# --- The study ------------------------------------------------------------------------------------


def test_half_of_the_observed_images_are_of_each_task(mnist: Mnist) -> None:
    pixels, *gates = movement.observe("lwta4", movement.Options(hidden=16, images=4), 0)
    tasks, used = experiment.make_tasks(Config(), 0, mnist)
    shown = np.concatenate([task.test_inputs[:2, :-1] for task in tasks])
    assert np.array_equal(pixels[used], shown.T > 0)
    assert not pixels[~used].any()
    assert all((gate.reshape(4, 4, 4).sum(axis=1) == 1).all() for gate in gates)


def test_the_command_writes_json_and_a_figure_and_prints_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--hidden 8 --n-seeds 2 --images 2 --updates 1 --jobs 1 --out {tmp_path}/study.json"
    assert movement.main(options.split()) == 0
    study = json.loads((tmp_path / "study.json").read_text())
    assert study["command"] == f"python3 -m study movement {options}"
    printed, tables = capsys.readouterr().out, movement.tables(study)
    assert all(f"{title}\n\n{table}\n" in printed for title, table in tables.items())
    assert (tmp_path / "study.png").stat().st_size > 1000
    numbers = movement.quantities(study)
    names = map(".".join, product(list(SKIPS)[1:], MODELS, KINDS))
    assert all(0 < numbers[f"saved.{name}"] < 1 for name in names)
    silent = {
        (row["program"], row["model"], row["seed"]): row["cost"]["total"]
        for row in study["costs"]
        if row["skip"] == "silent"
    }
    for kind in KINDS:
        shares = [silent[kind, "lwta", n] / silent[kind, "relu", n] - 1 for n in (0, 1)]
        assert numbers[f"over_relu.lwta.{kind}"] == pytest.approx(np.mean(shares))


def test_a_worker_loads_no_plotting_library() -> None:
    check = "import sys, study.movement; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kernel matvec", "--kernel and --size"),
        ("--kernel lwta4-sgd --size 6", "blocks of 4"),
        ("--hidden 30", "a multiple of 4"),
        ("--images 2 --updates 3", "--updates must not be above"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        movement.main(arguments.split())
