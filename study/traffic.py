"""Programs over scalars, and their memory traffic: what their reads cost in ByteDMD.

The price (github.com/cybertronai/ByteDMD): scalars lie on one least-recently-used stack; reading
the one at depth d, the top being 1, costs ceil(sqrt(d)), or with b bytes a scalar the sum of
ceil(sqrt(j)) over j = (d - 1) b + 1 .. d b. Writing and arithmetic are free. All operands of an
operation are priced before any moves; then they move to the top in their order, and the result is
pushed. Arguments are there from the start, the first on top, within an argument the first element
deepest. A scalar leaves after its last read, and one never read is not there at all; what the
program returns stays. Constants, indices and the choice of what to skip are free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from compete.files import require
from compete_to_compute import DIGITS

# --- Programs -------------------------------------------------------------------------------------

NONE = -1  # in place of a scalar's number: there is none


@dataclass
class Program:
    """A straight-line program over scalars, each written once and known by its number.

    An operation is a row (first operand, second operand or NONE, result). Arrays of scalars are
    int32 arrays of their numbers, in which NONE stands for a zero that is never stored.
    """

    scalars: int = 0
    arguments: list[np.ndarray] = field(default_factory=list)
    returned: list[np.ndarray] = field(default_factory=list)
    phase: str = ""  # of the operations recorded next
    blocks: list[tuple[str, np.ndarray]] = field(default_factory=list)  # (phase, operations)

    def new(self, *shape: int) -> np.ndarray:
        """Give fresh scalars."""
        first = self.scalars
        self.scalars += int(np.prod(shape))
        return np.arange(first, self.scalars, dtype=np.int32).reshape(shape)

    def argument(self, *shape: int) -> np.ndarray:
        """Give the scalars of the next argument."""
        self.arguments.append(self.new(*shape))
        return self.arguments[-1]

    def record(self, *steps: tuple[Any, Any, Any, Any]) -> None:
        """Append operations: for each element in turn all steps, as far as they are executed.

        A step is (first operands, second operands, results, whether it is executed), arrays of
        one dimension, or a number for all.
        """
        columns = [np.broadcast_arrays(*step) for step in steps]
        rows = [np.stack(step[:3], axis=1, dtype=np.int32) for step in columns]
        executed = np.stack([step[3] for step in columns], axis=1)
        self.blocks.append((self.phase, np.stack(rows, axis=1)[executed]))

    def apply(self, first: np.ndarray, second: np.ndarray | int = NONE) -> np.ndarray:
        """Do one operation on each element of `first`, in order, and on that of `second`."""
        results = self.new(*first.shape)
        seconds = np.broadcast_to(second, first.shape).ravel()
        self.record((first.ravel(), seconds, results.ravel(), True))
        return results

    def sums(self, *operands: np.ndarray, start: np.ndarray | int = NONE) -> np.ndarray:
        """Sum one operand, or the products of two, over the last axis; operands broadcast.

        The axes are nested loops, the first outermost: `sums(A, x)` is A x, row by row. Each term
        is added as soon as it is there, to `start` of its sum if there is one; a sum without terms
        is its start. A term with NONE does not exist. Any other operation of two operands, such as
        the maximum, reads like a sum.
        """
        operands = np.broadcast_arrays(*operands)
        present = np.all([operand != NONE for operand in operands], axis=0)
        left, *right = (operand[present] for operand in operands)
        sums = np.broadcast_to(np.int32(start), present.shape[:-1]).flatten()
        target = np.repeat(np.arange(len(sums)), np.count_nonzero(present, axis=-1).ravel())

        begins = np.diff(target, prepend=NONE) != 0
        added = ~begins | (sums[target] != NONE)
        terms = self.new(len(target)) if right else left
        totals = np.where(added, self.new(len(target)), terms)
        before = np.where(begins, sums[target], np.roll(totals, 1))
        factor = right[0] if right else NONE
        self.record((left, factor, terms, bool(right)), (before, terms, totals, added))
        ends = np.roll(begins, -1)
        sums[target[ends]] = totals[ends]
        return sums.reshape(present.shape[:-1])

    def operations(self) -> np.ndarray:
        """Give all operations, int32 (n, 3)."""
        return np.concatenate([np.empty((0, 3), np.int32), *(rows for _, rows in self.blocks)])


# --- Depths and costs -----------------------------------------------------------------------------


def smaller_to_the_right(values: np.ndarray) -> np.ndarray:
    """For each of n values count the later ones that are smaller, int32 (n,), in O(n log n).

    It is a merge sort backwards: from the positions in the order of the values, the halves of each
    stretch of positions are taken apart level by level. An element of the left half is preceded,
    within its stretch, by the smaller ones of the right half: its index in the stretch minus its
    index in the half.
    """
    order = np.argsort(values, kind="stable").astype(np.int32)
    counts = np.zeros(len(order), np.int32)
    for level in reversed(range(len(order).bit_length())):
        half = 1 << level
        is_left = order & half == 0
        places = np.flatnonzero(is_left)
        left, right = order[places], order[~is_left]
        lefts, rights = np.arange(len(left)), np.arange(len(right))
        new_places = lefts + lefts // half * half  # behind the right halves before
        counts[left] += (places - new_places).astype(np.int32)
        order[new_places] = left
        order[rights + (rights // half + 1) * half] = right
    return counts


def stack_depths(program: Program) -> np.ndarray:
    """Find the depth of every read, int32 (operations, 2), 0 where nothing is read.

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
    touches = np.flatnonzero(scalar != NONE)
    scalar, operation = scalar[touches], operation[touches]

    order = np.argsort(scalar, kind="stable")
    same = np.diff(scalar[order]) == 0
    touch, following = order[:-1][same], order[1:][same]
    twin = operation[touch] == operation[following]  # read twice by one operation, as in a + a
    stays = np.zeros(program.scalars, bool)
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
    depth = np.zeros(len(scalar), np.int32)
    depth[ends] = began_by[until - 1] - (began[starts] - 1) - smaller_to_the_right(until)
    depth[following[twin]] = depth[touch[twin]]
    depths = np.zeros(placements + operations.size, np.int32)
    depths[touches] = depth
    return depths[placements:].reshape(-1, 3)[:, :2]


