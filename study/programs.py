"""Programs over scalars, and what their reads cost in ByteDMD.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from compete_to_compute import DIGITS, InputError

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
        """Fresh scalars."""
        first = self.scalars
        self.scalars += int(np.prod(shape))
        return np.arange(first, self.scalars, dtype=np.int32).reshape(shape)

    def argument(self, *shape: int) -> np.ndarray:
        """The next argument."""
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
        """One operation per element of `first`, in order, with that of `second` if there is one."""
        results = self.new(*first.shape)
        seconds = np.broadcast_to(second, first.shape).ravel()
        self.record((first.ravel(), seconds, results.ravel(), True))
        return results

    def sums(
        self,
        loops: str,
        *operands: tuple[str, np.ndarray],
        start: np.ndarray | int = NONE,
        where: np.ndarray | bool = True,
    ) -> np.ndarray:
        """Sums of the products of one or two operands over the last of nested loops.

        `loops` names the indices, the first outermost, and each operand comes with its own:
        "ij", ("ij", A), ("j", x) is A x, row by row. The result has all indices but the last.
        Terms with NONE, and those outside `where`, a bool like the result, do not exist. Each
        product is added as soon as it is there, to `start` of its sum if there is one. A sum
        without terms is its start. Any other operation of two operands, such as the maximum,
        reads alike.
        """
        spread = [
            array.transpose(np.argsort([loops.index(letter) for letter in letters]))[
                tuple(slice(None) if letter in letters else None for letter in loops)
            ]
            for letters, array in operands
        ]
        present = np.expand_dims(where, -1)
        for array in spread:
            present = present & (array != NONE)
        left, *right = (np.broadcast_to(array, present.shape)[present] for array in spread)
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
        """All operations, int32 (n, 3)."""
        return np.concatenate([np.empty((0, 3), np.int32), *(rows for _, rows in self.blocks)])


# --- Depths and costs -----------------------------------------------------------------------------


def smaller_to_the_right(values: np.ndarray) -> np.ndarray:
    """For each of n values how many later ones are smaller, int32; O(n log n).

    A merge sort backwards: from the positions in the order of the values, the halves of each
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
    """The depth of every read, int32 (operations, 2), 0 where nothing is read.

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
    """ByteDMD's cost of reading scalars of `size` bytes at these depths, 0 for depth 0; int64.

    With s = ceil(sqrt(n)) the sum of ceil(sqrt(j)) over j = 1 .. n is
    n s - (s - 1) s (2 s - 1) / 6, since ceil(sqrt(j)) counts the integers q >= 0 with q^2 < j.
    """

    def up_to(n: np.ndarray) -> np.ndarray:
        s = np.ceil(np.sqrt(n)).astype(np.int64)  # exact: a double holds n, and n is below 2^52
        return n * s - (s - 1) * s * (2 * s - 1) // 6

    last = depths.astype(np.int64) * size
    return up_to(last) - up_to(np.maximum(last - size, 0))


def cost(program: Program, size: int = 1) -> dict[str, int]:
    """The "total" cost and that of each phase, with scalars of `size` bytes."""
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
    program = Program()
    sizes = [len(pixels), *map(len, gates), DIGITS]
    shapes = [shape for i, o in pairwise(sizes) for shape in ((i, o), (o,))]
    parameters = [program.argument(*shape) for shape in shapes]
    velocities = [program.argument(*s) for s in shapes] if kind == "momentum" else []
    signals = [np.where(pixels, program.argument(*pixels.shape), NONE)]
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))

    def pre_activations(phase: str, weights: np.ndarray, biases: np.ndarray) -> np.ndarray:
        program.phase = phase
        return program.sums("jni", ("in", signals[-1]), ("ij", weights), start=biases[:, None])

    for number, gate in enumerate(gates):
        z = pre_activations("later_layers" if number else "first_layer", *layers[number])
        program.phase = "activation"
        signals.append(activate(program, z, gate, k, skip))
    logits = pre_activations("output", *layers[-1])
    if kind == "forward":
        program.returned = [*parameters, logits]
        return program
    delta = output_gradient(program, logits)
    program.phase = "backward"
    gradients = backward(program, signals, parameters[::2], delta, skip)
    program.phase = "update"
    program.returned = update(program, parameters, velocities, gradients)
    return program


def activate(program: Program, z: np.ndarray, gate: np.ndarray, k: int, skip: bool) -> np.ndarray:
    """Activations of pre-activations z, (units, images); gate, bool, says which units speak.

    Block by block, and within it image by image. ReLU (k = 1): h = max(z, 0), an operation of one
    operand. LWTA: the maximum m of a block of k by k - 1 operations max(m, z), then for each of its
    units h = z if z = m else 0, an operation on z and m. Skipping, a unit that is silent has no h,
    and the winner's h is m itself, so that the second step falls away.
    """
    units, images = z.shape
    members = z.reshape(-1, k, images).swapaxes(0, 1).reshape(k, -1)  # of each block and image
    largest, steps = members[0], []
    for member in members[1:]:
        before, largest = largest, program.new(len(member))
        steps.append((before, member, largest, True))
    if k == 1:
        h = program.new(*members.shape)
        steps = [(largest, NONE, h[0], True)]
    elif skip:
        h = np.broadcast_to(largest, members.shape)
    else:
        h = program.new(*members.shape)
        steps += [(member, largest, own, True) for member, own in zip(members, h, strict=True)]
    program.record(*steps)
    h = h.reshape(k, -1, images).swapaxes(0, 1).reshape(units, images)
    return np.where(gate, h, NONE) if skip else h


def output_gradient(program: Program, logits: np.ndarray) -> np.ndarray:
    """lr times the gradient of the cross-entropy of a softmax; (classes, images) both."""
    largest = program.sums("nj", ("jn", logits))
    exponentials = program.apply(logits.T, largest[:, None])
    total = program.sums("nj", ("nj", exponentials))
    return program.apply(program.apply(exponentials, total[:, None])).T


def backward(
    program: Program,
    signals: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    delta: np.ndarray,
    skip: bool,
) -> list[np.ndarray]:
    """Gradients of W and b of each layer from d of the logits, NONE where nothing flows."""
    gradients: list[np.ndarray] = []
    for layer in reversed(range(len(signals))):
        signal = signals[layer]
        of_weights = program.sums("ijn", ("in", signal), ("jn", delta))
        gradients[:0] = [of_weights, program.sums("jn", ("jn", delta))]
        if layer:
            reached = signal != NONE
            back = program.sums("inj", ("ij", weights[layer]), ("jn", delta), where=reached)
            delta = back if skip else program.apply(back, signal)
    return gradients


def update(
    program: Program,
    parameters: Sequence[np.ndarray],
    velocities: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """Parameters after a step, flat; with velocities a step with momentum and decay, and them."""
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
# The loops of sum_j A_ij x_j, sum_i x_i A_ij and sum_k A_ik B_kj, and their operands' indices.
PRODUCTS = {"matvec": ("ij", "ij", "j"), "vecmat": ("ji", "ij", "i"), "matmul": ("ijk", "ik", "kj")}
KERNELS = [
    *PRODUCTS,
    *(f"{m}-{kind}{end}" for m in MODELS for kind in KINDS for end in ("", "-skipping")),
]


def kernel(name: str, size: int) -> Program:
    """A program to check by hand: a product, or one example in a network size-size-size-10.

    A skipping network reads the pixels 0, 2, 4 ...; the first unit of each block speaks, for ReLU
    the units 0, 2, 4 ... Raises `InputError` for a size that is too large or has no whole blocks.
    """
    most = 200 if name == "matmul" else 1000  # 5 GB
    if not 1 <= size <= most:
        raise InputError(f"--size must be 1 to {most} for {name}, not {size}")
    if name in PRODUCTS:
        loops, *indices = PRODUCTS[name]
        program = Program()
        operands = [(letters, program.argument(*[size] * len(letters))) for letters in indices]
        # The vector is vecmat's left operand, but its last argument, as of matvec.
        program.returned.append(
            program.sums(loops, *(operands[::-1] if name == "vecmat" else operands))
        )
        return program
    model, kind, *skipping = name.split("-")
    _, k = MODELS[model]
    if size % k:
        raise InputError(f"--size {size} cannot be cut into blocks of {k}; choose a multiple")
    units = np.arange(size)[:, None]
    pixels = (units % 2 == 0) | (not skipping)
    return network_program(kind, k, pixels, [units % max(k, 2) == 0] * 2, bool(skipping))
