"""Sweeps on a real Dask cluster: a scheduler and workers in processes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import numpy as np
import pytest

import compete_to_compute
from compete_to_compute import InputError, blas, main

SCRIPT = Path(compete_to_compute.__file__)
SMALL = "--hidden 50 --train-per-class 200 --epochs 2 --quiet".split()
# Where a cluster runs there is neither this project nor a way to it.
ELSEWHERE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
StartWorker = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.kill()
        process.wait()


def dask(command: str, *arguments: str, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
    """The scheduler or a worker, started in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{command}", "--no-dashboard", *arguments],
        cwd=folder,
        env={**ELSEWHERE, **variables},
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture
def address(processes: list[subprocess.Popen[bytes]], tmp_path: Path) -> str:
    """A scheduler's address on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("--host", "127.0.0.1", "--port", str(port))
    processes.append(dask("scheduler", *arguments, folder=tmp_path))
    with distributed.Client(f"tcp://127.0.0.1:{port}", timeout=30) as client:
        return client.scheduler.address


@pytest.fixture
def start_worker(
    processes: list[subprocess.Popen[bytes]], address: str, tmp_path: Path
) -> StartWorker:
    """Starts a worker, with lines of Python as it starts, and waits until the scheduler has it."""

    def start(patch: str = "", **variables: str) -> subprocess.Popen[bytes]:
        folder = tmp_path / f"worker{len(processes)}"
        folder.mkdir()
        if patch:
            (folder / "sitecustomize.py").write_text(patch)
            variables["PYTHONPATH"] = str(folder)
        arguments = (address, "--no-nanny", "--nthreads", "1")
        with distributed.Client(address, timeout=30) as client:
            before = len(client.scheduler_info(n_workers=-1)["workers"])
            processes.append(dask("worker", *arguments, folder=folder, **variables))
            client.wait_for_workers(before + 1, timeout=30)
        return processes[-1]

    return start


def options(folder: Path, *more: str) -> list[str]:
    """A small sweep that writes into a folder."""
    return ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz"), *SMALL, *more]


def start_sweep(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The script itself; returns once it has finished some runs."""
    command = [sys.executable, str(SCRIPT), *options(folder, *more)]
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = folder / "r.json.journal"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert sweep.poll() is None
        time.sleep(0.01)
    return sweep


def test_a_sweep_survives_a_killed_worker_with_the_same_bits(
    tmp_path: Path, address: str, start_worker: StartWorker
) -> None:
    victim = start_worker()
    start_worker()
    remote, local = tmp_path / "remote", tmp_path / "local"
    sweep = start_sweep(remote, "--dask", address, "--n-seeds", "8")
    victim.kill()
    assert sweep.communicate(timeout=60)[1] == ""
    assert sweep.returncode == 0
    main(options(local, "--n-seeds", "8"))
    here, there = (json.loads((folder / "r.json").read_text()) for folder in (local, remote))
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert here[part] == there[part]
    lines = (remote / "r.json.journal").read_text().splitlines()[1:]
    arrived = [json.loads(line)["record"] for line in lines]
    runs = [(row["seed"], row["model"]) for row in arrived]
    assert sorted(runs) == sorted({(row["seed"], row["model"]) for row in here["per_seed"]})
    with distributed.Client(address, timeout=30) as client:
        (threads,) = (found["blas_threads"] for found in client.run(blas).values())
    assert threads == 1


def test_a_worker_with_another_blas_kernel_works_and_is_recorded(
    tmp_path: Path, address: str, start_worker: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    if not str(blas()["blas"]).startswith("openblas"):
        pytest.skip("only OpenBLAS takes its kernel from a variable")
    start_worker()
    start_worker(OPENBLAS_CORETYPE="Nehalem")
    arguments = options(tmp_path, "--dask", address, "--n-seeds", "4")
    arguments.remove("--quiet")
    assert main(arguments) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["per_seed"]
    assert len({row["blas_kernel"] for row in rows}) == 2
    assert "2 BLAS kernels" in capsys.readouterr().out


def test_a_cluster_that_would_compute_something_else_is_refused_before_work_starts(
    tmp_path: Path, address: str, start_worker: StartWorker
) -> None:
    def refusal() -> str:
        with pytest.raises(InputError) as caught:
            main(options(tmp_path, "--dask", address))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "r.json").exists()
        return str(caught.value)

    assert "no worker there" in refusal()
    for patch, message in (
        ("import numpy; numpy.__version__ = '1.0'", f"has numpy 1.0, not {np.__version__} as here"),
        ("import platform; platform.python_version = lambda: '3.0'", "has python 3.0, not"),
        ("import sys; sys.modules['numpy'] = None", "cannot load this project"),
    ):
        worker = start_worker(patch)
        assert message in refusal()
        worker.kill()
        with distributed.Client(address, timeout=30) as client:
            while client.scheduler_info(n_workers=-1)["workers"]:
                time.sleep(0.01)


@pytest.mark.parametrize("change", ["numpy", "compete_to_compute.py"])
def test_a_sweep_stops_where_workers_become_other_ones(
    change: str, tmp_path: Path, address: str, start_worker: StartWorker
) -> None:
    start_worker()
    sweep = start_sweep(tmp_path, "--dask", address, "--n-seeds", "1000")
    if change == "numpy":  # on a worker that joins
        start_worker("import numpy; numpy.__version__ = '1.0'")
    else:  # another version of this project is used on the same cluster
        edited = tmp_path / SCRIPT.name
        edited.write_text(SCRIPT.read_text() + "\n# edited\n")
        with distributed.Client(address, timeout=30) as client:
            client.upload_file(str(edited))
    errors = sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 1
    assert "a worker joined with" in errors
    assert errors.count("\n") == 1
    assert "--resume" in errors


def test_an_unreachable_scheduler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compete_to_compute.SCHEDULER_SECONDS <= 8  # ten, with starting and importing
    monkeypatch.setattr(compete_to_compute, "SCHEDULER_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"^--dask tcp://127.0.0.1:1: no scheduler answers .*$"):
        main(options(tmp_path, "--dask", "tcp://127.0.0.1:1"))
