"""ByteDMD: worked values, a naive stack, networks in plain loops, and the study's parts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from itertools import count, pairwise, product
from math import ceil, exp, sqrt
from operator import add, mul, sub, truediv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compete_to_compute import (
    ACTIVATIONS,
    DIGITS,
    MLP,
    InputError,
    cross_entropy_gradient,
    layer_views,
)
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


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("skip", SKIPS)
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
        program = Activity(x != 0, gates).program(kind, model, skip)
        expected = naive_depths(operations, arguments, {scalar.number for scalar in returned})
        assert stack_depths(program).tolist() == expected


# --- The study ------------------------------------------------------------------------------------


def winners(rng: np.random.Generator, units: int, images: int, model: str) -> np.ndarray:
    """Made-up gates: one winner in each block, or half of ReLU's units."""
    k = max(2, MODELS[model][1])
    return (rng.integers(0, k, (units // k, 1, images)) == np.arange(k)[:, None]).reshape(units, -1)


def test_a_network_is_observed_before_and_after_training() -> None:
    options = movement.command_line().parse_args(["--hidden", "16"])
    seen, updates = movement.observe("lwta4", options, 0, 4)
    for activity in seen.values():
        assert activity.pixels.shape == (784, 4)
        assert all((gate.reshape(4, 4, 4).sum(axis=1) == 1).all() for gate in activity.gates)
    assert (seen["initial"].gates[1] != seen["trained"].gates[1]).any()
    assert updates is None or 10 < updates <= 200


def test_a_sample_estimates_the_cost_of_a_long_program() -> None:
    rng = np.random.default_rng(0)
    gates = [winners(rng, 40, 8, "lwta") for _ in range(2)]
    activity = Activity(rng.random((100, 8)) < 0.3, gates)
    for skip in SKIPS:
        sampled = activity.program("momentum", "relu", skip, 4)
        followed = sampled.followed[: 100 * 40].reshape(-1, 4)  # of the first argument
        assert (followed.sum(axis=1) == 1).all()
        exact = cost(activity.program("momentum", "relu", skip))["total"]
        assert cost(sampled)["total"] == pytest.approx(exact, rel=0.02)
        assert cost(sampled)["total"] != exact


def test_narrow_networks_keep_the_rates_and_one_winner_a_block() -> None:
    rng = np.random.default_rng(0)
    wins = (rng.random((50, 1, 30)) < rng.random((50, 1, 1))) == np.arange(2)[:, None]
    narrow = Activity(np.ones((9, 30), bool), [wins.reshape(100, 30)]).narrow(20, 2).gates[0]
    assert (narrow.reshape(10, 2, 30).sum(axis=1) == 1).all()
    assert narrow[::2].mean() == pytest.approx(wins[:, 0].mean(), abs=0.03)


def test_the_study_writes_strict_json_tables_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(model: str, options: object, seed: int, images: int) -> tuple:
        rng = np.random.default_rng(seed)
        gates = [winners(rng, 8, images, model) for _ in range(2)]
        activity = Activity(rng.random((12, images)) < 0.3, gates)
        return {"initial": activity, "trained": activity}, None if model == "lwta4" else 30 + seed

    monkeypatch.setattr(movement, "observe", made_up)
    monkeypatch.setattr(movement, "PIXELS", 12)
    monkeypatch.setattr(movement, "BATCH", 5)
    options = f"--hidden 8 --narrow 4 --n-seeds 2 --images 2 --jobs 1 --out {tmp_path}/study.json"
    assert movement.main(options.split()) == 0
    written = (tmp_path / "study.json").read_text()
    study = json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert study["command"] == f"python3 -m study movement {options}"
    printed, tables = capsys.readouterr().out, movement.tables(study)
    assert all(f"{title}\n\n{table}\n" in printed for title, table in tables.items())
    assert "| LWTA, k = 4 | never (never to never) | never" in printed
    assert (tmp_path / "study.png").stat().st_size > 1000
    numbers = movement.quantities(study)
    assert (numbers["updates.relu"], numbers["updates.relu.highest"]) == (30.5, 31)
    for name in product(SKIPS, MODELS, KINDS):
        phases = [numbers.get(f"share.{'.'.join(name)}.{phase}", 0) for phase in movement.PHASES]
        assert sum(phases) == pytest.approx(1)
        assert numbers.get(f"saved.{'.'.join(name)}", 0) >= 0


# --- Command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kernel matvec", "needs --size"),
        ("--kernel matmul --size 201", "--size must be 1 to 200"),
        ("--kernel lwta4-sgd --size 6", "blocks of 4"),
        ("--kernel matvec --size 2 --bytes 0", "--bytes must be 1"),
        ("--bytes 3", "--bytes needs --kernel"),
        ("--narrow 30", "width 30"),
        ("--hidden 40", "below --hidden"),
        ("--n-seeds 0", "--n-seeds must be 1"),
        ("--images 2 --updates 3", "--updates must not be above"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        movement.main(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "status", "printed"),
    [
        ("matmul --size 4 --bytes 4", 0, "5493\n"),
        ("matvek --size 4", 2, ""),
        ("matvec --size 0", 2, ""),
    ],
)
def test_the_command_prints_one_number_or_one_line_of_error(
    arguments: str, status: int, printed: str
) -> None:
    command = [sys.executable, "-m", "study", "movement", "--kernel", *arguments.split()]
    root = Path(movement.__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, printed)
    assert done.stderr.count("\n") == (status != 0)
