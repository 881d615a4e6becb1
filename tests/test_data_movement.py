"""ByteDMD: worked values, a naive stack, networks in plain loops, and the study's parts."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import ceil, exp, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import measure_data_movement as movement
from compete_to_compute import ACTIVATIONS, MLP, InputError, cross_entropy_gradient
from measure_data_movement import DIGITS, NONE, Activity, Program, price, stack_depths

SCRIPT = Path(movement.__file__)
Operations = Sequence[tuple[int, int, int]]


def total(program: Program, size: int = 1) -> int:
    return int(price(stack_depths(program), size).sum())


def of_kernel(name: str, size: int) -> int:
    return total(movement.kernel(name, size))


def naive_depths(
    operations: Operations,
    arguments: Sequence[Sequence[int]],
    returned: set[int],
    liveness: bool = True,
    held: Callable[[int], bool] = lambda scalar: True,
) -> list[list[int]]:
    """The definition, word for word, on a list whose last element is the top."""
    last_read = {s: t for t, (*operands, _) in enumerate(operations) for s in operands}

    def leaves(scalar: int, now: int) -> bool:
        return liveness and scalar not in returned and last_read.get(scalar, -1) <= now

    placed = [scalar for argument in reversed(arguments) for scalar in argument]
    stack = [scalar for scalar in placed if held(scalar) and not leaves(scalar, -1)]
    depths = []
    for now, (first, second, result) in enumerate(operations):
        read = [s for s in (first, second) if s != NONE and held(s)]
        found = {s: len(stack) - stack.index(s) for s in read}
        depths.append([found.get(s, 0) for s in (first, second)])
        for scalar in read:
            stack.remove(scalar)
            stack.append(scalar)
        if held(result):
            stack.append(result)
        for scalar in {*read, result}:
            if held(scalar) and leaves(scalar, now):
                stack.remove(scalar)
    return depths


# --- Worked values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("matvec", {2: 26, 3: 75, 4: 157, 5: 270, 6: 422, 7: 615, 8: 896}),
        ("vecmat", {2: 25, 3: 72, 4: 150}),
        ("matmul", {2: 57, 3: 258, 4: 720, 8: 8867}),
    ],
)
def test_products_have_their_worked_values(name: str, values: dict[int, int]) -> None:
    assert {size: of_kernel(name, size) for size in values} == values


def test_products_of_four_bytes_have_their_worked_values() -> None:
    assert total(movement.kernel("matvec", 4), 4) == 1129
    assert total(movement.kernel("matmul", 4), 4) == 5493


def test_a_sum_of_three() -> None:
    program = Program()
    a, b, c = (program.argument(1) for _ in range(3))
    program.returned.append(program.apply(program.apply(a, b), c))
    assert stack_depths(program).tolist() == [[1, 2], [1, 2]]
    assert (total(program), total(program, 2)) == (6, 14)


def test_a_sum_of_two_products() -> None:
    program = Program()
    a, b = program.argument(2), program.argument(2)
    program.returned.append(program.sums(1, np.zeros(2, int), a, b))
    # Recorded as a0 b0, a1 b1, sum.
    assert stack_depths(program).tolist() == [[2, 4], [2, 3], [2, 1]]
    assert total(program) == 11


def test_a_scalar_read_twice_by_one_operation_is_at_one_depth() -> None:
    program = Program()
    a, b = program.argument(1), program.argument(1)
    program.returned += [program.apply(a, a), program.apply(b, b), b]
    assert stack_depths(program).tolist() == [[1, 1], [2, 2]]


def test_a_million_touches_a_second() -> None:
    program = movement.kernel("matmul", 45)
    touches = int(np.count_nonzero(program.operations() != NONE))
    seconds = []
    for _ in range(3):
        began = time.process_time()
        price(stack_depths(program))
        seconds.append(time.process_time() - began)
    assert touches / min(seconds) >= 1e6


@given(st.integers(1, 3000), st.integers(1, 9))
def test_the_price_is_its_sum(depth: int, size: int) -> None:
    expected = sum(ceil(sqrt(j)) for j in range((depth - 1) * size + 1, depth * size + 1))
    assert price(np.array([depth, 0]), size).tolist() == [expected, 0]


# --- The engine against the definition ------------------------------------------------------------


@given(st.lists(st.integers(0, 60), max_size=150))
def test_smaller_elements_to_the_right(values: list[int]) -> None:
    expected = [sum(later < value for later in values[i:]) for i, value in enumerate(values)]
    array = np.array(values, np.int32)
    order = movement.stable_order(array)
    assert order.tolist() == np.argsort(array, kind="stable").tolist()
    assert movement.smaller_to_the_right(array, order).tolist() == expected


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A random program: reads of anything there is, some results returned, some never read."""
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
    arguments = [argument.tolist() for argument in program.arguments]
    operations = [tuple(row) for row in program.operations().tolist()]
    returned = set(program.returned[0].tolist())
    naive = naive_depths(operations, arguments, returned, liveness)
    assert stack_depths(program, liveness).tolist() == naive
    costs = [
        sum(ceil(sqrt(j)) for j in range((depth - 1) * size + 1, depth * size + 1))
        for depths in naive
        for depth in depths
        if depth
    ]
    assert price(stack_depths(program, liveness), size).sum() == sum(costs)
    some = np.arange(program.scalars) % (stacks + 1) == 0
    assert stack_depths(program, liveness, some).tolist() == naive_depths(
        operations, arguments, returned, liveness, lambda scalar: bool(some[scalar])
    )


