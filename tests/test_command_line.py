"""The command line: what it refuses, what it writes, what it prints."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute
from compete_to_compute import (
    MNIST_SHA256,
    Config,
    Diverged,
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


# --- Bad input ---

# The arguments, and what the line on stderr must name.
BAD_INPUT = {
    "unknown digit": ("--tasks 01x 23", "'x' is not a digit"),
    "digit in two tasks": ("--tasks 012 234", "digit 2 is in two tasks; that needs --permute"),
    "digit twice in a task": ("--tasks 011 23", "--tasks '011'"),
    "digit twice in a task, permuted": ("--tasks 011 23 --permute", "--tasks '011'"),
    "task of one digit": ("--tasks 0 12", "two digits"),
    "no tasks": ("--tasks", "--tasks"),
    "width not divisible by k": ("--hidden 20 --k 3", "--k 3"),
    "no units": ("--hidden 0", "--hidden must be 1 or more"),
    "zero k": ("--k 0", "--k must be 1 or more"),
    "zero epochs": ("--epochs 0", "--epochs must be 1 or more"),
    "zero batch": ("--batch 0", "--batch must be 1 or more"),
    "negative images": ("--train-per-class -1", "--train-per-class must be 0 or more"),
    "more images than there are": ("--train-per-class 6000", "only 5923 training images of digit"),
    "more than there are, in a sweep": ("--train-per-class 6000 --n-seeds 2", "5923"),
    "dropout 1": ("--dropout 1", "--dropout must be at least 0 and below 1"),
    "negative dropout": ("--dropout -0.1", "--dropout must be at least 0 and below 1"),
    "input dropout nan": ("--input-dropout nan", "--input-dropout must be"),
    "momentum 1": ("--momentum 1", "--momentum must be"),
    "lr 0": ("--lr 0", "--lr must be above 0, not 0"),
    "lr nan": ("--lr nan", "--lr must be above 0, not nan"),
    "lr inf": ("--lr inf", "--lr must be above 0, not inf"),
    "target loss 0": ("--target-loss 0", "--target-loss must be above 0"),
    "negative weight decay": ("--weight-decay -1", "--weight-decay must be 0 or more"),
    "weight decay inf": ("--weight-decay inf", "--weight-decay must be 0 or more"),
    "negative seed": ("--seed -1", "--seed must be 0 or more, not -1"),
    "no seeds": ("--n-seeds 0", "--n-seeds must be 1 or more"),
    "zero jobs": ("--jobs 0", "--jobs must be 1 or more, not 0"),
    "unknown activation": ("--activations tanh", "'tanh'"),
    "unknown head": ("--head double", "'double'"),
    "unknown option": ("--epoch 3", "--epoch"),
    "no number": ("--epochs five", "'five'"),
    "out below a file": ("--out file/sub/results.json", "file/sub/results.json: cannot be written"),
    "out in a file": ("--out file/results.json", "file/results.json: cannot be written"),
    "out is a folder": ("--out folder", "folder: is a folder"),
    "out of too long a name": (f"--out {'o' * 300}", "cannot be written"),
    "snapshots in a file": ("--snapshots file/s.npz", "file/s.npz: cannot be written"),
    "snapshots is a folder": ("--snapshots folder", "folder: is a folder"),
    "no data folder": ("--data-dir nowhere", "nowhere: no train-images-idx3-ubyte"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUT.values(), ids=BAD_INPUT.keys())
def test_bad_input_is_one_line_and_status_2_and_nothing_is_written(
    arguments: str,
    named: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "results.json").write_text("earlier results")
    (here / "file").write_text("")
    (here / "folder").mkdir()
    before = contents(here)
    assert status_of([*SMALLEST.split(), *arguments.split()], monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("compete_to_compute.py: ")
    assert named in line
    assert contents(here) == before


@pytest.mark.parametrize(
    "arguments", ["--tasks 01x 23", "--lr fast", "--train-per-class 6000", "--out ."]
)
def test_bad_input_to_the_script_itself_is_one_line_too(arguments: str, here: Path) -> None:
    result = run_as_script(arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert contents(here) == {}


def test_width_need_not_be_divisible_by_k_without_lwta() -> None:
    assert main(f"{SMALLEST} --hidden 21 --activations relu --quiet".split()) == 0


def test_permuted_tasks_may_share_digits() -> None:
    assert main(f"{SMALLEST} --tasks 01 01 --permute --quiet".split()) == 0


# --- Runs that fail ---


def test_single_run_that_diverges_is_status_1_and_leaves_earlier_results(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "results.json").write_text("earlier results")
    before = contents(here)
    assert status_of(f"{DIVERGING} --seed 3 --activations lwta".split(), monkeypatch) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert re.search(r"LWTA, seed 3: .* in task 1, epoch \d", line)
    assert "lower --lr" in line
    assert contents(here) == before


def test_script_that_diverges_says_nothing_but_that(here: Path) -> None:
    result = run_as_script(DIVERGING)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()  # so no warnings of numpy's
    assert "LWTA, seed 0" in line
    assert contents(here) == {}


def test_sweep_that_diverges_counts_every_run(capsys: pytest.CaptureFixture[str]) -> None:
    results = results_of(f"{DIVERGING} --activations lwta --n-seeds 2 --jobs 1")
    assert [row["status"] for row in results["per_seed"]] == ["diverged"] * 2
    assert all("task 1, epoch" in row["failure"] for row in results["per_seed"])
    assert all(row["forgetting"] is None for row in results["per_seed"])
    model = results["aggregate"]["models"]["lwta"]
    assert (model["ok"], model["diverged"], model["untrained"]) == (0, 2, 0)
    assert model["forgetting"]["n"] == 0
    assert model["forgetting"]["mean"] is None
    assert "LWTA: 2 diverged, left out of every mean" in capsys.readouterr().out


def test_one_diverged_run_is_in_no_mean_and_no_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_phases = compete_to_compute.train_phases

    def diverging_once(
        network: Any, phases: Any, tasks: Any, config: Any, seed: int, history: Any
    ) -> None:
        train_phases(network, phases, tasks, config, seed, history)
        if seed == 1 and network.activation.name == "lwta":
            raise Diverged("training loss in task 2, epoch 5 is not finite")

    monkeypatch.setattr(compete_to_compute, "train_phases", diverging_once)
    results = results_of(f"{LEARNING} --n-seeds 3 --jobs 1")
    rows = {(row["model"], row["seed"]): row for row in results["per_seed"]}
    assert rows["lwta", 1]["status"] == "diverged"
    assert all(row["status"] == "ok" for key, row in rows.items() if key != ("lwta", 1))
    models = results["aggregate"]["models"]
    assert (models["lwta"]["ok"], models["lwta"]["diverged"]) == (2, 1)
    assert (models["relu"]["ok"], models["relu"]["diverged"]) == (3, 0)
    for metric in ("forgetting", "average_accuracy", "backward_transfer", "forward_transfer"):
        kept = [rows["lwta", seed][metric] for seed in (0, 2)]
        assert models["lwta"][metric]["n"] == 2
        assert models["lwta"][metric]["mean"] == pytest.approx(np.mean(kept))
    (pair,) = results["aggregate"]["pairs"]
    kept = [rows["relu", seed]["forgetting"] - rows["lwta", seed]["forgetting"] for seed in (0, 2)]
    assert pair["difference"]["n"] == 2
    assert pair["difference"]["mean"] == pytest.approx(np.mean(kept))
    assert pair["failed"] == {"relu": 0, "lwta": 1}
    assert "LWTA: 1 diverged, left out of every mean" in capsys.readouterr().out


def test_runs_that_learn_nothing_are_untrained_and_in_no_mean(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = results_of(f"{SMALLEST} --lr 1e-5 --n-seeds 2 --jobs 1")
    assert [row["status"] for row in results["per_seed"]] == ["untrained"] * 4
    for model in results["aggregate"]["models"].values():
        assert (model["ok"], model["diverged"], model["untrained"]) == (0, 0, 2)
        assert model["forgetting"]["n"] == 0
    (pair,) = results["aggregate"]["pairs"]
    assert pair["failed"] == {"relu": 2, "lwta": 2}
    assert pair["verdict"] is None
    assert "ReLU: 2 untrained, left out of every mean" in capsys.readouterr().out


def test_single_untrained_run_is_written_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    results = results_of(f"{SMALLEST} --lr 1e-5")
    assert [row["status"] for row in results["per_seed"]] == ["untrained"] * 2
    assert "LWTA untrained: accuracy on task 1" in capsys.readouterr().out


# --- Results ---

SUMMARY_KEYS = {"task1_after_task1", "task1_after_task2", "task2_after_task2", "forgetting"}
STATISTICS = {"n", "mean", "median", "iqm", "std", "ci95"}
METRICS = {"forgetting", "average_accuracy", "backward_transfer", "forward_transfer"}


@pytest.mark.parametrize("tasks", ["01 23", "01 23 45 67 89"])
def test_results_follow_the_schema(tasks: str) -> None:
    results = results_of(
        f"{SMALLEST} --epochs 2 --tasks {tasks} --seed 4 --n-seeds 2 --jobs 1 --quiet"
    )
    T = len(tasks.split())
    assert results["schema"] == 1
    assert results["config"] == {
        **json.loads(json.dumps(asdict(Config()))),
        **{"tasks": tasks.split(), "hidden": 20, "train_per_class": 20},
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
    assert steps == [
        (model, task, epoch)
        for model in ("relu", "lwta")
        for task in range(1, T + 1)
        for epoch in (1, 2)
    ]
    for row in results["schedule"]:
        assert row["train_loss"] > 0
        assert 0 <= row["train_accuracy"] <= 1
        assert len(row["test_accuracy"]) == T

    units = [(row["seed"], row["model"]) for row in results["per_seed"]]
    assert units == [(4, "relu"), (4, "lwta"), (5, "relu"), (5, "lwta")]
    for row in results["per_seed"]:
        assert {"seed", "model", "epochs", "status", *METRICS} <= {*row}
        assert np.array(row["accuracy_matrix"]).shape == (T + 1, T)
        assert row["epochs"] == [2] * T

    models, pairs = results["aggregate"]["models"], results["aggregate"]["pairs"]
    assert [*models] == ["relu", "lwta"]
    assert all({*model[metric]} == STATISTICS for model in models.values() for metric in METRICS)
    (pair,) = pairs
    assert (pair["first"], pair["second"]) == ("relu", "lwta")
    assert {*pair["difference"]} == STATISTICS
    assert {"wins", "losses", "ties", "sign_test_p", "smallest_detectable", "verdict"} <= {*pair}


def test_figures_that_are_not_numbers_are_null() -> None:
    # weights so large that the very first test overflows
    results = results_of(f"{SMALLEST} --init-scale 1e30 --n-seeds 2 --jobs 1 --quiet")
    assert [row["status"] for row in results["per_seed"]] == ["diverged"] * 4
    assert results["per_seed"][0]["accuracy_matrix"][0] == [None, None]


def test_headline_agrees_with_the_accuracy_matrix() -> None:
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


def test_results_name_no_model_twice() -> None:
    results = results_of(f"{SMALLEST} --activations lwta lwta --quiet")
    assert [row["model"] for row in results["per_seed"]] == ["lwta"]


def test_quiet_run_prints_nothing_and_writes_both_files(here: Path) -> None:
    result = run_as_script(f"{SMALLEST} --quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert {*contents(here)} == {"results.json", str(Path("viz/snapshots.npz"))}


def test_files_go_where_they_are_sent(here: Path) -> None:
    assert main(f"{SMALLEST} --quiet --out a/b/r.json --snapshots c/s.npz".split()) == 0
    assert {*contents(here)} == {str(Path("a/b/r.json")), str(Path("c/s.npz"))}


def load_arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("tasks", ["01234 56789", "01 23 45 67 89"])
def test_snapshots_have_the_contracted_arrays(tasks: str) -> None:
    arguments = f"{SMALLEST} --hidden 120 --depth 3 --epochs 2 --tasks {tasks} --seed 7 --quiet"
    results = results_of(arguments)
    arrays = load_arrays("viz/snapshots.npz")
    T = len(tasks.split())
    assert json.loads(str(arrays["config"])) == results["config"]
    assert arrays["seed"] == 7
    assert arrays["models"].tolist() == ["relu", "lwta"]
    assert arrays["tasks"].tolist() == tasks.split()
    assert arrays["W1_init"].shape == (784, 100)
    assert arrays["W1_init"].dtype == np.float32
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
        assert active.min() >= 0
        assert 0.1 < active.mean() < 0.9
        assert active.max() <= 1 + 1e-6


def test_snapshots_of_the_default_size_are_below_a_megabyte() -> None:
    assert main(["--train-per-class", "20", "--quiet"]) == 0  # no array's size depends on that
    assert Path("viz/snapshots.npz").stat().st_size < 1_000_000


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_the_old_file_and_no_other(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = here / "results.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=re.escape(os.strerror(errno.ENOSPC))):
        write_atomically(path, b"new")
    assert contents(here) == {"results.json": b"old"}


@pytest.mark.parametrize("activations", ["relu lwta", "sigmoid"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_jobs_change_nothing_but_the_time(activations: str, seeds: int) -> None:
    # One seed trains in threads, more in processes.
    arguments = f"{SMALLEST} --quiet --activations {activations} --n-seeds {seeds}"
    alone = results_of(f"{arguments} --jobs 1", "alone.json")
    beside = results_of(f"{arguments} --jobs 2", "beside.json")
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert alone[part] == beside[part]


def test_the_commit_says_whether_a_script_was_changed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compete_to_compute, "__file__", str(here / "script.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    assert compete_to_compute.git_commit() is None
    (here / "script.py").write_text("first")
    person = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], [*person, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], check=True)
    assert re.fullmatch("[0-9a-f]{12}", compete_to_compute.git_commit() or "")
    (here / "results.json").write_text("an output is no change")
    (here / "script.py").write_text("second")
    assert re.fullmatch("[0-9a-f]{12}-dirty", compete_to_compute.git_commit() or "")


# --- What is printed ---


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("size", "tasks"),
    [
        (LEARNING, "01234 56789"),
        (SMALLEST, "01234 56789"),
        (SMALLEST, "01 23 45 67 89"),
        (SMALLEST, "01 23 45 67 89 01 23 --permute"),
    ],
    ids=["2 tasks", "2 tasks untrained", "5 tasks", "7 tasks"],
)
def test_report_fits_80_columns(
    seeds: int, size: str, tasks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"{size} --activations relu lwta sigmoid --n-seeds {seeds} --jobs 1"
    assert main(f"{arguments} --tasks {tasks}".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10
    assert [line for line in lines if len(line) > 80] == []


def test_a_sweep_without_standard_error_is_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a service, or under pythonw
    assert main(f"{SMALLEST} --n-seeds 2 --jobs 1".split()) == 0


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


def test_several_seeds_give_intervals_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    results = results_of(f"{LEARNING} --n-seeds 3 --jobs 1")
    report = capsys.readouterr().out
    (pair,) = results["aggregate"]["pairs"]
    assert pair["verdict"]
    assert f"Verdict: {pair['verdict']}." in report
    assert f"difference {pair['difference']['mean']:+.4f}, 95 % interval" in report
    assert f"{results['aggregate']['models']['relu']['forgetting']['mean']:.4f}" in report


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    named = {*re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out)}
    assert {flag(item.name) for item in fields(Config)} <= named
    assert {"--seed", "--n-seeds", "--activations", "--jobs", "--data-dir", "--out"} <= named


SCRIPTS = sorted(
    path.stem
    for path in SCRIPT.parent.glob("*.py")
    if "run_script(main)" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_every_script_fits_80_columns_and_does_nothing_else(
    script: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    module = importlib.import_module(script)
    monkeypatch.setattr(module, "write_atomically", None, raising=False)
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: ")
    assert [line for line in lines if len(line) > 80] == []
    assert "None" not in " ".join(lines)
    with pytest.raises(SystemExit) as stop:
        module.main(["--no-such-option"])
    assert stop.value.code == 2
    assert contents(here) == {}


def test_help_gives_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for item in fields(Config):
        assert " ".join(item.metadata["help"].split()) in text
        if isinstance(item.default, int | float) and not isinstance(item.default, bool):
            assert f"{item.metadata['help']} (default {item.default})" in text


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--data-dir", "~nobody-of-this-name/x"], "nobody"),
        (["--snapshots", "same.json"], "--out and --snapshots"),
        (["--out", os.devnull], "device"),
        (["--seed", str(2**64)], "--seed"),
        (["--tasks", "01\n2", "34"], "is not a digit"),
    ],
)
def test_paths_and_values_that_would_do_harm_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(compete_to_compute.InputError, match=named) as caught:
        main(["--out", "same.json", *more])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows asks for a right to make links")
def test_a_link_to_the_results_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "r.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    compete_to_compute.write_atomically(link, b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
