"""Networks that have a part of what competition has, and what is done while a network trains.

What is done stands in a run's identity as `besides`, the names of `INTERVENTIONS` each with its
value. "layer_scales" is done before training, see `start`, and "measured" changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from compete_to_compute import (
    MLP,
    PAIRED_BATCH_STREAM,
    Activation,
    Config,
    Moment,
    Task,
    initial_weights,
    lwta,
    relu,
)

RANDOM_WINNER_STREAM = 4  # beside the streams of compete_to_compute.py
AT_START, AT_SWITCH = "of the untrained network", "kept from the switch on"
AT_RANDOM, HALF_ACTIVE = "drawn at random", "moved until 1 / k of the units are active"


def random_winner(z: np.ndarray, gate: np.ndarray, k: int, rng: np.random.Generator) -> None:
    """One unit of each block passes, drawn for each image and block, at every pass anew.

    As sparse as LWTA, and its gate is as hard, but nothing competes: dropout of all but one unit a
    block, which goes on while the network is tested.
    """
    blocks = z.reshape(-1, k, z.shape[1])
    winner = rng.integers(k, size=(len(blocks), 1, z.shape[1]))
    gate.reshape(blocks.shape)[:] = np.arange(k)[:, None] == winner
    np.multiply(z, gate, out=z)


CONTROLS: dict[str, tuple[Activation, dict[str, Any]]] = {  # by model, with what is done besides
    name: (Activation(name, label, function, PAIRED_BATCH_STREAM), besides)
    for name, (label, function, besides) in {
        "kept": ("winners kept from the switch on", lwta, {"winners": AT_SWITCH}),
        "fixed": ("winners of the untrained network", lwta, {"winners": AT_START}),
        "random": ("random winner", random_winner, {"winners": AT_RANDOM}),
        "shifted": ("ReLU, half active", relu, {"biases": HALF_ACTIVE}),
    }.items()
}


class Network(MLP):
    """A network whose winners may be kept: each image has the same ones from then on.

    As sparse as LWTA, but nothing competes any more: `chooser`, a copy of the network at one
    moment, goes on choosing, and nothing that is learned later changes its choice.
    """

    chooser: Network | None = None

    def forward(self, inputs: np.ndarray, classes: np.ndarray, drop: Any = None) -> np.ndarray:
        """Logits (classes, n) of inputs (n, pixels + 1); kept winners know no dropout."""
        if self.chooser is None:
            return super().forward(inputs, classes, drop)
        self.chooser.forward(inputs, classes)
        work, chosen = self.workspace(len(inputs)), self.chooser.workspace(len(inputs))
        signal = inputs.T
        for weights, hidden, gate, winners in zip(
            self.weights, work.hidden, work.gates, chosen.gates, strict=False
        ):
            gate[:] = winners
            np.multiply(weights @ signal, gate, out=hidden[:-1])
            signal = hidden
        return self.weights[-1][classes] @ signal


def copy_of(network: MLP) -> Network:
    """Copy a network as it is now; activation and chooser are the same objects."""
    initial = [weights[:, :-1].T for weights in network.weights]
    twin = Network(initial, network.activation, network.k, network.dtype)
    twin.parameters[:] = network.parameters
    twin.chooser = getattr(network, "chooser", None)
    return twin


class Training(NamedTuple):
    """What is trained, how, and from which seed."""

    network: Network
    tasks: Sequence[Task]
    config: Config
    seed: int


def choose_winners(training: Training, now: Moment, how: str) -> None:
    """Let others than competition choose the winners, from the start or from the switch on."""
    network = training.network
    if (now.stage, now.task) == ("start", 2 if how == AT_SWITCH else 1):
        if how == AT_RANDOM:
            rng = np.random.default_rng([training.seed, RANDOM_WINNER_STREAM])
            function = partial(random_winner, rng=rng)
            network.activation = replace(network.activation, function=function)
        else:
            network.chooser = copy_of(network)


def shift_biases(training: Training, now: Moment, goal: str) -> None:
    """Move each hidden layer's biases together, so that the share 1 / k of its units fires.

    A step is in proportion to what is missing in the last batch. With unit spread of the
    pre-activations the share follows within some 25 updates.
    """
    if now.stage != "update":
        return
    network, batch = training.network, training.config.batch
    images = len(training.tasks[now.task - 1].train_labels)
    first = (now.task_update - 1) % math.ceil(images / batch) * batch
    gates = network.workspace(min(batch, images - first)).gates
    for weights, gate in zip(network.weights, gates, strict=False):
        weights[:, -1] += network.dtype(0.1 * (1 / training.config.k - gate.mean()))


def set_second_rows(training: Training, now: Moment, scale: float) -> None:
    """Begin Task 2 with output rows of its own from initial weights of another scale."""
    if (now.stage, now.task) == ("start", 2):
        rows = training.tasks[1].classes
        first = initial_weights(replace(training.config, init_scale=scale), training.seed)[-1]
        training.network.weights[-1][rows, :-1] = first.T[rows]


# Each is called with its value at every `Moment` of `train_phases`, before any test.
INTERVENTIONS: dict[str, Callable[[Training, Moment, Any], None]] = {
    "winners": choose_winners,
    "biases": shift_biases,
    "second_rows": set_second_rows,
}


def start(config: Config, seed: int, scales: Sequence[float]) -> list[np.ndarray]:
    """Draw initial weights whose layers, the output included, have scales of their own."""
    return [
        initial_weights(replace(config, init_scale=scale), seed)[layer]
        for layer, scale in enumerate(scales)
    ]
