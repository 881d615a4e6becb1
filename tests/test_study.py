"""The families of conditions, their committed runs and training, and the study's own statistics."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

from compete.files import InputError
from compete.inference import permutation_test
from compete.runs import RunFile, key
from compete_to_compute import ACTIVATIONS, check_models, sequential_metrics
from study import analysis, conditions, families, figures, rule, runs
from study.analysis import Result, quantity
from study.families import FAMILIES, INSIDE, Condition, Family, ask
from study.runs import PAIR

Study = Callable[..., RunFile]  # what `study_of` gives
TINY = {"hidden": 20, "train_per_class": 20, "test_per_task": 50, "epochs": 2}


def row(seed: int, model: str = "relu", kept: float = 0.8, **rest: Any) -> dict[str, Any]:
    """A made-up row of a run at the default settings; `rest` are other parts of it."""
    matrix = [[0.1, 0.2], [0.9, 0.1], [kept, 0.7]]
    made = {**Condition("", first_seed=seed, seeds=1).plan(model)[seed].identity, "status": "ok"}
    made |= {"failure": None, "target_reached": None, "accuracy_matrix": matrix, "seconds": 1.5}
    made |= {"average_accuracy": float(np.mean(matrix[-1])), **sequential_metrics(np.array(matrix))}
    return {**made, "blas_kernel": "Haswell", **rest}


@pytest.fixture
def study_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Makes a study of other families, with a file of their own."""
    file = RunFile(tmp_path / "conditions.jsonl")

    def install(**others: Family) -> RunFile:
        for module in (conditions, analysis):
            monkeypatch.setattr(module, "FAMILIES", others)
            monkeypatch.setattr(module, "CONDITIONS", file)
        return file

    analysis.analyse.cache_clear()
    yield install
    analysis.analyse.cache_clear()


@pytest.mark.parametrize("file", [runs.CONDITIONS, runs.MECHANISM], ids=["conditions", "mechanism"])
def test_every_committed_run_is_whole_and_of_what_is_trained_now(file: RunFile) -> None:
    rows = file.rows()
    assert len(rows) == file.path.read_bytes().count(b"\n")
    assert len({(key(row), row["blas_kernel"]) for row in rows}) == len(rows)
    of_model = {row["model"]: row for row in rows}
    now = {model: Condition("").plan(model)[0].identity for model in of_model}
    for row in rows:
        for name in ("schema", "data", "source"):
            assert row[name] == now[row["model"]][name]
        if row["status"] != "diverged":
            metrics = sequential_metrics(np.array(row["accuracy_matrix"]))
            assert row["forgetting"] == metrics.get("forgetting")


def test_every_planned_run_can_be_trained_and_some_are_there() -> None:
    for file, planned in ((runs.CONDITIONS, FAMILIES), (runs.MECHANISM, {"inside": INSIDE})):
        there = families.finished_in(file.rows())
        for family in planned.values():
            labels = {condition.label for condition in family.conditions}
            assert len(labels) == len(family.conditions)
            assert {condition.against for condition in family.conditions} <= labels | {None}
            for condition in family.conditions:
                for model, found in condition.finished(there).items():
                    assert found
                    lwta = ACTIVATIONS["lwta"]  # what stands in for controls, which draw numbers
                    check_models(condition.config(model), [ACTIVATIONS.get(model, lwta)])


def test_points_are_labelled_by_their_changes_and_hold_fields_of_both_kinds() -> None:
    points = [*families.grid(lr=[0.1], init_scale=(1, 2)), {"label": "own", "seeds": 3}]
    first, second, own = families.explore("?", points, {"depth": 3, "seeds": 5}).conditions
    assert (first.label, second.label) == ("lr 0.1, init scale 1", "lr 0.1, init scale 2")
    assert own == Condition("own", {"depth": 3}, seeds=3, first_seed=1000)
    assert second.changes == {"depth": 3, "lr": 0.1, "init_scale": 2}