def price(depths: np.ndarray, size: int = 1) -> np.ndarray:
    """Price the reads of scalars of `size` bytes at these depths, int64; at depth 0 it is 0.

    With s = ceil(sqrt(n)) the sum of ceil(sqrt(j)) over j = 1 .. n is
    n s - (s - 1) s (2 s - 1) / 6, since ceil(sqrt(j)) counts the integers q >= 0 with q^2 < j.
    """

    def up_to(n: np.ndarray) -> np.ndarray:
        s = np.ceil(np.sqrt(n)).astype(np.int64)  # exact: a double holds n, and n is below 2^52
        return n * s - (s - 1) * s * (2 * s - 1) // 6

    last = depths.astype(np.int64) * size
    return up_to(last) - up_to(np.maximum(last - size, 0))


def cost(program: Program, size: int = 1) -> dict[str, int]:
    """Add up the "total" cost and that of each phase, with scalars of `size` bytes."""
    depths = stack_depths(program)
    costs: dict[str, int] = defaultdict(int)
    last = 0
    for phase, operations in program.blocks:
        first, last = last, last + len(operations)
        costs[phase] += int(price(depths[first:last], size).sum())
    return {"total": sum(costs.values()), **costs}


# --- Networks -------------------------------------------------------------------------------------


def network_program(
    kind: str, k: int, pixels: np.ndarray, gates: Sequence[np.ndarray], skip: bool
) -> Program:
    """Write down one pass of an image through a multilayer perceptron with ten outputs.

    `kind`: forward; sgd (forward, backward, one step); or momentum (a step with momentum and weight
    decay). `k`: LWTA's block, 1 for ReLU. `pixels`, bool (pixels,): those that are read. `gates`,
    bool (units,) for each hidden layer: the units that speak, used if `skip`; then a silent unit's
    outgoing weights are not read, nor its h, and it passes nothing back.

    Arguments, in order: W (inputs, outputs) and b (outputs,) of each layer; for momentum each
    one's velocity; the image. Returned: the parameters, then velocities or, for forward, the
    logits. The loops, the first outermost:

    - forward, by layer: z_j = b_j + sum_i x_i W_ij for j, i; then `activate`.
    - output: over all ten logits the maximum, exp(z - m), their sum; then e / sum, and
      d = lr (p - target), each for all logits.
    - backward, from the last layer: dW_ij = x_i d_j for i, j; db is d; then, but for the first
      layer, dh_i = sum_j W_ij d_j for i, j, and d = dh if h is not 0, else 0, an operation on dh
      and h.
    - update, of each parameter in the order of the arguments: W - dW; or
      v = m v, v = v - dW, t = decay W, v = v - t, W = W + v, without t for biases. A gradient that
      is zero because of what was skipped is not subtracted.
    """
    program = Program()
    sizes = [len(pixels), *map(len, gates), DIGITS]
    shapes = [shape for i, o in pairwise(sizes) for shape in ((i, o), (o,))]
    parameters = [program.argument(*shape) for shape in shapes]
    velocities = [program.argument(*s) for s in shapes] if kind == "momentum" else []
    signals = [np.where(pixels, program.argument(len(pixels)), NONE)]
    phases = ["first_layer", *["later_layers"] * (len(gates) - 1), "output"]
    for layer, program.phase in enumerate(phases):
        weights, biases = parameters[2 * layer : 2 * layer + 2]
        z = program.sums(signals[-1], weights.T, start=biases)
        if layer < len(gates):
            program.phase = "activation"
            signals.append(activate(program, z, gates[layer], k, skip))
    if kind == "forward":
        program.returned = [*parameters, z]
        return program
    delta = output_gradient(program, z)
    program.phase = "backward"
    gradients = backward(program, signals, parameters[::2], delta, skip)
    program.phase = "update"
    program.returned = update(program, parameters, velocities, gradients)
    return program


