from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import expit, log_softmax

from compete_to_compute import (
    ACTIVATIONS,
    MLP,
    Config,
    History,
    Mnist,
    cross_entropy_gradient,
    draw_images,
    drop_units,
    initial_weights,
    loss_and_accuracy,
    lwta,
    make_tasks,
    train_model,
    train_phases,
    with_bias,
)

PIXELS, UNITS, IMAGES = 5, 8, 7
CASES = [("relu", 1), ("lwta", 2), ("lwta", 4), ("sigmoid", 1)]
CLASSES = [(0, 1, 2, 3, 4), (1, 4, 7), tuple(range(10))]


# --- Gradients ----------------------------------------------------------------------------------


def small_network(activation: str, k: int, depth: int) -> MLP:
    rng = np.random.default_rng(depth)
    sizes = [PIXELS, *[UNITS] * depth, 10]
    initial = [rng.normal(0, n_in**-0.5, (n_in, n_out)) for n_in, n_out in pairwise(sizes)]
    network = MLP(initial, ACTIVATIONS[activation], k, np.float64)
    for weights in network.weights:
        weights[:, -1] = rng.normal(0, 0.5, len(weights))
    return network


def images_and_labels(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    inputs = np.column_stack([rng.random((IMAGES, PIXELS)), np.ones(IMAGES)])
    return inputs, rng.integers(classes, size=IMAGES)


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


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("activation", "k"), CASES)
def test_gradient_of_every_parameter(
    activation: str, k: int, depth: int, classes: tuple[int, ...]
) -> None:
    network = small_network(activation, k, depth)
    rows = np.array(classes)
    inputs, labels = images_and_labels(len(rows))
    network.gradient[:] = np.nan  # whatever backward does not fill shows

    logits = network.forward(inputs, rows)
    network.backward(inputs, rows, cross_entropy_gradient(logits, labels))
    expected = numerical_gradient(
        network, lambda: loss_and_accuracy(network.forward(inputs, rows), labels)[0]
    )
    np.testing.assert_allclose(network.gradient, expected, rtol=1e-6, atol=1e-8)
    masked = np.setdiff1d(np.arange(10), rows)
    assert np.all(network.gradients[-1][masked] == 0)
    assert all(np.any(gradients) for gradients in network.gradients)


@pytest.mark.parametrize(("activation", "k"), CASES)
def test_gradient_with_dropout(activation: str, k: int) -> None:
    network = small_network(activation, k, depth=2)
    rows = np.array([1, 4, 7])
    inputs, labels = images_and_labels(len(rows))
    rng = np.random.default_rng(2)
    factors = [(rng.random((UNITS, IMAGES)) > 0.3) / 0.7 for _ in range(2)]

    def forward() -> np.ndarray:
        layers = iter(factors)

        def drop(z: np.ndarray) -> np.ndarray:
            own = next(layers)
            z *= own
            return own

        return network.forward(inputs, rows, drop)

    network.backward(inputs, rows, cross_entropy_gradient(forward(), labels))
    expected = numerical_gradient(network, lambda: loss_and_accuracy(forward(), labels)[0])
    np.testing.assert_allclose(network.gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("activation", "k"), CASES)
def test_gradient_under_the_mask_of_joint_training(activation: str, k: int) -> None:
    network = small_network(activation, k, depth=2)
    rows = np.arange(10)
    inputs, labels = images_and_labels(len(rows))
    mask = np.where((rows[:, None] < 5) == (labels < 5), 0, -np.inf)

    def forward() -> np.ndarray:
        return network.forward(inputs, rows) + mask

    delta = cross_entropy_gradient(forward(), labels)
    assert np.all(delta[mask < 0] == 0)
    network.backward(inputs, rows, delta)
    expected = numerical_gradient(network, lambda: loss_and_accuracy(forward(), labels)[0])
    np.testing.assert_allclose(network.gradient, expected, rtol=1e-6, atol=1e-8)


# --- Activations --------------------------------------------------------------------------------