@pytest.mark.parametrize("k", families.MEAN_SQUARE_OF_MAXIMUM)
def test_the_scaled_start_gives_lwta_the_mean_square_of_relu(k: int) -> None:
    normals = np.random.default_rng(k).standard_normal((400_000 // k, k))
    lwta = (families.scaled(k) * normals.max(axis=1)) ** 2
    assert lwta.mean() / k == pytest.approx(0.5, rel=0.02)


# --- Training -------------------------------------------------------------------------------------


def test_a_study_goes_on_where_it_was_and_trains_an_edited_activation_anew(
    study_of: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, blocks = Condition("first", TINY, seeds=3), Condition("k", TINY, {"lwta": {"k": 4}})
    layers = Condition("layers", TINY, seeds=1, besides={"layer_scales": [1.0, 0.5, 1.0]})
    file = study_of(tiny=Family("?", (first, replace(blocks, seeds=2), layers)))
    conditions.main(["--n-seeds", "1", "--jobs", "1"])
    assert "tiny: 6 of 12 runs" in capsys.readouterr().out
    conditions.main(["tiny", "--jobs", "1"])
    assert len(file.rows()) == 6 + 2 + 2, "two conditions have the same ReLU runs"
    plain, scaled = (
        next(r for r in file.rows() if bool(r["besides"]) is is_scaled)["accuracy_matrix"]
        for is_scaled in (False, True)
    )
    assert plain != scaled

    def relu(z: np.ndarray, gate: np.ndarray, k: int) -> None:
        gate[:] = z >= 0
        z *= gate

    monkeypatch.setitem(ACTIVATIONS, "relu", replace(ACTIVATIONS["relu"], function=relu))
    conditions.main(["--finished-only"])
    assert len(file.rows()) == 10
    conditions.main(["--jobs", "1"])
    assert [row["model"] for row in file.rows()[10:]] == ["relu"] * 4


def test_the_first_kernel_in_the_file_counts_unless_one_is_asked_for(study_of: Study) -> None:
    rows = families.finished_in([row(0, blas_kernel="SkylakeX"), row(0)])
    for kernel, expected in ((None, "SkylakeX"), ("Haswell", "Haswell"), ("Zen", None)):
        finished = Condition("any", seeds=1, kernel=kernel).finished(rows)
        assert finished["relu"].get(0, {}).get("blas_kernel") == expected
    file = study_of(tiny=ask("?", [{**TINY, "kernel": "of no machine", "seeds": 1}]))
    conditions.main([])
    assert file.rows() == []


def test_what_makes_no_study_is_refused(tmp_path: Path) -> None:
    refused = {
        "nonsense": "nonsense: not there",
        "--jobs=-1": "--jobs must be 1 or more",
        "--file=x": "go together",
        f"--file={tmp_path}/none.py --out-dir=x": "cannot be read",
    }
    for arguments, message in refused.items():
        with pytest.raises(InputError, match=message):
            conditions.main(arguments.split())


def test_workers_that_have_nothing_of_this_project_train_conditions(
    study_of: Study, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *more],
            cwd=tmp_path,
            env=variables,
            stderr=subprocess.DEVNULL,
        )
        for what, *more in (
            ("scheduler", "--host", "127.0.0.1", "--port", port),
            ("worker", address, "--no-nanny", "--nthreads", "1"),
        )
    ]
    try:
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=60)
        points = [{"label": "plain"}, {"label": "scaled", "besides": {"layer_scales": [1, 0.5, 1]}}]
        file = study_of(tiny=ask("?", points, {**TINY, "seeds": 1}))
        conditions.main(["--dask", address])
        remote = {key(row): row["accuracy_matrix"] for row in file.rows()}
        file.path.unlink()
        conditions.main(["--jobs", "1"])
        assert {key(row): row["accuracy_matrix"] for row in file.rows()} == remote
        assert len(remote) == 4
    finally:
        for process in processes:
            process.kill()
            process.wait()


OWN = """
from study.families import ask
SMALL = {"hidden": 20, "depth": 1, "train_per_class": 50, "test_per_task": 50, "epochs": 5}
POINTS = {f"lr {lr}": {"lr": lr} for lr in (0.05, 0.1, 0.2)}
FAMILIES = {"own": ask("?", POINTS, {**SMALL, "seeds": 6, "activations": ("lwta", "mine.py:half")})}
"""
HALF = "def half(z, gate, k):\n    gate[:] = 0.5\n    z *= gate\n"


