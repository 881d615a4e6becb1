"""The command line: what it refuses, what it writes, what it prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute as ctc
from compete.data import MNIST_SHA256
from compete.files import run_script
from compete.inference import METRICS
from compete.machine import git_commit
from compete.runs import RunFile
from compete_to_compute import Config, main

SMALLEST = "--hidden 20 --train-per-class 20 --test-per-task 50 --epochs 1"
# Enough for every model to learn both tasks, in 50 ms.
LEARNING = "--hidden 40 --train-per-class 100 --test-per-task 100 --epochs 5 --batch 16 --lr 0.02"
Printed = pytest.CaptureFixture[str]


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


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


# --- Errors -------------------------------------------------------------------------------------

BAD_INPUT = [  # and what the line on stderr must name
    ("--tasks 01x 23", "'x' is not a digit"),
    ("--tasks 012 234", "digit 2 is in two tasks; that needs --permute"),
    ("--tasks 011 23 --permute", "--tasks '011'"),
    ("--tasks 0 12", "two digits"),
    ("--hidden 20 --k 3", "--k 3"),
    (f"--hidden {10**18}", "--hidden must be 1 or more, up to 1000000"),
    ("--train-per-class -1", "--train-per-class must be 0 or more"),
    ("--train-per-class 6000 --n-seeds 2", "only 5923 training images of digit"),
    ("--dropout 1", "--dropout must be at least 0 and below 1"),
    ("--target-loss nan", "--target-loss must be above 0, not nan"),
    ("--protect-readout --joint", "--protect-readout"),
    (f"--seed {2**32}", "--seed"),
    ("--resume", "--n-seeds"),
    ("--activations tanh", "tanh"),
    ("--epoch 3", "--epoch"),  # no abbreviations
    ("--out file.txt/sub/results.json", "file.txt/sub/results.json: cannot be written"),
    ("--out .", "is a folder or a device"),
    (f"--out {'o' * 300}", "cannot be written"),
    ("--snapshots file.txt/s.npz", "file.txt/s.npz: cannot be written"),
    ("--snapshots results.json", "--out and --snapshots"),
    ("--data-dir nowhere", "nowhere"),
]


@pytest.mark.filterwarnings("error")  # numpy's would be lines of their own
@pytest.mark.parametrize(
    ("arguments", "named", "status"),
    [
        *((given, named, 2) for given, named in BAD_INPUT),
        ("--lr 50 --epochs 3 --seed 3 --activations lwta", "LWTA, seed 3: test accuracy in", 1),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(
    arguments: str, named: str, status: int, here: Path, capsys: Printed
) -> None:
    (here / "results.json").write_text("earlier results")
    (here / "file.txt").write_text("")
    before = contents(here)
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: main([*SMALLEST.split(), *arguments.split()]))
    output = capsys.readouterr()
    assert (stop.value.code, output.out) == (status, "")
    (line,) = output.err.splitlines()
    assert named in line
    assert contents(here) == before


def test_a_sweep_counts_failed_runs_in_no_pair_but_as_guessing(
    monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    train_phases = ctc.train_phases

    def failing(network: Any, phases: Any, config: Any, seed: int) -> Iterator[Any]:
        for now in train_phases(network, phases, config, seed):
            if seed < 2 and network.activation.name == "lwta":
                # Seed 0 learns nothing; the very first test of seed 1 is not finite.
                network.parameters[:] = [0, np.nan][seed]
            yield now

    monkeypatch.setattr(ctc, "train_phases", failing)
    results = results_of(f"{LEARNING} --target-loss 1e-4 --n-seeds 4 --jobs 1")
    failed = [row for row in results["per_seed"] if row["status"] != "ok"]
    assert [(row["seed"], row["status"]) for row in failed] == [(0, "untrained"), (1, "diverged")]
    assert failed[1]["accuracy_matrix"] == [[None, None]]  # null in JSON, as the metrics
    assert [failed[1][metric] for metric in METRICS] == [None] * 4
    (pair,) = results["aggregate"]["pairs"]
    assert (pair["failed"], pair["difference"]["n"]) == ({"relu": 0, "lwta": 2}, 2)
    report = capsys.readouterr().out
    for text in (
        *("LWTA untrained: accuracy on task 1", "LWTA did not reach --target-loss on task 1."),
        *("LWTA: 1 diverged, left out of every mean", "LWTA: 1 untrained, left out of every mean"),
        *("with failed runs counted as guessing", f"difference {pair['at_chance']['mean']:+.4f}"),
        "Verdict: 2 seeds can show nothing here, take 6 or more.",
    ):
        assert text in report


# --- Results ------------------------------------------------------------------------------------


def test_results_and_snapshots_follow_the_contract(here: Path) -> None:
    if sys.platform != "win32":  # which asks for a right to make links
        (here / "results.json").symlink_to(here / "target.json")
    changed = {"tasks": ["01", "23", "45"], "hidden": 120, "depth": 3, "epochs": 2}
    changed |= {"train_per_class": 20, "test_per_task": 50}
    arguments = "--tasks 01 23 45 --hidden 120 --depth 3 --epochs 2 --train-per-class 20"
    arguments += " --test-per-task 50 --seed 4 --n-seeds 2 --jobs 1 --quiet --preset paper"
    results = results_of(arguments)
    assert (here / "results.json").is_symlink() == (sys.platform != "win32")
    assert not [name for name in contents(here) if name.endswith(".tmp")]
    changed = ctc.PRESETS["paper"] | changed  # what is given beside a preset wins
    assert results["config"] == {**asdict(Config()), **changed}
    T, models = 3, ["relu", "lwta"]
    names = "python numpy blas blas_kernel blas_threads platform processor cores git_commit"
    assert {*results["environment"]} == {*names.split(), "mnist_sha256"}
    assert results["environment"]["mnist_sha256"] == MNIST_SHA256
    # One job: all training of the command, one run after another.
    seconds = [row["seconds"] for row in RunFile(Path("results.json.journal")).rows()]
    assert results["headline"]["wallclock_s"] >= sum(seconds) > 0

    steps = [(row["model"], row["task"], row["epoch"]) for row in results["schedule"]]
    assert steps == [(model, t, e) for model in models for t in range(1, T + 1) for e in (1, 2)]
    runs = [(row["seed"], row["model"]) for row in results["per_seed"]]
    assert runs == [(seed, model) for seed in (4, 5) for model in models]
    columns = {"seed", "model", "source", "changes", "blas_kernel", "numpy", "accuracy_matrix"}
    columns |= {"epochs", "target_reached", *METRICS, "status", "failure"}
    for row in results["per_seed"]:
        assert {*row} == columns
        assert (row["epochs"], row["changes"]) == ([2] * T, changed)
    totals = ctc.aggregate(results["per_seed"], models, 1 / 2, ctc.label)
    assert results["aggregate"] == json.loads(json.dumps(totals))

    with np.load("viz/snapshots.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert json.loads(str(arrays["config"])) == results["config"]
    assert (arrays["seed"], arrays["models"].tolist()) == (results["headline"]["seed"], models)
    assert arrays["W1_init"].shape == (784, 100)
    for model, record in zip(models, results["per_seed"], strict=False):
        R = record["accuracy_matrix"]
        assert results["headline"]["summary"][model] == {
            **{"task1_after_task1": R[1][0], "task1_after_task2": R[2][0]},
            **{"task2_after_task2": R[2][1], "forgetting": record["forgetting"]},
        }
        curve = [[0, 0, *R[0]]]
        for row in results["schedule"]:
            if row["model"] == model:
                curve.append([row["update"], row["task"], *row["test_accuracy"]])
        assert curve[-1][2:] == R[-1]
        np.testing.assert_array_equal(arrays[f"curve_{model}"][0], np.float32(curve))
        assert arrays[f"status_{model}"] == record["status"]
        assert arrays[f"W1_{model}"].shape == (784, 100)
        assert arrays[f"active_{model}"].shape == (T + 1, 3, T, 120)


def test_the_script_when_quiet_prints_nothing_and_writes_two_files_where_it_is_told(
    here: Path,
) -> None:
    # A model that is named twice is trained once; the arrays' sizes are those of a default run.
    arguments = f"{SMALLEST} --hidden 400 --activations relu lwta relu --out a/r.json --quiet"
    command = [sys.executable, ctc.__file__, *arguments.split(), "--snapshots", "b/s.npz"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    written = contents(here)
    assert sorted(written) == ["a/r.json", "b/s.npz"]
    assert len(json.loads(written["a/r.json"])["per_seed"]) == 2
    assert len(written["b/s.npz"]) < 1_000_000


@pytest.mark.parametrize("seeds", [1, 2])
def test_jobs_change_nothing_but_the_time(seeds: int) -> None:
    # One seed trains in threads, more in processes.
    arguments = f"{SMALLEST} --quiet --n-seeds {seeds}"
    alone = results_of(f"{arguments} --jobs 1 --snapshots alone.npz", "alone.json")
    beside = results_of(f"{arguments} --jobs 2 --snapshots beside.npz", "beside.json")
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert alone[part] == beside[part]
    assert Path("alone.npz").read_bytes() == Path("beside.npz").read_bytes()


def test_the_commit_is_that_of_the_scripts_own_repository(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, installed, copied = (here / place / "s.py" for place in ("ours", "ours/lib", "other"))
    for script in (ours, installed, copied):
        script.parent.mkdir()
        script.write_text("first")
    assert git_commit(ours) is None
    for folder, names in ((ours.parent, "*"), (copied.parent, "README")):
        (folder / "README").write_text("read me")
        person = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", names], [*person, "commit", "-q", "-m", "first"]):
            subprocess.run(["git", *command], cwd=folder, check=True)
    found = git_commit(ours)
    assert re.fullmatch("[0-9a-f]{12}", str(found))
    assert git_commit(installed) is None  # within a repository, but not at its top
    assert git_commit(copied) is None  # at the top of one that does not have it
    monkeypatch.setenv("GIT_DIR", str(copied.parent / ".git"))  # as in a hook of another's
    (ours.parent / "README").write_text("no script")
    assert git_commit(ours) == found
    ours.write_text("second")
    assert git_commit(ours) == f"{found}-dirty"


# --- What is printed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        f"{LEARNING} --n-seeds 3 --activations relu lwta sigmoid",
        f"{SMALLEST} --tasks 01 23 45 67 89 --n-seeds 2 --activations lwta sigmoid",
        f"{SMALLEST} --tasks 01 23 45 67 89 01 23 --permute",
        f"{SMALLEST} --joint",
    ],
)
def test_the_report_has_the_figures_of_the_results_in_80_columns(
    arguments: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a service, or under pythonw
    results = results_of(f"{arguments} --jobs 1")
    report = capsys.readouterr().out
    assert max(map(len, report.splitlines())) <= 80
    expected = ["Seed 0", "LWTA", "results.json", "snapshots.npz"]
    for pair in results["aggregate"]["pairs"] if LEARNING in arguments else []:
        forgotten = results["headline"]["summary"][pair["first"]]["forgetting"]
        mean, (low, _) = pair["difference"]["mean"], pair["difference"]["ci95"]
        expected += [f"Verdict: {pair['verdict']}.", f"permutation test p = {pair['p']:.2g}"]
        expected += [f"{forgotten:10.3f}", f"mean {mean:+.4f}, 95 % interval {low:+.4f} to"]
    assert [text for text in expected if text not in report] == []