def activate(activation: str, z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gate; z is left as it is."""
    h, gate = z.copy(), np.full_like(z, np.nan)
    ACTIVATIONS[activation].function(h, gate, k)
    return h, gate


@pytest.mark.parametrize(("activation", "k"), CASES)
def test_gate_is_the_derivative(activation: str, k: int) -> None:
    z = np.random.default_rng(3).standard_normal((UNITS, IMAGES))
    _, gate = activate(activation, z, k)
    for unit in range(UNITS):
        step = np.zeros_like(z)
        step[unit] = 1e-6
        change = activate(activation, z + step, k)[0] - activate(activation, z - step, k)[0]
        expected = np.zeros_like(z)
        expected[unit] = gate[unit]
        np.testing.assert_allclose(change / 2e-6, expected, atol=1e-8)


def test_relu_is_zero_up_to_zero() -> None:
    h, gate = activate("relu", np.array([[-2.0, 0.0, 3.0]]), 1)
    np.testing.assert_array_equal(h, [[0, 0, 3]])
    np.testing.assert_array_equal(gate, [[0, 0, 1]])


@pytest.mark.filterwarnings("ignore:overflow")
def test_sigmoid_saturates_without_nan() -> None:
    z = np.array([[-1000.0, -2.0, 0.0, 2.0, 1000.0]])
    h, gate = activate("sigmoid", z, 1)
    np.testing.assert_allclose(h, expit(z), rtol=1e-14)
    np.testing.assert_allclose(gate, expit(z) * expit(-z), rtol=1e-14, atol=1e-300)


def argmax_lwta(z: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition, block by block and image by image."""
    gate = np.zeros_like(z)
    for start in range(0, len(z), k):
        for image in range(z.shape[1]):
            gate[start + np.argmax(z[start : start + k, image]), image] = 1
    return np.where(gate, z, 0), gate


@st.composite
def pre_activations(draw: st.DrawFn, k: int | None = None) -> tuple[np.ndarray, int]:
    """float32 (blocks of k, images) and k; small integers among the values, so that ties occur."""
    k = k or draw(st.integers(1, 6))
    shape = (k * draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    values = st.one_of(
        st.integers(-2, 2).map(float), st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    )
    return draw(arrays.arrays(np.float32, shape, elements=values)), k


@given(pre_activations())
def test_lwta_has_one_winner_per_block_and_it_is_the_largest(case: tuple[np.ndarray, int]) -> None:
    z, k = case
    _, gate = activate("lwta", z, k)
    blocks, wins = (a.reshape(-1, k, z.shape[1]) for a in (z, gate))
    assert set(np.unique(gate)) <= {0, 1}
    assert np.all(wins.sum(axis=1) == 1)
    np.testing.assert_array_equal((blocks * wins).sum(axis=1), blocks.max(axis=1))


@given(pre_activations())
def test_lwta_passes_the_winner_unchanged_and_silences_the_rest(
    case: tuple[np.ndarray, int],
) -> None:
    z, k = case
    h, gate = activate("lwta", z, k)
    np.testing.assert_array_equal(h, np.where(gate == 1, z, 0))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_lwta_ties_go_to_the_lowest_index(k: int) -> None:
    z = np.full((2 * k, 3), -1.5, np.float32)
    _, gate = activate("lwta", z, k)
    expected = np.zeros_like(z)
    expected[::k] = 1
    np.testing.assert_array_equal(gate, expected)


@given(pre_activations())
def test_lwta_equals_its_definition(case: tuple[np.ndarray, int]) -> None:
    np.testing.assert_equal(activate("lwta", *case), argmax_lwta(*case))


@given(pre_activations(k=2))
def test_lwta_in_pairs_equals_its_definition(case: tuple[np.ndarray, int]) -> None:
    np.testing.assert_equal(activate("lwta", *case), argmax_lwta(*case))


@given(pre_activations(), st.integers(1, 20))
def test_lwta_scales_with_positive_powers_of_two(case: tuple[np.ndarray, int], power: int) -> None:
    z, k = case
    scale = np.float32(2**power)
    h, gate = activate("lwta", z, k)
    scaled_h, scaled_gate = activate("lwta", z * scale, k)
    np.testing.assert_array_equal(scaled_h, h * scale)
    np.testing.assert_array_equal(scaled_gate, gate)


@given(pre_activations(), st.data())
def test_lwta_blocks_do_not_see_each_other(
    case: tuple[np.ndarray, int], data: st.DataObject
) -> None:
    z, k = case
    block = data.draw(st.integers(0, len(z) // k - 1))
    own = slice(block * k, (block + 1) * k)
    alone = activate("lwta", z[own], k)
    together = activate("lwta", z, k)
    np.testing.assert_equal(alone, tuple(a[own] for a in together))


def test_lwta_works_in_place_on_a_layer_of_the_network() -> None:
    """A layer's pre-activations are all rows but the last of its buffer: no copy may be made."""
    hidden = np.random.default_rng(4).standard_normal((UNITS + 1, IMAGES)).astype(np.float32)
    before = hidden.copy()
    gate = np.empty((UNITS, IMAGES), np.float32)
    lwta(hidden[:-1], gate, 4)
    np.testing.assert_equal((hidden[:-1], gate), argmax_lwta(before[:-1], 4))
    np.testing.assert_array_equal(hidden[-1], before[-1])


# --- Learning -----------------------------------------------------------------------------------


def test_update_is_the_literal_rule() -> None:
    lr, momentum, decay = 0.05, 0.9, 0.3
    network = small_network("relu", 1, depth=2)
    rng = np.random.default_rng(5)
    W = [weights.copy() for weights in network.weights]
    v = [np.zeros_like(weights) for weights in W]
    extra, extra_v = 1.0, 0.0
    for _ in range(5):
        network.gradient[-1] = 0
        for layer, gradients in enumerate(network.gradients):
            g = rng.standard_normal(gradients.shape)
            gradients[:] = lr * g
            decayed = decay * W[layer]
            decayed[:, -1] = 0
            v[layer] = momentum * v[layer] - lr * (g + decayed)
            W[layer] = W[layer] + v[layer]
        extra_v = momentum * extra_v - lr * decay * extra
        extra += extra_v
        network.update(momentum, lr * decay)
    for layer, weights in enumerate(network.weights):
        np.testing.assert_allclose(weights, W[layer], rtol=1e-12, atol=1e-13)
    assert network.parameters[-1] == pytest.approx(extra, rel=1e-12)
    assert extra < 0.9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 1e4])
def test_loss_and_accuracy_against_scipy(scale: float, dtype: type) -> None:
    rng = np.random.default_rng(6)
    logits = (scale * rng.standard_normal((5, 200))).astype(dtype)
    labels = rng.integers(5, size=200)
    loss, accuracy = loss_and_accuracy(logits, labels)
    expected = -log_softmax(logits.astype(float), axis=0)[labels, np.arange(200)].mean()
    assert loss == pytest.approx(expected, rel=1e-5 if dtype is np.float32 else 1e-12)
    assert accuracy == sum(logits[:, i].argmax() == labels[i] for i in range(200)) / 200


def test_gradient_of_large_logits_is_finite() -> None:
    delta = cross_entropy_gradient(np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0]))
    np.testing.assert_array_equal(delta, [[0, -0.5], [0, 0.5]])


