"""Sweeps on a real Dask cluster: a scheduler and workers in processes of their own."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

import compete_to_compute
from compete_to_compute import InputError, blas, main

SCRIPT = Path(compete_to_compute.__file__)
SMALL = "--hidden 50 --train-per-class 200 --epochs 2 --quiet".split()


class Cluster:
    """A scheduler on loopback; its processes start in folders from which nothing leads here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        self.start("scheduler", "--host", "127.0.0.1", "--port", str(port))

    def start(self, what: str, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard"]
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=self.folder,
            env={**environment, **variables},
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def client(self) -> distributed.Client:
        return distributed.Client(self.address, timeout=30)

    def start_worker(self, patch: str = "", **variables: str) -> subprocess.Popen[bytes]:
        """Returns once the scheduler has it; the worker runs `patch` as it starts."""
        if patch:
            folder = self.folder / f"patch{len(self.processes)}"
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(patch)
            variables["PYTHONPATH"] = str(folder)
        with self.client() as client:
            workers = len(client.scheduler_info()["workers"]) + 1
            process = self.start(
                "worker", self.address, "--no-nanny", "--nthreads", "1", **variables
            )
            client.wait_for_workers(workers, timeout=30)
        return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "elsewhere").mkdir()
    started = Cluster(tmp_path / "elsewhere")
    yield started
    for process in reversed(started.processes):
        process.kill()
        process.wait()


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


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_a_sweep_survives_a_killed_worker_with_the_same_bits(
    tmp_path: Path, cluster: Cluster
) -> None:
    victim = cluster.start_worker()
    cluster.start_worker()
    remote, local = tmp_path / "remote", tmp_path / "local"
    sweep = start_sweep(remote, "--dask", cluster.address, "--n-seeds", "8")
    victim.kill()
    assert sweep.communicate(timeout=60)[1] == ""
    assert sweep.returncode == 0
    main(options(local, "--n-seeds", "8"))
    here, there = read(local / "r.json"), read(remote / "r.json")
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert here[part] == there[part]
    assert len((remote / "r.json.journal").read_text().splitlines()) == 1 + 16  # none came twice
    with cluster.client() as client:
        (threads,) = (there["blas_threads"] for there in client.run(blas).values())
    assert threads == 1


def test_a_worker_with_another_blas_kernel_works_and_is_recorded(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    if not str(blas()["blas"]).startswith("openblas") or platform.machine() != "x86_64":
        pytest.skip("only OpenBLAS takes its kernel from a variable, and this one is x86's")
    cluster.start_worker()
    cluster.start_worker(OPENBLAS_CORETYPE="Nehalem")
    arguments = options(tmp_path, "--dask", cluster.address, "--n-seeds", "4")
    arguments.remove("--quiet")
    assert main(arguments) == 0
    assert len({row["blas_kernel"] for row in read(tmp_path / "r.json")["per_seed"]}) == 2
    assert "2 BLAS kernels" in capsys.readouterr().out


def test_a_cluster_that_would_compute_something_else_is_refused_before_work_starts(
    tmp_path: Path, cluster: Cluster
) -> None:
    patches = {
        "": "no worker there",
        "import numpy; numpy.__version__ = '1.0'": f"has numpy 1.0, not {np.__version__} as here",
        "import platform; platform.python_version = lambda: '3.0'": "has python 3.0, not",
        "import sys; sys.modules['numpy'] = None": "cannot load this project",
    }
    for patch, message in patches.items():
        worker = cluster.start_worker(patch) if patch else None
        with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
            main(options(tmp_path, "--dask", cluster.address))
        assert not (tmp_path / "r.json").exists()
        if worker:
            worker.kill()
            with cluster.client() as client:
                while client.scheduler_info()["workers"]:
                    time.sleep(0.01)


@pytest.mark.parametrize("change", ["numpy", "source"])
def test_a_sweep_stops_where_workers_become_other_ones(
    change: str, tmp_path: Path, cluster: Cluster
) -> None:
    cluster.start_worker()
    sweep = start_sweep(tmp_path, "--dask", cluster.address, "--n-seeds", "1000")
    if change == "numpy":  # of a worker that joins
        cluster.start_worker("import numpy; numpy.__version__ = '1.0'")
    else:  # another version of this project goes to work on the same cluster
        edited = tmp_path / SCRIPT.name
        edited.write_text(SCRIPT.read_text() + "\n# edited\n")
        with cluster.client() as client:
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