def test_conditions_of_one_s_own_are_one_family_with_activations_from_beside_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "mine.py").write_text(HALF)
    monkeypatch.chdir("/")
    committed = runs.CONDITIONS.path.stat()
    options = ["--file", f"{tmp_path}/own.py", "--out-dir", f"{tmp_path}/out", "--jobs", "1"]
    assert conditions.main([*options, "--n-seeds", "1"]) == 0
    assert "own: 6 of 36 runs" in capsys.readouterr().out
    # Six pairs of which LWTA has forgotten more by .1: p is 2 / 2^6, and three of them.
    file = RunFile(tmp_path / "out" / "conditions.jsonl")
    done = file.rows()
    file.path.unlink()
    for made in done:
        for seed in range(6):
            forgotten = 0.1 * (made["model"] == "lwta")
            file.append({**made, "seed": seed, "status": "ok", "forgetting": forgotten})
    assert conditions.main([*options, "--finished-only"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("LWTA minus half (mine), seed by seed (6 complete pairs)") == 3
    assert printed.count("p = 0.031, adjusted 0.094") == 3
    assert "Verdict: half" not in printed
    assert runs.CONDITIONS.path.stat() == committed
    (tmp_path / "mine.py").write_text(HALF.replace("z *= gate", "z *= 2"))
    with pytest.raises(InputError, match="gate is not the derivative"):
        conditions.main(options)


def test_from_small_initial_weights_both_forget_more(study_of: Study) -> None:
    quick = {"epochs": 10, "lr": 0.02, "hidden": 100, "train_per_class": 200, "seeds": 3}
    study_of(tiny=ask("?", families.grid(init_scale=(0.2, 1.0)), quick))
    conditions.main(["--jobs", "1"])
    for seed in range(3):
        for model in PAIR:
            less, more = (
                quantity(f"tiny/init scale {scale}:records.{model}.{seed}.forgetting")
                for scale in (1.0, 0.2)
            )
            assert more > less + 0.03


# --- Numbers --------------------------------------------------------------------------------------


def test_a_pair_of_runs_is_tested_in_the_first_family_that_declares_it(study_of: Study) -> None:
    everything = (Condition("all", TINY, seeds=2),)
    later = (Condition("one", TINY, seeds=1), Condition("other", TINY, first_seed=9))
    explored = Family("?", everything, exploratory=True)
    study_of(explored=explored, first=Family("?", everything), later=Family("?", later))
    found = {name: [r.tested_in for r in of.values()] for name, of in analysis.analyse().items()}
    assert found == {"explored": [None], "first": ["first"], "later": ["first", "later"]}
    assert "not tested alone, part of `first`" in analysis.tables()["later: ?"]


def test_exploration_shares_no_pair_of_runs_with_what_is_tested() -> None:
    pairs: dict[bool, set[Any]] = {False: set(), True: set()}
    for family in FAMILIES.values():
        for condition in family.conditions:
            keys = [condition.keys(model).values() for model in PAIR]
            pairs[family.exploratory] |= {*zip(*keys, strict=True)}
    assert not pairs[True] & pairs[False]


def test_failed_and_missing_runs_are_counted_and_stand_at_chance(study_of: Study) -> None:
    tiny = Family("?", (Condition("tiny", {"lr": 0.05, "momentum": 0.9}, seeds=4),))
    file = study_of(tiny=tiny)
    for seed, status in ((0, "ok"), (1, "ok"), (2, "untrained")):
        file.append(row(seed))
        file.append(row(seed, "lwta", kept=0.9, status=status))
    assert "| 2 of 4, failed: LWTA 1 |" in analysis.tables()["tiny: ?"]
    assert quantity("tiny/tiny:difference") == pytest.approx(0.1)
    assert quantity("tiny/tiny:lwta.untrained") == quantity("tiny/tiny:failed.lwta") == 1
    # Two differences of .75 - .8, and one of .75 less a chance of .2.
    assert quantity("tiny/tiny:at_chance") == pytest.approx((0.55 - 2 * 0.05) / 3)
    for place in ("tiny/tiny:nothing", "tiny/other:difference", "tiny/tiny:change.low", "tiny"):
        with pytest.raises(InputError, match="there is no such"):
            quantity(place)
    assert len(figures.phase_figure("tiny", "lr", "momentum", 0.1).axes) == 4
    (axes,) = figures.summary_figure(["tiny/tiny", "tiny/other"]).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["tiny (n = 2)"]


def test_a_change_is_taken_seed_by_seed_over_the_seeds_that_both_have() -> None:
    def result(relu: list[float], lwta: list[float], failed: float | None = None) -> Result:
        rows = {
            model: {
                seed: row(seed, model, v, status="untrained" if v == failed else "ok")
                for seed, v in enumerate(values)
            }
            for model, values in zip(PAIR, (relu, lwta), strict=True)
        }
        return Result("family", Condition("any"), rows)

    here = result([0.8, 0.7, 0.6, 0.5] * 5 + [0.1], [0.8, 0.7, 0.8, 0.0] * 5, failed=0.0)
    base = result([0.8] * 20, [0.8, 0.7, 0.8, 0.9] * 5)
    change = analysis.changed(here, base)
    relu, lwta = (change[model] for model in PAIR)
    assert (relu["n"], relu["mean"], lwta["n"], lwta["mean"]) == (20, pytest.approx(0.15), 15, 0)
    # ReLU minus LWTA is 0, 0, .2 here and 0, -.1, 0 there.
    assert change["difference"]["mean"] == pytest.approx(0.1)
    low, high = change["spread_ratio"]["ci95"]
    assert change["spread_ratio"]["mean"] == pytest.approx(2.0)
    assert low < 2 < high
    assert analysis.pool([here, base]).values("relu")[2] == pytest.approx(0.2)


@pytest.mark.parametrize("n", [10, 20])
def test_the_simulated_rule_is_the_rule_and_errs_as_it_should(n: int) -> None:
    samples = np.random.default_rng(n).standard_normal((n, 4000))
    assert rule.rejections(samples, [0.0])[0] == pytest.approx((0.05, 0.05), abs=0.012)
    ours = np.mean([permutation_test(s + 0.4) < 0.05 for s in samples.T[:100]])
    assert rule.rejections(samples[:, :100], [0.4])[0][0] == pytest.approx(ours, abs=0.03)


# --- What was declared ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "failed", "short", "word"),
    [
        (0.02, 0, 0, "LWTA forgets less"),
        (-0.02, 0, 0, "ReLU forgets less"),
        (0.008, 0, 0, "a difference, perhaps below 0.010"),
        (0.0, 0, 0, "alike within 0.010"),
        (0.02, 4, 0, "LWTA forgets less"),
        (0.02, 5, 0, "no verdict: 5 of 20 pairs failed"),
        (0.02, 0, 5, "LWTA forgets less"),
        (0.02, 0, 18, "undecided: runs short of the loss decide"),
    ],
)
def test_the_declared_rule(shift: float, failed: int, short: int, word: str) -> None:
    spread = np.linspace(-0.004, 0.004, 20)  # of how much more ReLU forgets, around `shift`
    rows: dict[str, dict[int, Any]] = {
        model: {
            seed: row(
                seed,
                model,
                status="untrained" if seed < failed else "ok",
                forgetting=0.1 + (model == "relu") * (shift + spread[seed]),
                target_reached=[seed >= short, True],
            )
            for seed in range(20)
        }
        for model in PAIR
    }
    result = Result("f", Condition("c", seeds=20), rows, "f")
    result.numbers |= analysis.compare(*analysis.shared(*map(result.values, PAIR)))
    analysis.judge_declared([result])
    assert result.numbers["verdict"] == word
    result = Result("f", Condition("c", seeds=21), rows, "f", result.numbers)
    analysis.judge_declared([result])
    assert result.numbers["verdict"] is None, "a run of the family is not there yet"


def test_the_declared_distance_from_the_paper() -> None:
    def distance(pairs: int = 3, **of_relu: int) -> float | None:
        numbers: dict[str, Any] = {
            model: {"failed": 0, "missed": 0, "error_kept": {"mean": error}}
            for model, error in (("relu", 16.63 + 6.07), ("lwta", 6.12 - 2 * 3.39))
        }
        numbers["relu"] |= of_relu
        return analysis.distance_from_paper({**numbers, "difference": {"n": pairs}})

    assert distance() == distance(missed=1) == pytest.approx(1 + 4)
    assert distance(missed=2) is distance(failed=1) is distance(pairs=2) is None