def test_loss_of_a_nan_logit_is_nan() -> None:
    logits = np.zeros((5, 3))
    logits[4, 1] = np.nan
    loss, _ = loss_and_accuracy(logits, np.array([0, 1, 2]))
    assert math.isnan(loss)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    n = 200_000
    values = np.ones((n // 100, 100), np.float32)
    drop_units(values, rate, np.random.default_rng(7))
    assert set(np.unique(values)) == {0, np.float32(1 / (1 - rate))}
    sigma = math.sqrt(rate * (1 - rate) / n)
    assert np.mean(values == 0) == pytest.approx(rate, abs=4 * sigma)
    assert values.mean(dtype=float) == pytest.approx(1, abs=4 * sigma / (1 - rate))


def test_dropout_returns_what_it_multiplied_by() -> None:
    before = np.random.default_rng(8).standard_normal((20, 30)).astype(np.float32)
    values = before.copy()
    factors = drop_units(values, 0.4, np.random.default_rng(9))
    np.testing.assert_array_equal(values, before * factors)
    assert values.dtype == factors.dtype == np.float32


@pytest.mark.parametrize("sizes", [(784, 30, 10), (784, 400, 400, 10), (784, 30, 30, 30, 10)])
def test_initial_weights_are_the_documented_draw(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3 + 1)
    weights = initial_weights(Config(depth=len(sizes) - 2, hidden=sizes[1]), seed=3)
    for drawn, (n_in, n_out) in zip(weights, pairwise(sizes), strict=True):
        expected = rng.standard_normal((n_in, n_out)) * np.sqrt(2 / n_in)
        assert drawn.dtype == np.float32
        np.testing.assert_array_equal(drawn, expected.astype(np.float32))


def test_init_scale_multiplies_the_initial_weights() -> None:
    plain, doubled = (initial_weights(Config(hidden=8, init_scale=s), 0) for s in (1.0, 2.0))
    for one, two in zip(plain, doubled, strict=True):
        np.testing.assert_array_equal(two, 2 * one)


@pytest.mark.parametrize("activation", ["relu", "lwta"])
def test_leaving_out_dead_pixels_changes_nothing(activation: str, mnist: Mnist) -> None:
    # Short and slow: a last bit that turns one close call must stay small.
    config = Config(
        hidden=100, train_per_class=30, test_per_task=100, epochs=1, lr=0.01, weight_decay=1.0
    )
    seed = 1
    run = train_model(config, ACTIVATIONS[activation], seed, mnist)

    tasks, live = make_tasks(config, seed, mnist)
    draws = draw_images(config, seed, mnist.train_labels, mnist.test_labels)
    whole = [
        replace(
            task,
            train_inputs=with_bias(mnist.train_images[train]),
            test_inputs=with_bias(mnist.test_images[test]),
        )
        for task, (train, test) in zip(tasks, draws, strict=True)
    ]
    network = MLP(initial_weights(config, seed), ACTIVATIONS[activation], config.k)
    history = History(np.zeros((3, config.depth, 2, config.hidden)))
    train_phases(network, whole, whole, config, seed, history)
    W1, W1_init = (run.snapshot[name] for name in ("W1", "W1_init"))

    assert 100 < np.count_nonzero(~live) < 300
    np.testing.assert_array_equal(W1_init, initial_weights(config, seed)[0])
    expected = network.weights[0][:, :-1].T
    np.testing.assert_allclose(W1[live], expected[live], atol=1e-4)
    np.testing.assert_allclose(W1[~live], expected[~live], rtol=1e-5)
    decayed = W1[~live] / W1_init[~live]
    np.testing.assert_allclose(decayed, decayed[0, 0], rtol=1e-5)
    assert decayed[0, 0] < 0.9
    np.testing.assert_allclose(run.record["accuracy_matrix"], history.matrix, atol=0.011)
    losses = [e.train_loss for e in history.evaluations[1:]]
    np.testing.assert_allclose(run.snapshot["train_loss"][1:], losses, rtol=1e-3)
