"""One network: its gradient, its activations, its update, its loss."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit, log_softmax

import compete_to_compute as ctc
from compete_to_compute import ACTIVATIONS, MLP, Config, Mnist

PIXELS, UNITS, IMAGES = 5, 8, 7


def numerical_gradient(network: MLP, loss: Callable[[], float]) -> np.ndarray:
    step = 1e-6
    gradient = np.empty_like(network.parameters)
    for i, value in enumerate(network.parameters.copy()):
        network.parameters[i] = value + step
        above = loss()
        network.parameters[i] = value - step
        gradient[i] = (above - loss()) / (2 * step)
        network.parameters[i] = value
    return gradient


@pytest.mark.parametrize("situation", ["first classes", "some classes", "dropout", "joint"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(
    ("activation", "k"), [("relu", 1), ("lwta", 2), ("lwta", 4), ("sigmoid", 1)]
)
def test_gradient_of_every_parameter(activation: str, k: int, depth: int, situation: str) -> None:
    rng = np.random.default_rng(depth)
    sizes = [PIXELS, *[UNITS] * depth, 10]
    initial = [rng.normal(0, n_in**-0.5, (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    network = MLP(initial, ACTIVATIONS[activation], k, np.float64)
    for weights in network.weights:
        weights[:, -1] = rng.normal(0, 0.5, len(weights))
    seen = {"first classes": [0, 1, 2, 3, 4], "joint": range(10)}
    classes = np.array(seen.get(situation, [1, 4, 7]))
    inputs = np.column_stack([rng.random((IMAGES, PIXELS)), np.ones(IMAGES)])
    labels = rng.integers(len(classes), size=IMAGES)
    mask = np.zeros((len(classes), IMAGES))
    if situation == "joint":  # each image sees the classes of its own task
        mask[(classes[:, None] < 5) != (labels < 5)] = -np.inf
    factors = [(rng.random((UNITS, IMAGES)) > 0.3) / 0.7 for _ in range(depth)]

    def forward() -> np.ndarray:
        layers = iter(factors)

        def drop(z: np.ndarray) -> np.ndarray:
            own = next(layers)
            z *= own
            return own

        return network.forward(inputs, classes, drop if situation == "dropout" else None) + mask

    network.gradient[:] = np.nan  # whatever backward does not fill shows
    network.backward(inputs, classes, ctc.cross_entropy_gradient(forward(), labels))
    expected = numerical_gradient(network, lambda: ctc.loss_and_accuracy(forward(), labels)[0])
    np.testing.assert_allclose(network.gradient, expected, rtol=1e-6, atol=1e-8)
    assert np.all(network.gradients[-1][np.setdiff1d(np.arange(10), classes)] == 0)
    assert all(np.any(gradients) for gradients in network.gradients)


def activate(activation: str, z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gate, as in a layer: all rows of a buffer but the last, and in place."""
    hidden, gate = np.vstack([z, z[:1]]), np.full_like(z, np.nan)
    ACTIVATIONS[activation].function(hidden[:-1], gate, k)
    np.testing.assert_array_equal(hidden[-1], z[0])
    return hidden[:-1], gate


@pytest.mark.filterwarnings("ignore:overflow")
def test_relu_and_sigmoid_are_their_formulas_at_the_ends_too() -> None:
    z = np.array([[-1000.0, -2.0, 0.0, 2.0, 1000.0]])
    np.testing.assert_equal(activate("relu", z, 1), ([[0, 0, 0, 2, 1000]], [[0, 0, 0, 1, 1]]))
    h, gate = activate("sigmoid", z, 1)
    np.testing.assert_allclose(h, expit(z), rtol=1e-14)
    np.testing.assert_allclose(gate, expit(z) * expit(-z), rtol=1e-14, atol=1e-300)