# --- Networks in plain loops ----------------------------------------------------------------------

LR, MOMENTUM, DECAY = 0.1, 0.9, 0.01


class Trace:
    """Scalars with their values, and the operations on them."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.operations: list[tuple[int, int, int]] = []
        self.arguments: list[list[int]] = []

    def new(self, value: float) -> int:
        self.values.append(value)
        return len(self.values) - 1

    def argument(self, array: np.ndarray) -> np.ndarray:
        numbers = [self.new(value) for value in array.ravel()]
        self.arguments.append(numbers)
        return np.array(numbers).reshape(array.shape)

    def do(self, function: Callable[..., float], first: int, second: int = NONE) -> int:
        operands = [self.values[s] for s in (first, second) if s != NONE]
        self.operations.append((first, second, self.new(function(*operands))))
        return len(self.values) - 1

    def total(self, terms: Sequence[tuple[int, int]], start: int = NONE) -> int:
        for left, right in terms:
            product = self.do(lambda a, b: a * b, left, right)
            start = product if start == NONE else self.do(lambda a, b: a + b, start, product)
        return start

    def fold(self, function: Callable[..., float], values: Sequence[int]) -> int:
        result = values[0]
        for value in values[1:]:
            result = self.do(function, result, value)
        return result


def plain_activation(trace: Trace, z: np.ndarray, k: int, skip: bool) -> np.ndarray:
    h = np.full_like(z, NONE)
    for first in range(0, len(z), k):
        for n in range(z.shape[1]):
            block = z[first : first + k, n]
            if k == 1:
                h[first, n] = trace.do(lambda a: max(a, 0), block[0])
                if skip and trace.values[block[0]] <= 0:
                    h[first, n] = NONE
                continue
            largest = trace.fold(max, block)
            for unit, scalar in enumerate(block, start=first):
                if not skip:
                    h[unit, n] = trace.do(lambda a, m: a if a == m else 0.0, scalar, largest)
                elif trace.values[scalar] == trace.values[largest]:
                    h[unit, n] = largest
    return h


def plain_network(
    kind: str,
    k: int,
    start: Sequence[np.ndarray],
    velocity: Sequence[np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    skip: bool,
    skip_pixels: bool,
) -> tuple[Trace, list[int]]:
    """`network_program` scalar by scalar, with numbers: the trace and what is returned."""
    trace = Trace()
    parameters = [trace.argument(array) for array in start]
    velocities = [trace.argument(array) for array in velocity] if kind == "momentum" else []
    signals = [trace.argument(x)]
    if skip_pixels:
        signals[0] = np.where(x != 0, signals[0], NONE)
    images = range(x.shape[1])
    for weights, biases in zip(parameters[::2], parameters[1::2], strict=True):
        s = signals[-1]
        z = np.empty((len(biases), len(images)), int)
        for j in range(len(biases)):
            for n in images:
                terms = [(s[i, n], weights[i, j]) for i in range(len(s)) if s[i, n] != NONE]
                z[j, n] = trace.total(terms, biases[j])
        if biases is not parameters[-1]:
            signals.append(plain_activation(trace, z, k, skip))
    if kind == "forward":
        return trace, [*np.concatenate([p.ravel() for p in parameters]), *z.ravel()]

    delta = z
    largest = [trace.fold(max, z[:, n]) for n in images]
    powers = [[trace.do(lambda a, m: exp(a - m), a, largest[n]) for a in z[:, n]] for n in images]
    sums = [trace.fold(lambda a, b: a + b, powers[n]) for n in images]
    shares = [[trace.do(lambda a, b: a / b, a, sums[n]) for a in powers[n]] for n in images]
    for n in images:
        for j in range(DIGITS):
            target = float(labels[n] == j)
            delta[j, n] = trace.do(
                lambda p, target=target: LR * (p - target) / len(images), shares[n][j]
            )

    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(signals))):
        s, weights = signals[layer], parameters[2 * layer]
        gradient = np.empty(weights.shape, int)
        for i in range(len(s)):
            for j in range(len(delta)):
                terms = [(s[i, n], delta[j, n]) for n in images]
                gradient[i, j] = trace.total([pair for pair in terms if NONE not in pair])
        of_biases = [
            trace.fold(lambda a, b: a + b, present)
            if (present := [d for d in row if d >= 0])
            else NONE
            for row in delta
        ]
        gradients[:0] = [gradient, np.array(of_biases)]
        if layer:
            back = np.full(s.shape, NONE)
            for i in range(len(s)):
                for n in images:
                    if s[i, n] != NONE:
                        row = [(weights[i, j], delta[j, n]) for j in range(len(delta))]
                        back[i, n] = trace.total([pair for pair in row if NONE not in pair])
            if not skip:
                for i in range(len(s)):
                    for n in images:
                        back[i, n] = trace.do(lambda d, h: d if h else 0.0, back[i, n], s[i, n])
            delta = back

    returned, moved = [], []
    for index, array in enumerate(parameters):
        for position in np.ndindex(array.shape):
            w, g = array[position], gradients[index][position]
            if kind == "sgd":
                returned.append(w if g == NONE else trace.do(lambda a, b: a - b, w, g))
                continue
            v = trace.do(lambda a: MOMENTUM * a, velocities[index][position])
            if g != NONE:
                v = trace.do(lambda a, b: a - b, v, g)
            if array.ndim == 2:
                decay = trace.do(lambda a: LR * DECAY * a, w)
                v = trace.do(lambda a, b: a - b, v, decay)
            moved.append(v)
            returned.append(trace.do(lambda a, b: a + b, w, v))
    return trace, returned + moved


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("skip", "skip_pixels"), movement.SKIPS.values(), ids=movement.SKIPS)
@pytest.mark.parametrize("model", movement.MODELS)
def test_networks_agree_with_plain_loops_and_the_main_script(
    model: str, skip: bool, skip_pixels: bool, images: int
) -> None:
    name, k = movement.MODELS[model]
    rng = np.random.default_rng(k)
    sizes = [5, 4, 8, DIGITS]
    weights = [rng.standard_normal(shape) for shape in pairwise(sizes)]
    start = [array for w in weights for array in (w, np.zeros(w.shape[1]))]
    velocity = [rng.standard_normal(array.shape) for array in start]
    x = rng.random((5, images)) * (rng.random((5, images)) < 0.6)
    labels = rng.integers(0, DIGITS, images)

    network = MLP(weights, ACTIVATIONS[name], max(k, 2), np.float64)
    flat = [np.c_[w.T, b] for w, b in zip(velocity[::2], velocity[1::2], strict=True)]
    network.velocity[:-1] = np.concatenate([array.ravel() for array in flat])
    inputs = np.c_[x.T, np.ones(images)]
    logits = network.forward(inputs, np.arange(DIGITS))
    gates = [gate > 0 for gate in network.workspace(images).gates]
    network.backward(inputs, np.arange(DIGITS), LR * cross_entropy_gradient(logits, labels))
    network.update(MOMENTUM, LR * DECAY)

    pixels = x != 0 if skip_pixels else np.ones_like(x, bool)
    for kind in movement.KINDS:
        trace, returned = plain_network(kind, k, start, velocity, x, labels, skip, skip_pixels)
        values = np.array(trace.values)[returned]
        if kind == "forward":
            np.testing.assert_allclose(values[-logits.size :], logits.ravel())
        if kind == "momentum":
            ours = np.concatenate([np.r_[w[:, :-1].T.ravel(), w[:, -1]] for w in network.weights])
            np.testing.assert_allclose(values[: len(ours)], ours)
        program = movement.network_program(kind, k, pixels, gates, skip)
        expected = naive_depths(trace.operations, trace.arguments, set(returned))
        assert stack_depths(program).tolist() == expected


@settings(max_examples=30)
@given(st.sampled_from(list(movement.MODELS)), st.sampled_from(list(movement.KINDS)), st.data())
def test_skipping_never_costs_more_than_dense(model: str, kind: str, data: st.DataObject) -> None:
    k = movement.MODELS[model][1]
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    images = data.draw(st.integers(1, 3))
    rate = data.draw(st.floats(0, 1))
    pixels = rng.random((9, images)) < data.draw(st.floats(0, 1))
    gates = []
    for units in (8, 12):
        wins = rng.integers(0, k, (units // k, 1, images)) == np.arange(k)[:, None]
        speaks = rng.random((units, images)) < rate
        gates.append(speaks if k == 1 else wins.reshape(units, images))
    activity = Activity(pixels, gates)
    cost = {skip: total(activity.program(kind, model, skip)) for skip in movement.SKIPS}
    assert cost["silent units, zero pixels"] <= cost["silent units"] <= cost["dense"]
    assert cost["silent units, zero pixels"] <= cost["zero pixels"] <= cost["dense"]


def test_costs_by_phase_add_up() -> None:
    program = movement.kernel("lwta-momentum", 4)
    depths = stack_depths(program)
    costs = movement.cost_by_phase(program, depths)
    assert tuple(costs) == movement.PHASES
    assert sum(costs.values()) == price(depths).sum()


# --- The study ------------------------------------------------------------------------------------


def test_a_network_is_observed_before_and_after_training() -> None:
    seen, updates = movement.observe(16, "lwta4", 0, 4, None, every=2)
    for activity in seen.values():
        assert [part.shape for part in (activity.pixels, *activity.gates)] == [
            *((784, 4), (16, 4), (16, 4))
        ]
        for gate in activity.gates:
            assert (gate.reshape(4, 4, 4).sum(axis=1) == 1).all()
    assert (seen["initial"].pixels == seen["trained"].pixels).all()
    assert updates is None or 0 < updates <= 200


def test_a_sample_estimates_the_cost_of_a_long_program() -> None:
    rng = np.random.default_rng(0)
    activity = Activity(rng.random((100, 8)) < 0.3, [rng.random((40, 8)) < 0.5] * 2)
    for skip in movement.SKIPS:
        exact, found = (
            movement.costs_of(activity.program("momentum", "relu", skip, sample))
            for sample in (1, 4)
        )
        assert found["total"] == pytest.approx(exact["total"], rel=0.02)
        assert found["total"] != exact["total"]


def test_a_sample_follows_one_scalar_of_each_group() -> None:
    program = Program(4)
    program.argument(3, 40)
    assert (program.followed.reshape(-1, 4).sum(axis=1) == 1).all()


def test_narrow_networks_keep_the_rates_and_one_winner_a_block() -> None:
    rng = np.random.default_rng(0)
    wins = (rng.random((50, 1, 30)) < rng.random((50, 1, 1))) == np.arange(2)[:, None]
    gate = wins.reshape(100, 30)
    narrow = Activity(np.ones((9, 30), bool), [gate]).narrow(20, 2).gates[0]
    assert (narrow.reshape(10, 2, 30).sum(axis=1) == 1).all()
    assert narrow[::2].mean() == pytest.approx(gate[::2].mean(), abs=0.03)


def test_the_study_writes_strict_json_tables_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_up(
        hidden: int, model: str, seed: int, images: int, data_dir: str | None, every: int = 0
    ) -> tuple[dict[str, Activity], int | None]:
        rng = np.random.default_rng(seed)
        gates = [rng.random((hidden, images)) < 0.5 for _ in range(2)]
        activity = Activity(rng.random((20, images)) < 0.3, gates)
        # LWTA with k = 4 never learns; the tables must say so.
        return {"initial": activity, "trained": activity}, None if model == "lwta4" else 30 + seed

    monkeypatch.setattr(movement, "observe", made_up)
    monkeypatch.setattr(movement, "PIXELS", 20)
    monkeypatch.setattr(movement, "BATCH", 5)
    monkeypatch.setattr(movement, "local_executor", lambda jobs, units: ThreadPoolExecutor(1))
    out = tmp_path / "data_movement.json"
    options = f"--hidden 16 --narrow 12 --n-seeds 2 --images 2 --out {out}"
    assert movement.main(options.split()) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    study = json.loads(out.read_text(), parse_constant=refuse)
    assert {"schema", "name", "question", "command", "environment", "core_seconds"} <= study.keys()
    assert study["command"] == f"python3 measure_data_movement.py {options}"
    assert movement.report(study) in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 1000
    updates = {row["model"]: row["updates"] for row in study["learning"]}
    assert updates == {"relu": 30.5, "lwta": 30.5, "lwta4": None}
    for row in study["per_seed"]:
        assert sum(row["cost"].get(phase, 0) for phase in movement.PHASES) == pytest.approx(
            row["cost"]["total"]
        )


def test_what_the_page_says_of_the_committed_study() -> None:
    study = json.loads((SCRIPT.parent / "study" / "data_movement.json").read_text())
    assert study["n"] >= 5
    assert study["touches_per_second"] >= 1e6
    # Competition saves no more than any activation with the same silent units would.
    assert max(map(abs, movement.winners_cost(study))) < 0.001
    # ReLU saves more than blocks of two, less than blocks of four: every program and seed.
    for kind in movement.KINDS:
        seeds: dict[int, dict[str, float]] = {}
        for row in study["per_seed"]:
            if (row["program"], row["skip"], row["weights"]) == (kind, "silent units", "trained"):
                seeds.setdefault(row["seed"], {})[row["model"]] = row["cost"]["total"]
        assert len(seeds) == study["n"]
        for cost in seeds.values():
            assert cost["lwta4"] < cost["relu"] < cost["lwta"]
    # And by every way of accounting, and in a batch.
    totals = {(r["model"], r["program"], r["skip"]): r["total"] for r in study["variants"]}
    for kind in movement.KINDS:
        lwta4, relu, lwta = (totals[m, kind, "silent units"] for m in ("lwta4", "relu", "lwta"))
        for accounting, cost in relu.items():
            assert lwta4[accounting] < cost < lwta[accounting]
    batch = movement.batch_costs(study)
    lwta4, relu, lwta = (batch[m, "silent units"] for m in ("lwta4", "relu", "lwta"))
    assert lwta4 < relu < lwta


# --- Command line ---------------------------------------------------------------------------------


def test_a_kernel_prints_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    movement.main("--kernel matmul --size 4 --bytes 4".split())
    assert capsys.readouterr().out == "5493\n"


@pytest.mark.parametrize("name", movement.KERNELS)
def test_every_kernel_agrees_with_a_naive_stack(name: str) -> None:
    program = movement.kernel(name, 4)
    arguments = [argument.ravel().tolist() for argument in program.arguments]
    returned = {scalar for values in program.returned for scalar in values.ravel().tolist()}
    naive = naive_depths(program.operations().tolist(), arguments, returned)
    assert of_kernel(name, 4) == sum(ceil(sqrt(depth)) for depths in naive for depth in depths)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kernel matvek --size 3", "matvek: there are matvec"),
        ("--kernel matvec", "needs --size"),
        ("--kernel matvec --size 0", "--size must be 1 to 1000"),
        ("--kernel matmul --size 201", "--size must be 1 to 200"),
        ("--kernel lwta4-sgd --size 6", "blocks of 4"),
        ("--kernel matvec --size 2 --bytes 0", "--bytes must be 1"),
        ("--size 3", "--size needs --kernel"),
        ("--hidden 30", "width 30"),
        ("--narrow 30", "width 30"),
        ("--hidden 40", "below --hidden"),
        ("--n-seeds 0", "--n-seeds must be 1"),
        ("--images 2 --updates 3", "--updates must not be above"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        movement.main(arguments.split())


def test_bad_input_is_one_line_and_status_2() -> None:
    arguments = "--kernel matvec --size 0".split()
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
