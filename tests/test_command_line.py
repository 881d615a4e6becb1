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
from compete_to_compute import METRICS, MNIST_SHA256, Config, changes, flag, main

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


def status_of(arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit status of the script with these arguments, which end in an error."""
    monkeypatch.setattr(sys, "argv", ["compete_to_compute.py", *arguments.split()])
    with pytest.raises(SystemExit) as stop:
        compete_to_compute.run_script(main)
    return stop.value.code


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
    ("--k 0", "--k must be 1 or more"),
    (f"--hidden {10**18}", "--hidden must be 1 or more, up to 1000000"),
    ("--train-per-class -1", "--train-per-class must be 0 or more"),
    ("--train-per-class 6000 --n-seeds 2", "only 5923 training images of digit"),
    ("--dropout 1", "--dropout must be at least 0 and below 1"),
    ("--lr 0", "--lr must be above 0, not 0"),
    ("--lr nan", "--lr must be above 0, not nan"),
    ("--lr inf", "--lr must be above 0, not inf"),
    ("--weight-decay inf", "--weight-decay must be 0 or more"),
    ("--seed -1", "--seed must be 0 or more, not -1"),
    (f"--seed {2**32}", "--seed"),
    ("--n-seeds 0", "--n-seeds must be 1 or more"),
    ("--activations tanh", "tanh"),
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
    assert status_of(f"{SMALLEST} {arguments}", monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("compete_to_compute.py: ")
    assert named in line
    assert contents(here) == before


# --- Runs that fail -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")  # numpy's would be lines of their own
def test_a_single_run_that_diverges_is_status_1_and_leaves_earlier_results(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    (here / "results.json").write_text("earlier results")
    before = contents(here)
    arguments = f"{SMALLEST} --epochs 3 --lr 50 --seed 3 --activations lwta"
    assert status_of(arguments, monkeypatch) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert re.search(r"LWTA, seed 3: .* in task 1, epoch \d", line)
    assert "lower --lr" in line
    assert contents(here) == before


def test_a_sweep_counts_a_run_that_diverges_in_no_pair_but_as_guessing(
    monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    train_phases = compete_to_compute.train_phases

    def diverging_once(network: Any, phases: Any, config: Any, seed: int) -> Iterator[Any]:
        for now in train_phases(network, phases, config, seed):
            if seed == 1 and network.activation.name == "lwta":
                network.parameters[:] = np.nan  # so that the very first test is not finite
            yield now

    monkeypatch.setattr(compete_to_compute, "train_phases", diverging_once)
    results = results_of(f"{LEARNING} --n-seeds 3 --jobs 1")
    (row,) = [row for row in results["per_seed"] if row["status"] != "ok"]
    assert (row["model"], row["seed"], row["status"]) == ("lwta", 1, "diverged")
    assert row["accuracy_matrix"] == [[None, None]]  # null in JSON, as the metrics
    assert [row[metric] for metric in METRICS] == [None] * 4
    (pair,) = results["aggregate"]["pairs"]
    assert pair["difference"]["n"] == 2
    report = capsys.readouterr().out
    assert "LWTA: 1 diverged, left out of every mean" in report
    assert "with failed runs counted as guessing" in report
    assert f"difference {pair['at_chance']['mean']:+.4f}" in report


def test_runs_that_learn_nothing_are_untrained_and_said_so(capsys: Printed) -> None:
    results = results_of(f"{SMALLEST} --lr 1e-5 --target-loss 0.01 --n-seeds 2 --jobs 1")
    assert [row["status"] for row in results["per_seed"]] == ["untrained"] * 4
    assert results["per_seed"][0]["target_reached"] == [False, False]
    report = capsys.readouterr().out
    assert "LWTA untrained: accuracy on task 1" in report
    assert "ReLU did not reach --target-loss on task 1." in report
    assert "ReLU: 2 untrained, left out of every mean" in report
    (pair,) = results["aggregate"]["pairs"]
    assert (pair["failed"], pair["verdict"]) == ({"relu": 2, "lwta": 2}, None)


# --- Results ------------------------------------------------------------------------------------


def test_results_and_snapshots_follow_the_contract() -> None:
    arguments = "--hidden 120 --depth 3 --epochs 2 --tasks 01 23 45 --seed 4 --n-seeds 2 --quiet"
    results = results_of(f"{SMALLEST} {arguments} --jobs 1")
    T, tasks = 3, ["01", "23", "45"]
    assert results["schema"] == compete_to_compute.SCHEMA
    expected = {"tasks": tasks, "hidden": 120, "depth": 3, "epochs": 2}
    small = {"train_per_class": 20, "test_per_task": 50}
    assert results["config"] == {**asdict(Config()), **expected, **small}
    environment = results["environment"]
    assert {"python", "numpy", "blas", "blas_kernel", "platform", "processor"} <= {*environment}
    assert {"cores", "git_commit"} <= {*environment}
    assert environment["mnist_sha256"] == MNIST_SHA256
    assert results["headline"]["seed"] == 4
    assert results["headline"]["wallclock_s"] > 0

    steps = [(row["model"], row["task"], row["epoch"]) for row in results["schedule"]]
    in_order = [(task, epoch) for task in range(1, T + 1) for epoch in (1, 2)]
    assert steps == [(model, *step) for model in ("relu", "lwta") for step in in_order]
    runs = [(row["seed"], row["model"]) for row in results["per_seed"]]
    assert runs == [(4, "relu"), (4, "lwta"), (5, "relu"), (5, "lwta")]
    columns = {"seed", "model", "accuracy_matrix", "epochs", "target_reached", *METRICS}
    for row in results["per_seed"]:
        assert {*row} == {*columns, "status", "failure", "blas_kernel"}
        assert np.array(row["accuracy_matrix"]).shape == (T + 1, T)
        assert row["epochs"] == [2] * T
    models, (pair,) = results["aggregate"]["models"], results["aggregate"]["pairs"]
    summary = {"n", "mean", "median", "std", "ci95"}
    assert [*models] == [pair["first"], pair["second"]] == ["relu", "lwta"]
    assert all({*model[metric]} == summary for model in models.values() for metric in METRICS)
    assert {*pair["difference"]} == summary
    assert {"ci90", "wins", "losses", "ties", "p", "p_adjusted", "verdict"} <= {*pair}

    with np.load("viz/snapshots.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert json.loads(str(arrays["config"])) == results["config"]
    assert (arrays["seed"], arrays["models"].tolist()) == (4, ["relu", "lwta"])
    assert arrays["tasks"].tolist() == tasks
    for model, record in zip(("relu", "lwta"), results["per_seed"], strict=False):
        schedule = [row for row in results["schedule"] if row["model"] == model]
        R = record["accuracy_matrix"]
        assert schedule[-1]["test_accuracy"] == R[-1]
        assert results["headline"]["summary"][model] == {
            **{"task1_after_task1": R[1][0], "task1_after_task2": R[2][0]},
            **{"task2_after_task2": R[2][1], "forgetting": record["forgetting"]},
        }
        accuracy, loss = arrays[f"accuracy_{model}"], arrays[f"train_loss_{model}"]
        assert accuracy.tolist() == [R[0], *(row["test_accuracy"] for row in schedule)]
        assert arrays[f"task_{model}"].tolist() == [0, *(row["task"] for row in schedule)]
        assert np.isnan(loss[0])
        assert loss[1:].tolist() == [row["train_loss"] for row in schedule]
        weights, start, active = (arrays[n] for n in (f"W1_{model}", "W1_init", f"active_{model}"))
        assert weights.shape == start.shape == (784, 100)
        assert active.shape == (T + 1, 3, T, 120)
        assert weights.dtype == start.dtype == active.dtype == np.float32
        assert not np.array_equal(weights, start)
        assert 0 <= active.min() < active.max() <= 1 + 1e-6


def test_the_script_when_quiet_prints_nothing_and_writes_two_files_where_it_is_told(
    here: Path,
) -> None:
    # A model that is named twice is trained once; without LWTA no width need be a multiple of k.
    arguments = "--quiet --activations relu relu --hidden 21 --out a/r.json --snapshots b/s.npz"
    command = [sys.executable, str(SCRIPT), *SMALLEST.split(), *arguments.split()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {*contents(here)} == {str(Path("a/r.json")), str(Path("b/s.npz"))}
    assert len(json.loads(Path("a/r.json").read_text())["per_seed"]) == 1


def test_snapshots_of_the_default_size_are_below_a_megabyte() -> None:
    # The size of an array depends neither on the images nor, but for some numbers, on the epochs.
    assert main("--train-per-class 20 --test-per-task 50 --epochs 1 --quiet".split()) == 0
    assert Path("viz/snapshots.npz").stat().st_size < 1_000_000


SAME = ("config", "schedule", "per_seed", "aggregate")


@pytest.mark.parametrize("seeds", [1, 2])
def test_jobs_change_nothing_but_the_time(seeds: int) -> None:
    # One seed trains in threads, more in processes.
    arguments = f"{SMALLEST} --quiet --n-seeds {seeds}"
    alone = results_of(f"{arguments} --jobs 1 --snapshots alone.npz", "alone.json")
    beside = results_of(f"{arguments} --jobs 2 --snapshots beside.npz", "beside.json")
    assert [alone[part] for part in SAME] == [beside[part] for part in SAME]
    assert Path("alone.npz").read_bytes() == Path("beside.npz").read_bytes()


WATCHED = """
import sys, {}, compete_to_compute as c, threadpoolctl
evaluate, threads = c.evaluate, set()
def spy(*arguments):
    threads.update(p["num_threads"] for p in threadpoolctl.threadpool_info())
    return evaluate(*arguments)
c.evaluate = spy
c.main(sys.argv[1:])
print(threads)
"""


@pytest.mark.parametrize("first", ["numpy", "os"])
def test_one_blas_thread_and_the_same_bits_whatever_came_first_and_the_environment_says(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = results_of(f"{SMALLEST} --quiet")
    for name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM"):
        monkeypatch.setenv(f"{name}_THREADS", "2")
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parent))
    command = [sys.executable, "-c", WATCHED.format(first), *SMALLEST.split(), "--quiet"]
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
        LEARNING,
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
    assert [line for line in report.splitlines() if len(line) > 80] == []
    expected = ["Seed 0", "LWTA", "results.json", "snapshots.npz"]
    if LEARNING in arguments:
        for summary in results["headline"]["summary"].values():
            expected += [f"{summary['task1_after_task2']:.1%}", f"{summary['forgetting']:.3f}"]
        is_sweep = "--n-seeds" in arguments
        for pair in results["aggregate"]["pairs"] if is_sweep else []:
            mean, (low, _) = pair["difference"]["mean"], pair["difference"]["ci95"]
            model = results["aggregate"]["models"][pair["first"]]
            expected += [
                f"Verdict: {pair['verdict']}.",
                f"mean {mean:+.4f}, 95 % interval {low:+.4f} to",
                f"permutation test p = {pair['p']:.2g}",
                f"{model['forgetting']['mean']:.4f}",
            ]
        assert ("Verdict" in report) == ("interval" in report) == is_sweep
    assert [text for text in expected if text not in report] == []


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
        # Without a limit a number is not in `BAD_INPUT`, whose rows are one or two for each limit.
        assert (item.metadata["limit"] is not None) == (has_default or item.default is None)
        default = f" (default {item.default})" if has_default else ""
        assert item.metadata["help"] + default in text
    assert "None" not in text
    assert contents(here) == {}


def test_what_is_given_beside_a_preset_wins() -> None:
    small = {"hidden": 4, "train_per_class": 20, "test_per_task": 50, "epochs": 1, "depth": 1}
    given = " ".join(f"{flag(name)} {value}" for name, value in small.items())
    config = results_of(f"--preset paper {given}")["config"]
    expected = compete_to_compute.PRESETS["paper"] | small
    assert config == {**asdict(Config()), "tasks": ["01234", "56789"], **expected}