@st.composite
def pre_activations(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """float32 (blocks of k, images) and k; small integers among the values, so that ties occur."""
    k = draw(st.sampled_from([1, 2, 2, 2, 3, 4, 5]))  # pairs have code of their own
    shape = (k * draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    values = st.one_of(
        st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    )
    return draw(arrays.arrays(np.float32, shape, elements=values)), k


@given(pre_activations())
def test_lwta_passes_the_first_largest_of_each_block_and_nothing_else(
    drawn: tuple[np.ndarray, int],
) -> None:
    z, k = drawn
    wins = np.zeros_like(z)
    for start in range(0, len(z), k):
        for image in range(z.shape[1]):
            block = z[start : start + k, image].tolist()
            wins[start + block.index(max(block)), image] = 1
    np.testing.assert_equal(activate("lwta", z, k), (np.where(wins == 1, z, 0), wins))


def test_source_hash_is_of_the_code_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = ['"""As it was."""\n    z *= 2 * k', "# reworded\n    z *= (2  *\n  k)", "z *= 3 * k"]
    monkeypatch.syspath_prepend(tmp_path)
    hashes = []
    for number, body in enumerate(bodies):
        (tmp_path / f"activation{number}.py").write_text(f"def act(z, gate, k):\n    {body}\n")
        hashes.append(ctc.source_hash(importlib.import_module(f"activation{number}").act))
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 12


def test_update_is_the_literal_rule() -> None:
    lr, momentum, decay = 0.05, 0.9, 0.3
    rng = np.random.default_rng(5)
    sizes = [500, 600, 30, 10]  # more than is updated at once
    initial = [rng.standard_normal(shape) for shape in pairwise(sizes)]
    network = MLP(initial, ACTIVATIONS["relu"], 1, np.float64)
    W = [weights.copy() for weights in network.weights]
    v = [np.zeros_like(weights) for weights in W]
    for _ in range(3):
        for layer, gradients in enumerate(network.gradients):
            g = rng.standard_normal(gradients.shape)
            gradients[:] = lr * g
            decayed = decay * W[layer]
            decayed[:, -1] = 0
            v[layer] = momentum * v[layer] - lr * (g + decayed)
            W[layer] = W[layer] + v[layer]
        network.update(momentum, lr * decay)
    velocities = ctc.layer_views(network.velocity, [weights.shape for weights in W])
    for layer, weights in enumerate(network.weights):
        np.testing.assert_allclose(weights, W[layer], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(velocities[layer], v[layer], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "precision"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("scale", [1, 1e4])
def test_loss_and_accuracy_against_scipy(scale: float, dtype: type, precision: float) -> None:
    rng = np.random.default_rng(6)
    logits = (scale * rng.standard_normal((5, 200))).astype(dtype)
    labels = rng.integers(5, size=200)
    loss, accuracy = ctc.loss_and_accuracy(logits, labels)
    expected = -log_softmax(logits.astype(float), axis=0)[labels, np.arange(200)].mean()
    assert loss == pytest.approx(expected, rel=precision)
    assert accuracy == sum(logits[:, i].argmax() == labels[i] for i in range(200)) / 200
    assert np.all(np.isfinite(ctc.cross_entropy_gradient(logits, labels)))
    logits[(labels[0] + 1) % 5, 0] = np.nan  # of a class that is not the right one
    assert math.isnan(ctc.loss_and_accuracy(logits, labels)[0])


@pytest.mark.parametrize(("hidden", "depth", "scale"), [(400, 2, 1.0), (30, 3, 1.0), (30, 1, 0.2)])
def test_initial_weights_are_the_documented_draw(hidden: int, depth: int, scale: float) -> None:
    rng = np.random.default_rng(3 + 1)
    weights = ctc.initial_weights(Config(hidden=hidden, depth=depth, init_scale=scale), seed=3)
    sizes = [784, *[hidden] * depth, 10]
    for drawn, (n_in, n_out) in zip(weights, pairwise(sizes), strict=True):
        expected = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in) * scale
        assert drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn, expected.astype(np.float32))


def test_weights_of_pixels_that_are_left_out_stay_as_they_were(mnist: Mnist) -> None:
    config = Config(hidden=100, train_per_class=30, test_per_task=100, epochs=1)
    snapshot = ctc.train_model(config, ACTIVATIONS["lwta"], 1, mnist).snapshot
    start = ctc.initial_weights(config, 1)[0]
    _, used = ctc.make_tasks(config, 1, mnist)
    assert 100 < np.count_nonzero(~used) < 300
    np.testing.assert_array_equal(snapshot["W1_init"], start)
    np.testing.assert_array_equal(np.any(snapshot["W1"] != start, axis=1), used)
