"""One network: its gradient, its activations, its loss."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax

import compete_to_compute as ctc
from compete.own import source_hash
from compete_to_compute import ACTIVATIONS, MLP

PIXELS, UNITS, IMAGES = 5, 8, 7


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("activation", "k"), [("relu", 1), ("lwta", 2), ("lwta", 4), ("sigmoid", 1)]
)
def test_gradient_of_every_parameter(activation: str, k: int, depth: int) -> None:
    """By central differences, of some classes, where images see their own and units drop out."""
    rng = np.random.default_rng(depth)
    sizes = [PIXELS, *[UNITS] * depth, 10]
    initial = [rng.normal(0, n_in**-0.5, (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    network = MLP(initial, ACTIVATIONS[activation], k, np.float64)
    for weights in network.weights:
        weights[:, -1] = rng.normal(0, 0.5, len(weights))
    inputs = np.column_stack([rng.random((IMAGES, PIXELS)), np.ones(IMAGES)])
    classes, labels = np.array([1, 3, 4, 7, 8]), rng.integers(5, size=IMAGES)
    mask = np.where((classes[:, None] < 5) == (labels < 3), 0, -np.inf)
    factors = [(rng.random((UNITS, IMAGES)) > 0.3) / 0.7 for _ in range(depth)]

    def forward() -> np.ndarray:
        layers = iter(factors)

        def drop(z: np.ndarray) -> np.ndarray:
            own = next(layers)
            z *= own
            return own

        return network.forward(inputs, classes, drop) + mask

    network.gradient[:] = np.nan  # whatever backward does not fill shows
    network.backward(inputs, classes, ctc.cross_entropy_gradient(forward(), labels))
    expected = np.empty_like(network.parameters)
    for i, value in enumerate(network.parameters.copy()):
        losses = []
        for network.parameters[i] in (value - 1e-6, value + 1e-6):
            losses.append(ctc.loss_and_accuracy(forward(), labels)[0])
        expected[i] = (losses[1] - losses[0]) / 2e-6
        network.parameters[i] = value
    np.testing.assert_allclose(network.gradient, expected, rtol=1e-6, atol=1e-8)
    assert all(np.any(gradients) for gradients in network.gradients)


VALUES = st.one_of(  # small integers among them, so that ties occur
    st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


@given(st.sampled_from([1, 2, 3, 4]), arrays.arrays(np.float32, (12, 2), elements=VALUES))
def test_lwta_passes_the_first_largest_of_each_block_and_nothing_else(
    k: int, z: np.ndarray
) -> None:
    wins = np.zeros_like(z)
    for start in range(0, len(z), k):
        for image in range(z.shape[1]):
            block = z[start : start + k, image].tolist()
            wins[start + block.index(max(block)), image] = 1
    hidden, gate = np.vstack([z, z[:1]]), np.full_like(z, np.nan)
    ctc.lwta(hidden[:-1], gate, k)  # as in a layer: all rows of a buffer but the last
    np.testing.assert_equal((hidden, gate), (np.vstack([np.where(wins, z, 0), z[:1]]), wins))


def test_source_hash_is_of_the_code_alone() -> None:
    bodies = ['"""As it was."""\n    z *= 2 * k', "# reworded\n    z *= (2  *\n  k)", "z *= 3 * k"]
    first, same, other = (source_hash([f"def f(z, k):\n    {b}".encode()]) for b in bodies)
    assert first == same != other


def test_loss_and_accuracy_against_scipy_for_logits_of_any_size() -> None:
    rng = np.random.default_rng(6)
    logits = np.float32(10.0 ** rng.integers(-2, 5, 200) * rng.standard_normal((5, 200)))
    labels = rng.integers(5, size=200)
    loss, accuracy = ctc.loss_and_accuracy(logits, labels)
    assert loss == pytest.approx(-log_softmax(logits, axis=0)[labels, range(200)].mean(), rel=1e-5)
    assert accuracy == sum(logits[:, i].argmax() == labels[i] for i in range(200)) / 200
    assert np.all(np.isfinite(ctc.cross_entropy_gradient(logits, labels)))
    logits[(labels[0] + 1) % 5, 0] = np.nan  # of a class that is not the right one
    assert math.isnan(ctc.loss_and_accuracy(logits, labels)[0])
