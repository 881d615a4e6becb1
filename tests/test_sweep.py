"""Sweeps that are killed, interrupted, run out of disk, or are resumed with something else."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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


# --- Faults -------------------------------------------------------------------------------------


def finished(folder: Path) -> int:
    return len(RunFile(folder / "r.json.journal").rows())


def start(*arguments: str, program: str = "") -> subprocess.Popen[str]:
    """The script in a process group of its own, after some lines of Python."""
    heed = "import os, runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heed}\n{program}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    command = [sys.executable, "-c", code, *arguments]
    options = {"cwd": SCRIPT.parent, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **options)


def end(process: subprocess.Popen[str]) -> str:
    """The errors; to their end, which comes when no worker process is left."""
    return process.communicate(timeout=60)[1]


def test_a_sweep_killed_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    expected = sweep(undisturbed, 40)
    command = options(killed, "--n-seeds", "40", "--resume")
    moments = random.Random(0)
    sizes = []
    while len(sizes) < 6:
        enough = finished(killed) + moments.randrange(20)
        # Every other time without worker processes, which are half of what starting takes.
        process = start(*command, "--jobs", str(1 + len(sizes) % 2))
        while process.poll() is None and finished(killed) < enough:
            time.sleep(0.002)
        process.kill()  # kill -9 on POSIX
        end(process)
        if process.returncode == 0:  # it had finished: every kill has to hit a sweep under way
            assert results(killed) == expected
            (killed / "r.json.journal").unlink()
        else:
            sizes.append(finished(killed))
    assert len(set(sizes)) > 2, "the kills did not hit the sweep at different moments"
    assert end(start(*command)).count("\n") == 0
    assert results(killed) == expected
    assert (killed / "s.npz").read_bytes() == (undisturbed / "s.npz").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize(("rows", "later"), [(0, 0.1), (0, 0.3), (1, 0), (30, 0)])
def test_ctrl_c_ends_at_once_and_keeps_what_is_finished(
    rows: int, later: float, tmp_path: Path
) -> None:
    folder = tmp_path / "made when training is about to begin"
    process = start(*options(folder, "--n-seeds", "2000", "--jobs", "2"))
    while finished(folder) < rows or not folder.exists():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(later)  # so as to hit the start of the workers
    os.killpg(process.pid, signal.SIGINT)
    errors = end(process)
    assert process.returncode == 130
    assert re.fullmatch(r".*: stopped.*\n", errors)
    assert "go on with --resume" in errors or not rows
    assert rows <= finished(folder) < 4000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_ctrl_c_again_and_again_while_workers_start_leaves_none_behind(tmp_path: Path) -> None:
    program = """import time; from multiprocessing.process import BaseProcess as Process
def start_and_press(process, start=Process.start):
    start(process); time.sleep(0.1)  # until it is a Python
    os.killpg(0, signal.SIGINT)
Process.start = start_and_press"""
    process = start(*options(tmp_path, "--n-seeds", "2", "--jobs", "2"), program=program)
    assert re.fullmatch(r".*: stopped. 0 of 4 .*\n", end(process))
    assert process.returncode == 130


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path: Path) -> None:
    full, complete = tmp_path / "full", tmp_path / "complete"
    expected = sweep(complete, 60)
    limit = (complete / "s.npz").stat().st_size + 500
    assert limit < (complete / "r.json.journal").stat().st_size, "the journal must hit the limit"
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = start(*options(full, "--n-seeds", "60", "--jobs", "2"), program=program)
    assert re.fullmatch(r".*r.json.journal cannot be written .*\n", end(process))
    assert process.returncode == 1
    assert {path.name for path in full.iterdir()} == {"r.json.journal"}
    assert finished(full) > 20
    assert sweep(full, 60, "--resume") == expected


@pytest.mark.skipif(sys.platform == "win32", reason="such limits are POSIX")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (18, 18))", "Error"),
        ("sys.modules['loky'] = None", "ModuleNotFoundError"),
        ("sys.modules['psutil'] = None; os.environ['PATH'] = ''", None),  # no pgrep
    ],
)
def test_where_workers_cannot_start_one_job_trains_and_a_slim_system_is_enough_for_them(
    program: str, reason: str | None, tmp_path: Path
) -> None:
    expected = sweep(tmp_path / "alone", 2)
    process = start(*options(tmp_path, "--n-seeds", "2", "--jobs", "2"), program=program)
    line = rf"worker processes cannot start \(.*{reason}.*\); one job trains\n" if reason else ""
    assert re.fullmatch(line, end(process))
    assert process.returncode == 0
    assert results(tmp_path) == expected


def test_a_worker_that_dies_stops_the_sweep_with_one_line(tmp_path: Path) -> None:
    # The worker ends itself at its first run, as the system ends one that takes all memory.
    (tmp_path / "own.py").write_text(
        f"import os\ndef f(z, gate, k): gate[:] = 1; os.getppid() == {os.getpid()} or os._exit(9)"
    )
    model = f"{tmp_path}/own.py:f"
    process = start(*options(tmp_path, "--n-seeds", "3", "--jobs", "2", "--activations", model))
    assert re.fullmatch(r".*: a worker process died .*\n", end(process))
    assert process.returncode == 1
    assert not (tmp_path / "r.json").exists()


# --- Resuming -----------------------------------------------------------------------------------


def test_resuming_trains_the_headline_and_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sweep(tmp_path / "complete", 4)
    assert sweep(tmp_path, 2) != expected
    train = compete_to_compute.train_model
    watched = Mock(side_effect=train)
    monkeypatch.setattr(compete_to_compute, "train_model", watched)
    assert sweep(tmp_path, 4, "--resume") == expected
    assert [call.args[2] for call in watched.mock_calls] == [0, 0, 2, 2, 3, 3]
    assert (tmp_path / "s.npz").read_bytes() == (tmp_path / "complete" / "s.npz").read_bytes()


def test_two_sweeps_at_once_into_one_place_both_finish_and_keep_their_own(tmp_path: Path) -> None:
    both = [["--n-seeds", "30", "--lr", lr] for lr in ("0.05", "0.01")]
    processes = [start(*options(tmp_path, *more, "--jobs", "1")) for more in both]
    assert [(end(process), process.returncode) for process in processes] == [("", 0)] * 2
    assert len(first_of_each(RunFile(tmp_path / "r.json.journal").rows())) == 120
    for lr in ("0.05", "0.01"):
        assert sweep(tmp_path, 5, "--lr", lr, "--resume") == sweep(tmp_path / lr, 5, "--lr", lr)
    assert finished(tmp_path) == 120


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
