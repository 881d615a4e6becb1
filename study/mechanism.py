"""Train the networks that are looked into, and measure what happens inside.

Through Task 2 both accuracies are followed update by update; before training and after each task
`measures` looks inside. A row has, beside what every run has, `measures`: what `measure_run` gives,
and `lost.at0.9`, what Task 1 has lost when Task 2's accuracy is first there; or what
`seen_in_figures` gives of a run as people see its figures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from compete.machine import blas
from compete.pictures import field_spread, segregation
from compete.runs import Row
from compete_to_compute import (
    Activation,
    Config,
    Diverged,
    Moment,
    Run,
    check_finite,
    evaluate,
    load_mnist,
    prepare,
    run_record,
    train_model,
    train_phases,
)
from study.conditions import study_parser, train_missing
from study.families import IN_FIGURES, INSIDE
from study.measures import Checkpoint, gates_on_tests, measure_run
from study.networks import INTERVENTIONS, Training, copy_of
from study.runs import MECHANISM

LEVELS = (0.9, 0.925)  # of Task 2 accuracy


def train_inside(
    config: Config,
    activation: Activation,
    seed: int,
    besides: dict[str, Any] | None,
    data_dir: str | None,
) -> Row:
    """Train one run in any process and measure it: what its row has beside its identity."""
    blas()  # with one thread
    if besides == IN_FIGURES:
        run = train_model(config, activation, seed, load_mnist(data_dir))
        seen = seen_in_figures(run) if run.record["status"] == "ok" else {}
        return {**run.record, "seconds": run.seconds, "measures": seen}
    began = time.perf_counter()
    prepared = prepare(config, activation, seed, load_mnist(data_dir))
    training = Training(copy_of(prepared.network), prepared.tasks, config, seed)
    record, measures = follow(training, besides or {})
    return {**record, "seconds": time.perf_counter() - began, "measures": measures}


def follow(training: Training, besides: dict[str, Any]) -> tuple[Row, dict[str, Any]]:
    """Train both tasks in turn as `train_model` does, with what is done besides.

    It tests at other moments than `train_and_test`, of which a network whose winners are drawn at
    every pass would notice. Returns the record, a row of `per_seed`, and what was measured.
    """
    network, tasks, config, seed = training
    tests: list[tuple[Moment, list[float]]] = []  # before training and after each task
    during: list[list[float]] = []  # of Task 2
    checkpoints: list[Checkpoint] = []
    failure, measures = None, {}
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # see `Diverged`
            for now in train_phases(network, tasks, config, seed):
                for name, value in besides.items():
                    INTERVENTIONS[name](training, now, value)
                if now.is_checkpoint:
                    tests.append((replace(now), evaluate(network, tasks)))
                    check_finite(tests[-1][1], "test accuracy", now.task, now.epoch)
                    checkpoints.append((copy_of(network), gates_on_tests(network, tasks)))
                elif now.task == 2 and now.stage == "update" and is_followed(now.task_update):
                    during.append(evaluate(network, tasks))
        measures = measure_run(tasks, checkpoints, learned=tests[1][1][0])
        lost = {f"lost.at{level}": lost_at([tests[1][1], *during], level) for level in LEVELS}
        measures |= {name: value for name, value in lost.items() if value is not None}
    except Diverged as error:
        failure = str(error)
    return run_record(config, network.activation, seed, tests, failure, tasks), measures


def is_followed(update: int) -> bool:
    """Whether an update of Task 2 is followed by a test: often at first, then less."""
    return update % (2 if update <= 40 else 10) == 0


def lost_at(tests: Sequence[Sequence[float]], level: float) -> float | None:
    """What Task 1 has lost when Task 2's accuracy first reaches a level, or None if it never does.

    `tests` are the accuracies on both, from the switch on; between two tests, both are taken to
    move evenly.
    """
    for (first, second), (next_first, next_second) in pairwise(tests):
        if next_second >= level:
            part = min(1.0, max(0.0, (level - second) / max(next_second - second, 1e-9)))
            return tests[0][0] - (first + part * (next_first - first))
    return None


def seen_in_figures(run: Run) -> dict[str, float]:
    """Put what people say they see in a run's figures into numbers."""

    change = run.snapshot["W1"] - run.snapshot["W1_init"]
    layers = [segregation(*shares) for shares in run.snapshot["active"][-1]]
    return {
        "change_spread": float(field_spread(change).mean()),
        **{f"{name}_{n}": v for n, layer in enumerate(layers, 1) for name, v in layer.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the file does not have yet; the exit status."""
    description = "What competition does inside the network, over many paired seeds."
    groups = {condition.label: [condition] for condition in INSIDE.conditions}
    given = vars(study_parser(description, "; ".join(groups)).parse_args(arguments))
    train_missing(train_inside, groups, MECHANISM, given)
    return 0
