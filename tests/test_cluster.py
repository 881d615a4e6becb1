"""A sweep on a real Dask cluster: a scheduler and workers in processes of their own."""

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
from compete_to_compute import blas, main

SCRIPT = Path(compete_to_compute.__file__)
SMALL = "--hidden 100 --train-per-class 300 --epochs 2 --n-seeds 5 --quiet".split()


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in reversed(started):
        process.kill()
        process.wait()


@pytest.fixture
def address(processes: list[subprocess.Popen[bytes]]) -> str:
    """A scheduler's address on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    processes.append(
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stderr=subprocess.DEVNULL
        )
    )
    return f"tcp://127.0.0.1:{port}"


@pytest.fixture
def start_worker(
    processes: list[subprocess.Popen[bytes]], address: str
) -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a worker whose project is in a folder, and waits until the scheduler has it."""

    def start(project: Path = SCRIPT.parent, **variables: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
        before = sum("dask_worker" in " ".join(map(str, p.args)) for p in processes)
        worker = subprocess.Popen(
            [*command, "--nthreads", "1", "--no-dashboard"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project), **variables},
            stderr=subprocess.DEVNULL,
        )
        processes.append(worker)
        with distributed.Client(address, timeout=30) as client:
            client.wait_for_workers(before + 1, timeout=30)
        return worker

    return start


def options(folder: Path, *more: str) -> list[str]:
    """A small sweep that writes into a folder."""
    return ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz"), *SMALL, *more]


def test_a_sweep_survives_a_killed_worker_with_the_same_bits(
    tmp_path: Path, address: str, start_worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    victim = start_worker()
    start_worker()
    remote, local = tmp_path / "remote", tmp_path / "local"
    sweep = subprocess.Popen([sys.executable, str(SCRIPT), *options(remote, "--dask", address)])
    journal = remote / "r.json.journal"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert sweep.poll() is None
        time.sleep(0.01)
    victim.kill()
    assert sweep.wait(timeout=60) == 0
    main(options(local))
    here, there = (json.loads((folder / "r.json").read_text()) for folder in (local, remote))
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert here[part] == there[part]
    arrived = [json.loads(line)["record"] for line in journal.read_text().splitlines()[1:]]
    units = [(row["seed"], row["model"]) for row in arrived]
    assert sorted(units) == sorted({(row["seed"], row["model"]) for row in here["per_seed"]})
    with distributed.Client(address, timeout=30) as client:
        (threads,) = (found["blas_threads"] for found in client.run(blas).values())
    assert threads == 1


def test_a_worker_with_another_blas_kernel_works_and_is_recorded(
    tmp_path: Path,
    address: str,
    start_worker: Callable[..., subprocess.Popen[bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not str(blas()["blas"]).startswith("openblas"):
        pytest.skip("only OpenBLAS takes its kernel from a variable")
    start_worker()
    start_worker(OPENBLAS_CORETYPE="Nehalem")
    loud = [option for option in options(tmp_path, "--dask", address) if option != "--quiet"]
    assert main(loud) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["per_seed"]
    kernels = {row["blas_kernel"] for row in rows}
    assert len(kernels) == 2
    assert "2 BLAS kernels" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["compete_to_compute.py", "numpy", "python", "nothing"])
def test_a_worker_with_other_software_is_refused_before_work_starts(
    tmp_path: Path, address: str, start_worker: Callable[..., subprocess.Popen[bytes]], what: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    if what != "nothing":
        change = "\n# changed\n" if what == "compete_to_compute.py" else ""
        (project / SCRIPT.name).write_text(SCRIPT.read_text() + change)
    # As if the worker's numpy or Python were another one.
    patches = {
        "numpy": "import numpy; numpy.__version__ = '1.0'",
        "python": "import platform; platform.python_version = lambda: '3.0'",
    }
    (project / "sitecustomize.py").write_text(patches.get(what, ""))
    start_worker(project)
    with pytest.raises(compete_to_compute.InputError) as caught:
        main(options(tmp_path, "--dask", address))
    message = str(caught.value)
    if what == "nothing":
        assert "cannot load this project" in message
    else:
        theirs = {"numpy": "1.0", "python": "3.0"}.get(what, "")
        ours = {"numpy": np.__version__}.get(what, "")
        assert f"has {what} {theirs}" in message
        assert ours in message
    assert "\n" not in message
    assert not (tmp_path / "r.json").exists()


def test_an_unreachable_scheduler_is_one_line_within_ten_seconds(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *options(tmp_path, "--dask", "tcp://127.0.0.1:1")]
    refused = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=20)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "no scheduler answers" in refused.stderr
    limit = compete_to_compute.SCHEDULER_SECONDS
    assert limit <= 8, "the rest of ten seconds is for starting and importing"


def test_a_scheduler_that_cannot_load_the_project_is_refused_in_one_line(tmp_path: Path) -> None:
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    scheduler = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path,
        env=elsewhere,
        stderr=subprocess.DEVNULL,
    )
    address = f"tcp://127.0.0.1:{port}"
    try:
        with distributed.Client(address, timeout=30):
            pass
        with pytest.raises(
            compete_to_compute.InputError, match="cannot load this project"
        ) as caught:
            main(options(tmp_path, "--dask", address))
    finally:
        scheduler.kill()
        scheduler.wait()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r.json").exists()
