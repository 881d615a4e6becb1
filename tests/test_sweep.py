"""Sweeps that are killed, interrupted, run out of disk, or are resumed with something else."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import compete_to_compute
from compete.files import InputError
from compete.runs import IDENTITY, RunFile, first_of_each
from compete_to_compute import main

SCRIPT = Path(compete_to_compute.__file__)
TINY = "--hidden 2 --depth 1 --train-per-class 20 --test-per-task 50 --epochs 1 --k 1".split()


def options(folder: Path, *more: str) -> list[str]:
    """A tiny sweep that writes into a folder."""
    files = ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz")]
    return [*files, *TINY, "--quiet", *more]


def sweep(folder: Path, seeds: int, *more: str) -> dict[str, Any]:
    """Run one, in this process; the parts of results.json that must be the same bit for bit."""
    assert main(options(folder, "--jobs", "1", "--n-seeds", str(seeds), *more)) == 0
    return results(folder)


def results(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "r.json").read_text())
    return {key: content[key] for key in ("config", "schedule", "per_seed", "aggregate")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Faults -------------------------------------------------------------------------------------


def test_a_sweep_killed_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    expected = sweep(undisturbed, 40)
    command = [sys.executable, str(SCRIPT), *options(killed, "--n-seeds", "40", "--resume")]
    journal = killed / "r.json.journal"
    moments = random.Random(0)
    sizes = []

    def finished() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    while len(sizes) < 6:
        enough = finished() + moments.randrange(20)
        # Every other time without worker processes, which are half of what starting takes.
        process = subprocess.Popen([*command, "--jobs", str(1 + len(sizes) % 2)])
        while process.poll() is None and finished() < enough:
            time.sleep(0.002)
        process.kill()  # kill -9 on POSIX
        if process.wait() == 0:  # it had finished: every kill has to hit a sweep under way
            assert results(killed) == expected
            journal.unlink()
        else:
            sizes.append(finished())
    assert len(set(sizes)) > 2, "the kills did not hit the sweep at different moments"
    assert subprocess.run(command).returncode == 0
    assert results(killed) == expected
    assert (killed / "s.npz").read_bytes() == (undisturbed / "s.npz").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_at_once_and_keeps_what_is_finished(tmp_path: Path) -> None:
    def heed_ctrl_c() -> None:
        """A shell's background jobs, and what they start, ignore it."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    command = [sys.executable, str(SCRIPT), *options(tmp_path, "--n-seeds", "5000", "--jobs", "2")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    journal = tmp_path / "r.json.journal"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "--resume" in errors
    lines = journal.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert 5 < len(lines) < 5000


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A sweep in a process of its own, after some lines of Python."""
    code = f"import os, sys, compete_to_compute as c\n{program}\nc.run_script(c.main)"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=SCRIPT.parent, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path: Path) -> None:
    full, complete = tmp_path / "full", tmp_path / "complete"
    expected = sweep(complete, 60)
    limit = (complete / "s.npz").stat().st_size + 500
    assert limit < (complete / "r.json.journal").stat().st_size, "the journal must hit the limit"
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    stopped = run_program(program, *options(full, "--n-seeds", "60", "--jobs", "1"))
    assert stopped.returncode == 1
    assert "r.json.journal cannot be written" in stopped.stderr
    assert {*contents(full)} == {"r.json.journal"}
    assert contents(full)["r.json.journal"].count(b"\n") > 20
    assert sweep(full, 60, "--resume") == expected


def test_a_worker_that_dies_stops_the_sweep_with_one_line(tmp_path: Path) -> None:
    # The worker ends itself at its first run, as the system ends one that takes all memory.
    (tmp_path / "own.py").write_text(
        "import os\n"
        f"def f(z, gate, k):\n"
        f"    gate[:] = 1\n"
        f"    if os.getppid() != {os.getpid()}: os._exit(9)\n"
    )
    command = [sys.executable, str(SCRIPT), *options(tmp_path, "--n-seeds", "3", "--jobs", "2")]
    command += ["--activations", "relu", f"{tmp_path}/own.py:f"]
    stopped = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert stopped.returncode == 1
    assert "a worker process died" in stopped.stderr
    assert stopped.stderr.count("\n") == 1
    assert not (tmp_path / "r.json").exists()


# --- Resuming -----------------------------------------------------------------------------------


def test_resuming_trains_the_headline_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sweep(tmp_path / "complete", 4)
    assert sweep(tmp_path, 2) != expected
    (tmp_path / "r.json").unlink()  # the journal alone must do
    (tmp_path / "s.npz").write_bytes(b"")
    trained: list[int] = []
    original = compete_to_compute.train_model

    def watched(*arguments: Any) -> Any:
        trained.append(arguments[2])
        return original(*arguments)

    monkeypatch.setattr(compete_to_compute, "train_model", watched)
    assert sweep(tmp_path, 4, "--resume") == expected
    assert trained == [0, 0, 2, 2, 3, 3]
    assert (tmp_path / "s.npz").read_bytes() == (tmp_path / "complete" / "s.npz").read_bytes()


def test_sweeps_that_share_a_journal_take_their_own_runs_from_it(tmp_path: Path) -> None:
    expected = {lr: sweep(tmp_path / lr, 3, "--lr", lr) for lr in ("0.05", "0.01")}
    shared = [(tmp_path / lr / "r.json.journal").read_bytes() for lr in expected]
    (tmp_path / "r.json.journal").write_bytes(b"".join(shared))
    for lr in expected:
        assert sweep(tmp_path, 3, "--resume", "--lr", lr) == expected[lr]


def test_two_sweeps_at_once_into_one_place_both_finish(tmp_path: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, str(SCRIPT), *options(tmp_path, *more)])
        for more in (["--n-seeds", "30", "--jobs", "1"], ["--n-seeds", "30", "--lr", "0.01"])
    ]
    assert [process.wait() for process in both] == [0, 0]
    rows = RunFile(tmp_path / "r.json.journal").rows()
    assert len(first_of_each(rows)) == len(rows) == 120
    assert results(tmp_path)["config"]["lr"] in (0.01, 0.05)


def test_results_hold_what_was_asked_for(tmp_path: Path) -> None:
    expected = sweep(tmp_path / "alone", 2, "--seed", "2")
    sweep(tmp_path, 4, "--activations", "relu", "lwta", "sigmoid")
    assert sweep(tmp_path, 2, "--seed", "2", "--resume") == expected
    with pytest.raises(InputError, match="give its --n-seeds too"):
        main(options(tmp_path, "--resume"))
    assert results(tmp_path) == expected


def test_a_file_of_rows_cut_anywhere_loses_nothing_whole(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "runs")
    rows = [{**dict.fromkeys(IDENTITY), "model": "relu", "seed": n, "é": math.nan} for n in (1, 2)]
    for row in rows:
        file.append(row)
    content = file.path.read_bytes()
    ends = [n for n, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        file.path.write_bytes(content[:size])
        whole = sum(size >= end for end in ends)
        assert [row["seed"] for row in file.rows()] == [1, 2][:whole]
        file.append(rows[0])
        assert len(file.rows()) == whole + 1, "what is added after a cut is whole"
    for place in range(0, ends[0], 7):  # a bit that a disk lost
        file.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert [row["seed"] for row in file.rows()] == [2]
