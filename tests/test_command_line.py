"""The command line: what it refuses, what it writes, what it prints."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute
from compete_to_compute import (
    METRICS,
    MNIST_SHA256,
    Config,
    Diverged,
    changes,
    flag,
    main,
    run_script,
    write_atomically,
)

SCRIPT = Path(compete_to_compute.__file__)
SMALLEST = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 1"
# Enough for every model to learn both tasks, in 50 ms.
LEARNING = "--hidden 40 --train-per-class 100 --test-per-task 100 --epochs 5 --batch 16 --lr 0.02"
DIVERGING = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 3 --lr 50"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test's working directory, where the default output paths lead."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results_of(arguments: str, out: str = "results.json") -> dict[str, Any]:
    """Run, and read what was written, as strict JSON."""
    assert main([*arguments.split(), "--out", out]) == 0

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(Path(out).read_bytes(), parse_constant=refuse)


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The exit status, the way the script gets it."""
    monkeypatch.setattr(sys, "argv", ["compete_to_compute.py", *arguments])
    monkeypatch.setattr(os, "_exit", sys.exit)  # which would end pytest
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code


def run_as_script(arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments.split()], capture_output=True, text=True
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- Bad input ----------------------------------------------------------------------------------

# The arguments, and what the line on stderr must name.
BAD_INPUT = [
    ("--tasks 01x 23", "'x' is not a digit"),
    ("--tasks 012 234", "digit 2 is in two tasks; that needs --permute"),
    ("--tasks 011 23 --permute", "--tasks '011'"),
    ("--tasks 0 12", "two digits"),
    ("--tasks", "--tasks"),
    ("--hidden 20 --k 3", "--k 3"),
    ("--hidden 0", "--hidden must be 1 or more"),
    ("--k 0", "--k must be 1 or more"),
    ("--batch 0", "--batch must be 1 or more"),
    ("--train-per-class -1", "--train-per-class must be 0 or more"),
    ("--train-per-class 6000 --n-seeds 2", "only 5923 training images of digit"),
    ("--dropout 1", "--dropout must be at least 0 and below 1"),
    ("--input-dropout nan", "--input-dropout must be"),
    ("--momentum -0.1", "--momentum must be"),
    ("--lr 0", "--lr must be above 0, not 0"),
    ("--lr nan", "--lr must be above 0, not nan"),
    ("--lr inf", "--lr must be above 0, not inf"),
    ("--target-loss 0", "--target-loss must be above 0"),
    ("--weight-decay inf", "--weight-decay must be 0 or more"),
    ("--seed -1", "--seed must be 0 or more, not -1"),
    (f"--seed {2**32}", "--seed"),
    ("--n-seeds 0", "--n-seeds must be 1 or more"),
    ("--jobs 0", "--jobs must be 1 or more, not 0"),
    ("--activations tanh", "'tanh'"),
    ("--head double", "'double'"),
    ("--epoch 3", "--epoch"),  # no abbreviations
    ("--epochs five", "'five'"),
    ("--out file/sub/results.json", "file/sub/results.json: cannot be written"),
    ("--out folder", "folder: is a folder"),
    (f"--out {os.devnull}", "device"),
    (f"--out {'o' * 300}", "cannot be written"),
    ("--snapshots file/s.npz", "file/s.npz: cannot be written"),
    ("--snapshots results.json", "--out and --snapshots"),
    ("--data-dir nowhere", "nowhere: no train-images-idx3-ubyte"),
    ("--resume --out file", "file.journal: its first line is damaged"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUT)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(
    arguments: str,
    named: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "results.json").write_text("earlier results")
    (here / "file").write_text("")
    (here / "file.journal").write_text('{"record": {}}\n')
    (here / "folder").mkdir()
    before = contents(here)
    assert status_of([*SMALLEST.split(), *arguments.split()], monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("compete_to_compute.py: ")
    assert named in line
    assert contents(here) == before


@pytest.mark.parametrize("arguments", ["--lr fast", "--train-per-class 6000"])
def test_bad_input_to_the_script_itself_is_one_line_too(arguments: str, here: Path) -> None:
    result = run_as_script(arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1
    assert contents(here) == {}


def test_width_need_not_be_divisible_by_k_without_lwta() -> None:
    assert main(f"{SMALLEST} --hidden 21 --activations relu --quiet".split()) == 0


# --- Runs that fail -----------------------------------------------------------------------------


def test_a_single_run_that_diverges_is_status_1_and_leaves_earlier_results(here: Path) -> None:
    (here / "results.json").write_text("earlier results")
    before = contents(here)
    result = run_as_script(f"{DIVERGING} --seed 3 --activations lwta")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()  # so no warnings of numpy's
    assert re.search(r"LWTA, seed 3: .* in task 1, epoch \d", line)
    assert "lower --lr" in line
    assert contents(here) == before


def test_a_sweep_that_diverges_counts_every_run_and_writes_null(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Weights so large that the very first test overflows.
    results = results_of(f"{SMALLEST} --init-scale 1e30 --activations lwta --n-seeds 2 --jobs 1")
    assert [row["status"] for row in results["per_seed"]] == ["diverged"] * 2
    assert results["per_seed"][0]["accuracy_matrix"] == [[None, None]]
    model = results["aggregate"]["models"]["lwta"]
    assert (model["ok"], model["diverged"], model["untrained"]) == (0, 2, 0)
    assert (model["forgetting"]["n"], model["forgetting"]["mean"]) == (0, None)
    assert "LWTA: 2 diverged, left out of every mean" in capsys.readouterr().out


def test_one_diverged_run_is_in_no_mean_and_no_pair_but_counts_as_guessing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_phases = compete_to_compute.train_phases

    def diverging_once(network: Any, phases: Any, config: Any, seed: int) -> Iterator[Any]:
        yield from train_phases(network, phases, config, seed)
        if seed == 1 and network.activation.name == "lwta":
            raise Diverged("training loss in task 2, epoch 5 is not finite")

    monkeypatch.setattr(compete_to_compute, "train_phases", diverging_once)
    results = results_of(f"{LEARNING} --n-seeds 3 --jobs 1")
    rows = {(row["model"], row["seed"]): row for row in results["per_seed"]}
    assert [key for key, row in rows.items() if row["status"] != "ok"] == [("lwta", 1)]
    models = results["aggregate"]["models"]
    assert (models["lwta"]["ok"], models["lwta"]["diverged"]) == (2, 1)
    for metric in METRICS:
        kept = [rows["lwta", seed][metric] for seed in (0, 2)]
        assert models["lwta"][metric]["mean"] == pytest.approx(np.mean(kept))
    (pair,) = results["aggregate"]["pairs"]
    kept = [rows["relu", seed]["forgetting"] - rows["lwta", seed]["forgetting"] for seed in (0, 2)]
    assert pair["difference"]["mean"] == pytest.approx(np.mean(kept))
    relu, lwta = (
        [rows[model, seed]["average_accuracy"] for seed in range(3)] for model in ("relu", "lwta")
    )
    lwta[1] = 0.2
    assert pair["at_chance"]["mean"] == pytest.approx(np.mean(relu) - np.mean(lwta))
    report = capsys.readouterr().out
    assert "LWTA: 1 diverged, left out of every mean" in report
    assert "with failed runs counted as guessing" in report
    assert f"difference {pair['at_chance']['mean']:+.4f}" in report


@pytest.mark.parametrize("seeds", [1, 2])
def test_runs_that_learn_nothing_are_untrained_and_said_so(
    seeds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    results = results_of(f"{SMALLEST} --lr 1e-5 --target-loss 0.01 --n-seeds {seeds} --jobs 1")
    assert [row["status"] for row in results["per_seed"]] == ["untrained"] * 2 * seeds
    assert results["per_seed"][0]["target_reached"] == [False, False]
    report = capsys.readouterr().out
    assert "LWTA untrained: accuracy on task 1" in report
    assert "ReLU did not reach --target-loss on task 1." in report
    (pair,) = results["aggregate"]["pairs"]
    assert (pair["failed"], pair["verdict"]) == ({"relu": seeds, "lwta": seeds}, None)
    assert ("ReLU: 2 untrained, left out of every mean" in report) == (seeds == 2)


# --- Results ------------------------------------------------------------------------------------

SUMMARY_KEYS = {"task1_after_task1", "task1_after_task2", "task2_after_task2", "forgetting"}
STATISTICS = {"n", "mean", "median", "iqm", "std", "ci95"}


@pytest.mark.parametrize("tasks", ["01 23", "01 23 45 67 89"])
def test_results_and_snapshots_follow_the_contract(tasks: str) -> None:
    arguments = f"{SMALLEST} --hidden 120 --depth 3 --epochs 2 --tasks {tasks} --seed 4"
    results = results_of(f"{arguments} --n-seeds 2 --jobs 1 --quiet")
    T = len(tasks.split())
    assert results["schema"] == 1
    assert results["config"] == {
        **json.loads(json.dumps(asdict(Config()))),
        **{"tasks": tasks.split(), "hidden": 120, "depth": 3, "train_per_class": 20},
        **{"test_per_task": 50, "epochs": 2},
    }
    environment = results["environment"]
    assert {"python", "numpy", "blas", "blas_kernel", "platform", "processor"} <= {*environment}
    assert {"cores", "git_commit"} <= {*environment}
    assert environment["blas_threads"] in (1, None)
    assert environment["mnist_sha256"] == MNIST_SHA256

    headline = results["headline"]
    assert headline["seed"] == 4
    assert headline["wallclock_s"] > 0
    assert [*headline["summary"]] == ["relu", "lwta"]
    assert all({*summary} == SUMMARY_KEYS for summary in headline["summary"].values())

    steps = [(row["model"], row["task"], row["epoch"]) for row in results["schedule"]]
    in_order = [(task, epoch) for task in range(1, T + 1) for epoch in (1, 2)]
    assert steps == [(model, *step) for model in ("relu", "lwta") for step in in_order]
    for row in results["schedule"]:
        assert row["train_loss"] > 0
        assert 0 <= row["train_accuracy"] <= 1
        assert len(row["test_accuracy"]) == T

    runs = [(row["seed"], row["model"]) for row in results["per_seed"]]
    assert runs == [(4, "relu"), (4, "lwta"), (5, "relu"), (5, "lwta")]
    for row in results["per_seed"]:
        assert {*row} == {
            *{"seed", "model", "accuracy_matrix", "epochs", "target_reached", *METRICS},
            *{"status", "failure", "blas_kernel"},
        }
        assert np.array(row["accuracy_matrix"]).shape == (T + 1, T)
        assert row["epochs"] == [2] * T

    models, (pair,) = results["aggregate"]["models"], results["aggregate"]["pairs"]
    assert [*models] == ["relu", "lwta"]
    assert all({*model[metric]} == STATISTICS for model in models.values() for metric in METRICS)
    assert (pair["first"], pair["second"]) == ("relu", "lwta")
    assert {*pair["difference"]} == STATISTICS
    assert {"ci90", "wins", "losses", "ties", "p", "p_adjusted", "verdict"} <= {*pair}

    with np.load("viz/snapshots.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert json.loads(str(arrays["config"])) == results["config"]
    assert (arrays["seed"], arrays["models"].tolist()) == (4, ["relu", "lwta"])
    assert arrays["tasks"].tolist() == tasks.split()
    assert (arrays["W1_init"].shape, arrays["W1_init"].dtype) == ((784, 100), np.float32)
    for model in ("relu", "lwta"):
        schedule = [row for row in results["schedule"] if row["model"] == model]
        accuracy = arrays[f"accuracy_{model}"]
        assert accuracy.shape == (1 + 2 * T, T)
        assert accuracy[1:].tolist() == [row["test_accuracy"] for row in schedule]
        assert arrays[f"task_{model}"].tolist() == [0, *(row["task"] for row in schedule)]
        loss = arrays[f"train_loss_{model}"]
        assert np.isnan(loss[0])
        assert loss[1:].tolist() == [row["train_loss"] for row in schedule]
        weights = arrays[f"W1_{model}"]
        assert (weights.shape, weights.dtype) == ((784, 100), np.float32)
        assert not np.array_equal(weights, arrays["W1_init"])
        active = arrays[f"active_{model}"]
        assert (active.shape, active.dtype) == ((T + 1, 3, T, 120), np.float32)
        assert 0 <= active.min() < active.max() <= 1 + 1e-6


def test_the_headline_agrees_with_the_accuracy_matrix() -> None:
    results = results_of(f"{LEARNING} --quiet")
    for row in results["per_seed"]:
        R = row["accuracy_matrix"]
        assert results["headline"]["summary"][row["model"]] == {
            "task1_after_task1": R[1][0],
            "task1_after_task2": R[2][0],
            "task2_after_task2": R[2][1],
            "forgetting": pytest.approx(R[1][0] - R[2][0]),
        }
        last = [r for r in results["schedule"] if r["model"] == row["model"]][-1]
        assert last["test_accuracy"] == R[2]


def test_a_quiet_run_prints_nothing_and_writes_two_files_where_it_is_told(here: Path) -> None:
    # A model that is named twice is trained once.
    arguments = "--quiet --activations lwta lwta --out a/b/r.json --snapshots c/s.npz"
    result = run_as_script(f"{SMALLEST} {arguments}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {*contents(here)} == {str(Path("a/b/r.json")), str(Path("c/s.npz"))}
    assert len(json.loads(Path("a/b/r.json").read_text())["per_seed"]) == 1


def test_snapshots_of_the_default_size_are_below_a_megabyte() -> None:
    assert main(["--train-per-class", "20", "--quiet"]) == 0  # no array's size depends on that
    assert Path("viz/snapshots.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize("seeds", [1, 2])
def test_jobs_change_nothing_but_the_time(seeds: int) -> None:
    # One seed trains in threads, more in processes.
    arguments = f"{SMALLEST} --quiet --n-seeds {seeds}"
    alone = results_of(f"{arguments} --jobs 1 --snapshots alone.npz", "alone.json")
    beside = results_of(f"{arguments} --jobs 2 --snapshots beside.npz", "beside.json")
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert alone[part] == beside[part]
    assert Path("alone.npz").read_bytes() == Path("beside.npz").read_bytes()


def test_changes_are_the_fields_that_are_not_the_default() -> None:
    assert changes(Config()) == changes(Config(lr=0.05)) == {}
    config = Config(tasks=("01", "23"), target_loss=0.1)
    assert changes(config) == {"tasks": ["01", "23"], "target_loss": 0.1}


def test_a_full_disk_leaves_the_old_file_and_no_other(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = here / "results.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        write_atomically(path, b"new")
    assert contents(here) == {"results.json": b"old"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a right to make links")
def test_a_link_to_the_results_stays_a_link(here: Path) -> None:
    (here / "real").mkdir()
    target, link = here / "real" / "r.json", here / "link.json"
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_the_commit_says_whether_a_script_was_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str | None:
        return compete_to_compute.environment()["git_commit"]

    monkeypatch.setattr(compete_to_compute, "__file__", str(here / "script.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    assert commit() is None
    (here / "script.py").write_text("first")
    person = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], check=True)
    assert re.fullmatch("[0-9a-f]{12}", commit() or "")
    (here / "results.json").write_text("an output is no change")
    (here / "script.py").write_text("second")
    assert re.fullmatch("[0-9a-f]{12}-dirty", commit() or "")


# --- What is printed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        f"{LEARNING} --n-seeds 2",
        f"{SMALLEST} --tasks 01 23 45 67 89 --n-seeds 2",
        f"{SMALLEST} --tasks 01 23 45 67 89 01 23 --permute",
        f"{SMALLEST} --joint",
    ],
    ids=["2 tasks", "5 tasks", "7 tasks", "joint"],
)
def test_the_report_fits_80_columns(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"{arguments} --activations relu lwta sigmoid --jobs 1".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_one_seed_gives_its_table_and_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    results = results_of(LEARNING)
    report = capsys.readouterr().out
    for text in ("Seed 0", "ReLU", "LWTA", "Forgetting", "results.json", "snapshots.npz"):
        assert text in report
    for summary in results["headline"]["summary"].values():
        assert f"{summary['task1_after_task2']:.1%}" in report
        assert f"{summary['forgetting']:.3f}" in report
    for text in ("Verdict", "interval", "untrained"):
        assert text not in report


def test_several_seeds_give_intervals_a_test_and_a_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(f"{LEARNING} --n-seeds 3 --jobs 1")
    report = capsys.readouterr().out
    (pair,) = results["aggregate"]["pairs"]
    difference = pair["difference"]
    for text in (
        f"Verdict: {pair['verdict']}.",
        f"mean {difference['mean']:+.4f}, 95 % interval {difference['ci95'][0]:+.4f} to",
        f"permutation test p = {pair['p']:.2g}",
        f"{results['aggregate']['models']['relu']['forgetting']['mean']:.4f}",
    ):
        assert text in report
    monkeypatch.setattr(sys, "stderr", None)  # as in a service, or under pythonw
    assert results_of(f"{LEARNING} --n-seeds 3 --jobs 1")["per_seed"] == results["per_seed"]


def test_help_names_every_option_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    text = " ".join(" ".join(lines).split())
    for item in fields(Config):
        assert f" {flag(item.name)} " in text
        default = ""
        if isinstance(item.default, int | float | str) and not isinstance(item.default, bool):
            default = f" (default {item.default})"
        assert item.metadata["help"] + default in text
    assert "None" not in text
    assert contents(here) == {}