def activate(program: Program, z: np.ndarray, gate: np.ndarray, k: int, skip: bool) -> np.ndarray:
    """Turn pre-activations z, (units,), into activations; gate, bool, says which units speak.

    ReLU (k = 1): h = max(z, 0), an operation of one operand. LWTA, block by block: the maximum m
    by k - 1 operations max(m, z), then for each unit h = z if z = m else 0, an operation on z and
    m. Skipping, a unit that is silent has no h, and the winner's h is m itself, so that the second
    step falls away.
    """
    members = z.reshape(-1, k).T  # (k, blocks)
    largest, steps = members[0], []
    for member in members[1:]:
        before, largest = largest, program.new(len(member))
        steps.append((before, member, largest, True))
    if k > 1 and skip:
        h = np.broadcast_to(largest, members.shape)
    else:
        h = program.new(*members.shape)
        maximum = NONE if k == 1 else largest
        steps += [(member, maximum, own, True) for member, own in zip(members, h, strict=True)]
    program.record(*steps)
    h = h.T.ravel()
    return np.where(gate, h, NONE) if skip else h


def output_gradient(program: Program, logits: np.ndarray) -> np.ndarray:
    """Compute lr times the gradient of a softmax's cross-entropy; (classes,) both."""
    exponentials = program.apply(logits, program.sums(logits))
    return program.apply(program.apply(exponentials, program.sums(exponentials)))


def backward(
    program: Program,
    signals: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    delta: np.ndarray,
    skip: bool,
) -> list[np.ndarray]:
    """Compute gradients of each layer's W and b from d of the logits, NONE where nothing flows."""
    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(signals))):
        signal = signals[layer][:, None]
        gradients[:0] = [program.sums(signal[..., None], delta[:, None]), delta]
        if layer:
            back = program.sums(np.where(signal == NONE, NONE, weights[layer]), delta)
            delta = back if skip else program.apply(back, signals[layer])
    return gradients


def update(
    program: Program,
    parameters: Sequence[np.ndarray],
    velocities: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Take a step; the parameters after it, flat, and the velocities if there are any."""
    values, gradient = (np.concatenate([a.ravel() for a in s]) for s in (parameters, gradients))
    there = gradient != NONE
    if not velocities:
        values[there] = program.apply(values[there], gradient[there])
        return [values]
    velocity = np.concatenate([array.ravel() for array in velocities])
    decays = np.concatenate([np.full(array.size, array.ndim == 2) for array in parameters])
    kept, pushed, decay, decayed, updated = (program.new(len(values)) for _ in range(5))
    pushed = np.where(there, pushed, kept)
    decayed = np.where(decays, decayed, pushed)
    program.record(
        (velocity, NONE, kept, True),
        (kept, gradient, pushed, there),
        (values, NONE, decay, decays),
        (pushed, decay, decayed, decays),
        (values, decayed, updated, True),
    )
    return [updated, decayed]


# --- Kernels --------------------------------------------------------------------------------------

# Each model's activation in the experiment and its block; 1 where there is none.
MODELS = {"relu": ("relu", 1), "lwta": ("lwta", 2), "lwta4": ("lwta", 4)}
KINDS = {"forward": "forward pass", "sgd": "SGD step", "momentum": "step with momentum and decay"}
PRODUCTS: dict[str, Callable[[Program, np.ndarray, np.ndarray], np.ndarray]] = {
    "matvec": lambda program, a, x: program.sums(a, x),  # sum_j A_ij x_j
    "vecmat": lambda program, a, x: program.sums(x, a.T),  # sum_i x_i A_ij
    "matmul": lambda program, a, b: program.sums(a[:, None], b.T),  # sum_k A_ik B_kj
}
KERNELS = [
    *PRODUCTS,
    *(f"{m}-{kind}{end}" for m in MODELS for kind in KINDS for end in ("", "-skipping")),
]


def kernel(name: str, size: int) -> Program:
    """Write down a program to check by hand: a product, or one image in a net size-size-size-10.

    A skipping network reads the pixels 0, 2, 4 ...; the first unit of each block speaks, for ReLU
    the units 0, 2, 4 ... Raises `InputError` for a size that is too large or has no whole blocks.
    """
    most = 200 if name == "matmul" else 1000  # 5 GB
    require(1 <= size <= most, f"--size must be 1 to {most} for {name}, not {size}")
    if name in PRODUCTS:
        program = Program()
        a, b = program.argument(size, size), program.argument(*[size] * (1 + (name == "matmul")))
        program.returned = [PRODUCTS[name](program, a, b)]
        return program
    model, kind, *skipping = name.split("-")
    _, k = MODELS[model]
    require(size % k == 0, f"--size {size} cannot be cut into blocks of {k}; choose a multiple")
    units = np.arange(size)
    pixels = (units % 2 == 0) | (not skipping)
    return network_program(kind, k, pixels, [units % max(k, 2) == 0] * 2, bool(skipping))
