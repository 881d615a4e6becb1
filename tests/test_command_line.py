"""The command line: what it refuses, what it writes, what it prints."""

from __future__ import annotations

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
from compete_to_compute import METRICS, MNIST_SHA256, Config, Diverged, changes, flag, main

SCRIPT = Path(compete_to_compute.__file__)
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


def run_as_script(arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments.split()]
    return subprocess.run(command, capture_output=True, text=True)


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
    ("--train-per-class -1", "--train-per-class must be 0 or more"),
    ("--train-per-class 6000 --n-seeds 2", "only 5923 training images of digit"),
    ("--dropout 1", "--dropout must be at least 0 and below 1"),
    ("--input-dropout nan", "--input-dropout must be"),
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
]


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUT)
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(
    arguments: str, named: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    (here / "results.json").write_text("earlier results")
    (here / "file").write_text("")
    (here / "folder").mkdir()
    before = contents(here)
    monkeypatch.setattr(
        sys, "argv", ["compete_to_compute.py", *SMALLEST.split(), *arguments.split()]
    )
    with pytest.raises(SystemExit) as stop:
        compete_to_compute.run_script(main)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("compete_to_compute.py: ")
    assert named in line
    assert contents(here) == before


# --- Runs that fail -----------------------------------------------------------------------------


def test_a_single_run_that_diverges_is_status_1_and_leaves_earlier_results(here: Path) -> None:
    (here / "results.json").write_text("earlier results")
    before = contents(here)
    result = run_as_script(f"{SMALLEST} --epochs 3 --lr 50 --seed 3 --activations lwta")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()  # so no warnings of numpy's
    assert re.search(r"LWTA, seed 3: .* in task 1, epoch \d", line)
    assert "lower --lr" in line
    assert contents(here) == before


def test_a_sweep_that_diverges_counts_every_run_and_writes_null(capsys: Printed) -> None:
    # Weights so large that the very first test overflows.
    results = results_of(f"{SMALLEST} --init-scale 1e30 --activations lwta --n-seeds 2 --jobs 1")
    for row in results["per_seed"]:
        assert (row["status"], row["accuracy_matrix"]) == ("diverged", [[None, None]])
        assert [row[metric] for metric in METRICS] == [None] * 4
    model = results["aggregate"]["models"]["lwta"]
    assert (model["ok"], model["diverged"], model["forgetting"]["n"]) == (0, 2, 0)
    assert "LWTA: 2 diverged, left out of every mean" in capsys.readouterr().out


def test_one_diverged_run_is_in_no_pair_but_counts_as_guessing(
    monkeypatch: pytest.MonkeyPatch, capsys: Printed
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
    (pair,) = results["aggregate"]["pairs"]
    kept = [rows["relu", seed]["forgetting"] - rows["lwta", seed]["forgetting"] for seed in (0, 2)]
    assert pair["difference"]["mean"] == pytest.approx(np.mean(kept))
    rows["lwta", 1]["average_accuracy"] = 0.2
    relu, lwta = ([rows[m, s]["average_accuracy"] for s in range(3)] for m in ("relu", "lwta"))
    assert pair["at_chance"]["mean"] == pytest.approx(np.mean(relu) - np.mean(lwta))
    report = capsys.readouterr().out
    assert "LWTA: 1 diverged, left out of every mean" in report
    assert "with failed runs counted as guessing" in report
    assert f"difference {pair['at_chance']['mean']:+.4f}" in report


@pytest.mark.parametrize("seeds", [1, 2])
def test_runs_that_learn_nothing_are_untrained_and_said_so(seeds: int, capsys: Printed) -> None:
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


@pytest.mark.parametrize("tasks", ["01 23", "01 23 45 67 89"])
def test_results_follow_the_contract(tasks: str) -> None:
    arguments = f"{SMALLEST} --epochs 2 --tasks {tasks} --seed 4 --n-seeds 2 --jobs 1 --quiet"
    results = results_of(arguments)
    T = len(tasks.split())
    assert results["schema"] == 1
    expected = {"tasks": tasks.split(), "hidden": 20, "train_per_class": 20, "test_per_task": 50}
    assert results["config"] == {**asdict(Config()), **expected, "epochs": 2}
    environment = results["environment"]
    assert {"python", "numpy", "blas", "blas_kernel", "platform", "processor"} <= {*environment}
    assert {"cores", "git_commit"} <= {*environment}
    assert environment["mnist_sha256"] == MNIST_SHA256
    assert results["headline"]["seed"] == 4
    assert results["headline"]["wallclock_s"] > 0

    steps = [(row["model"], row["task"], row["epoch"]) for row in results["schedule"]]
    in_order = [(task, epoch) for task in range(1, T + 1) for epoch in (1, 2)]
    assert steps == [(model, *step) for model in ("relu", "lwta") for step in in_order]
    for row in results["schedule"]:
        assert row["train_loss"] > 0
        assert 0 <= row["train_accuracy"] <= 1
        assert len(row["test_accuracy"]) == T

    runs = [(row["seed"], row["model"]) for row in results["per_seed"]]
    assert runs == [(4, "relu"), (4, "lwta"), (5, "relu"), (5, "lwta")]
    columns = {"seed", "model", "accuracy_matrix", "epochs", "target_reached", *METRICS}
    for row in results["per_seed"]:
        assert {*row} == {*columns, "status", "failure", "blas_kernel"}
        R = row["accuracy_matrix"]
        assert np.array(R).shape == (T + 1, T)
        assert row["epochs"] == [2] * T
        if row["seed"] == 4:
            last = [line for line in results["schedule"] if line["model"] == row["model"]][-1]
            assert last["test_accuracy"] == R[-1]
            assert results["headline"]["summary"][row["model"]] == {
                **{"task1_after_task1": R[1][0], "task1_after_task2": R[2][0]},
                **{"task2_after_task2": R[2][1], "forgetting": row["forgetting"]},
            }

    models, (pair,) = results["aggregate"]["models"], results["aggregate"]["pairs"]
    summary = {"n", "mean", "median", "iqm", "std", "ci95"}
    assert [*models] == [pair["first"], pair["second"]] == ["relu", "lwta"]
    assert all({*model[metric]} == summary for model in models.values() for metric in METRICS)
    assert {*pair["difference"]} == summary
    assert {"ci90", "wins", "losses", "ties", "p", "p_adjusted", "verdict"} <= {*pair}


@pytest.mark.parametrize("tasks", ["01234 56789", "01 23 45 67 89"])
def test_snapshots_follow_the_contract(tasks: str) -> None:
    arguments = f"{SMALLEST} --hidden 120 --depth 3 --epochs 2 --tasks {tasks} --seed 7 --quiet"
    results = results_of(arguments)
    with np.load("viz/snapshots.npz", allow_pickle=False) as file:
        arrays = dict(file)
    T = len(tasks.split())
    assert json.loads(str(arrays["config"])) == results["config"]
    assert (arrays["seed"], arrays["models"].tolist()) == (7, ["relu", "lwta"])
    assert arrays["tasks"].tolist() == tasks.split()
    for model in ("relu", "lwta"):
        schedule = [row for row in results["schedule"] if row["model"] == model]
        accuracy, loss = arrays[f"accuracy_{model}"], arrays[f"train_loss_{model}"]
        assert accuracy.shape == (1 + 2 * T, T)
        assert accuracy[1:].tolist() == [row["test_accuracy"] for row in schedule]
        assert arrays[f"task_{model}"].tolist() == [0, *(row["task"] for row in schedule)]
        assert np.isnan(loss[0])
        assert loss[1:].tolist() == [row["train_loss"] for row in schedule]
        weights, start, active = (arrays[n] for n in (f"W1_{model}", "W1_init", f"active_{model}"))
        assert weights.shape == start.shape == (784, 100)
        assert active.shape == (T + 1, 3, T, 120)
        assert weights.dtype == start.dtype == active.dtype == np.float32
        assert not np.array_equal(weights, start)
        assert 0 <= active.min() < active.max() <= 1 + 1e-6


def test_snapshots_of_the_default_size_are_below_a_megabyte() -> None:
    assert main(["--train-per-class", "20", "--quiet"]) == 0  # no array's size depends on that
    assert Path("viz/snapshots.npz").stat().st_size < 1_000_000


def test_a_quiet_run_prints_nothing_and_writes_two_files_where_it_is_told(here: Path) -> None:
    # A model that is named twice is trained once; without LWTA no width need be a multiple of k.
    arguments = "--quiet --activations relu relu --hidden 21 --out a/r.json --snapshots b/s.npz"
    result = run_as_script(f"{SMALLEST} {arguments}")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {*contents(here)} == {str(Path("a/r.json")), str(Path("b/s.npz"))}
    assert len(json.loads(Path("a/r.json").read_text())["per_seed"]) == 1


SAME = ("config", "schedule", "per_seed", "aggregate")


@pytest.mark.parametrize("seeds", [1, 2])
def test_jobs_change_nothing_but_the_time(seeds: int) -> None:
    # One seed trains in threads, more in processes.
    arguments = f"{SMALLEST} --quiet --n-seeds {seeds}"
    alone = results_of(f"{arguments} --jobs 1 --snapshots alone.npz", "alone.json")
    beside = results_of(f"{arguments} --jobs 2 --snapshots beside.npz", "beside.json")
    assert [alone[part] for part in SAME] == [beside[part] for part in SAME]
    assert Path("alone.npz").read_bytes() == Path("beside.npz").read_bytes()


NUMPY_FIRST = """
import sys, numpy, compete_to_compute as c, threadpoolctl
evaluate, threads = c.evaluate, set()
def spy(*arguments):
    threads.update(p["num_threads"] for p in threadpoolctl.threadpool_info())
    return evaluate(*arguments)
c.evaluate = spy
c.main(sys.argv[1:])
print(threads)
"""


def test_one_blas_thread_and_the_same_bits_where_numpy_was_imported_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = results_of(f"{SMALLEST} --quiet")
    for name in [name for name in os.environ if name.endswith("_THREADS")]:
        monkeypatch.delenv(name)  # which importing the module set
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    command = [sys.executable, "-c", NUMPY_FIRST, *SMALLEST.split(), "--quiet"]
    output = subprocess.run([*command, "--out", "later.json"], check=True, capture_output=True)
    assert output.stdout == b"{1}\n"
    later = json.loads(Path("later.json").read_text())
    assert [later[part] for part in SAME] == [results[part] for part in SAME]


def test_changes_are_the_fields_that_are_not_the_default() -> None:
    assert changes(Config()) == changes(Config(lr=0.05)) == {}
    config = Config(tasks=("01", "23"), target_loss=0.1)
    assert changes(config) == {"tasks": ["01", "23"], "target_loss": 0.1}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a right to make links")
def test_a_link_to_the_results_stays_a_link(here: Path) -> None:
    (here / "link.json").symlink_to(here / "target.json")
    compete_to_compute.write_atomically(here / "link.json", b"new")
    assert (here / "link.json").is_symlink()
    assert (here / "target.json").read_text() == "new"


def test_the_commit_says_whether_a_script_was_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str:
        return str(compete_to_compute.environment()["git_commit"])

    monkeypatch.setattr(compete_to_compute, "__file__", str(here / "script.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    assert commit() == "None"
    (here / "script.py").write_text("first")
    person = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], check=True)
    (here / "results.json").write_text("an output is no change")
    assert re.fullmatch("[0-9a-f]{12}", commit())
    (here / "script.py").write_text("second")
    assert re.fullmatch("[0-9a-f]{12}-dirty", commit())


# --- What is printed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        f"{LEARNING} --n-seeds 2",
        f"{SMALLEST} --tasks 01 23 45 67 89 --n-seeds 2",
        f"{SMALLEST} --tasks 01 23 45 67 89 01 23 --permute",
        f"{SMALLEST} --joint",
    ],
)
def test_the_report_fits_80_columns(arguments: str, capsys: Printed) -> None:
    assert main(f"{arguments} --activations relu lwta sigmoid --jobs 1".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_report_has_the_figures_of_the_results(
    seeds: int, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a service, or under pythonw
    results = results_of(f"{LEARNING} --n-seeds {seeds} --jobs 1")
    report = capsys.readouterr().out
    expected = ["Seed 0", "ReLU", "LWTA", "Forgetting", "results.json", "snapshots.npz"]
    for summary in results["headline"]["summary"].values():
        expected += [f"{summary['task1_after_task2']:.1%}", f"{summary['forgetting']:.3f}"]
    (pair,) = results["aggregate"]["pairs"]
    if seeds > 1:
        difference = pair["difference"]
        expected += [
            f"Verdict: {pair['verdict']}.",
            f"mean {difference['mean']:+.4f}, 95 % interval {difference['ci95'][0]:+.4f} to",
            f"permutation test p = {pair['p']:.2g}",
            f"{results['aggregate']['models']['relu']['forgetting']['mean']:.4f}",
        ]
    assert [text for text in expected if text not in report] == []
    assert ("Verdict" in report) == ("interval" in report) == (seeds > 1)


def test_help_names_every_option_with_its_default(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch, here: Path
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
        has_default = isinstance(item.default, int | float) and not isinstance(item.default, bool)
        default = f" (default {item.default})" if has_default else ""
        assert item.metadata["help"] + default in text
    assert "None" not in text
    assert contents(here) == {}
