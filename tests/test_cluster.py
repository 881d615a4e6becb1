"""Sweeps on a real Dask cluster: a scheduler and workers in processes of their own."""

from __future__ import annotations

import json
import logging
import os
import platform
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest

import compete.runs
import compete.workers
import compete_to_compute as ctc
from compete.files import InputError, Stopped
from compete.machine import blas
from compete_to_compute import main

SCRIPT = Path(ctc.__file__)
SMALL = "--hidden 50 --train-per-class 200 --epochs 2 --jobs 1".split()


class Cluster:
    """A scheduler and workers; their processes start where nothing leads to this project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.scheduler = self.start({}, "scheduler", "--host", "127.0.0.1", "--port", port)
        self.address = f"tcp://127.0.0.1:{port}"
        self.client = distributed.Client(self.address, timeout=60, set_as_default=False)

    def start(self, variables: dict[str, str], what: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *more]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment.update(variables)
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, stderr=subprocess.DEVNULL
        )

    def start_workers(self, *variables: dict[str, str]) -> None:
        """A worker for each set of variables; returns once the scheduler has them."""
        options = ("--no-nanny", "--nthreads", "1")
        self.workers += [self.start(own, "worker", self.address, *options) for own in variables]
        self.client.wait_for_workers(len(self.workers), timeout=60)

    def kill_workers(self) -> None:
        """Returns once the scheduler knows."""
        while self.workers:
            self.workers[-1].kill()
            self.workers.pop().wait()
        while self.client.scheduler_info()["workers"]:
            time.sleep(0.01)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("elsewhere"))
    yield started
    started.client.close()
    started.scheduler.kill()
    started.scheduler.wait()


@pytest.fixture
def cluster(scheduler: Cluster) -> Iterator[Cluster]:
    """The scheduler, without a worker."""
    yield scheduler
    scheduler.kill_workers()


def options(folder: Path, *more: str) -> list[str]:
    """A small sweep that writes into a folder."""
    return ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz"), *SMALL, *more]


def disturb(monkeypatch: pytest.MonkeyPatch, disturbance: Callable[[], Any]) -> list[Any]:
    """Call `disturbance` as a sweep has its third run; the list fills with the runs it has."""
    seen: list[Any] = []
    side_by_side = compete.runs.side_by_side

    def disturbed(*arguments: Any) -> Iterator[Any]:
        for run in side_by_side(*arguments):
            seen.append(run)
            if len(seen) == 3:
                disturbance()
            yield run

    monkeypatch.setattr(compete.runs, "side_by_side", disturbed)
    return seen


def test_a_cluster_that_would_compute_something_else_is_refused_before_work_starts(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assert_refused(message: str) -> None:
        with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$"):
            main(options(tmp_path, "--dask", cluster.address))
        assert not (tmp_path / "r.json").exists()

    assert_refused("no worker there")
    cluster.start_workers({})
    with monkeypatch.context() as patch:
        patch.setattr(np, "__version__", "1.0")  # as if a worker joined after the comparison
        with pytest.raises(Stopped, match=r"^a worker joined with numpy [^\n]*$"):
            main(options(tmp_path, "--dask", cluster.address, "--n-seeds", "2"))
    for name in ("numpy", "python"):
        told = cluster.client.get_versions()
        told["client"]["packages"][name] = "1.0"
        monkeypatch.setattr(distributed.Client, "get_versions", lambda client, told=told: told)
        assert_refused(f"has {name} [^ ]*, not 1.0 as here")
        monkeypatch.undo()


def test_a_sweep_survives_a_killed_worker_with_the_same_bits(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is computed by a worker that joins later. It is the script itself that runs,
    whose functions no worker can import."""

    def replace_worker() -> None:
        cluster.kill_workers()
        cluster.start_workers({})

    remote, local = tmp_path / "remote", tmp_path / "local"
    cluster.start_workers({})
    command = options(remote, "--dask", cluster.address, "--n-seeds", "5", "--quiet")
    with monkeypatch.context() as patch:
        runs = disturb(patch, replace_worker)
        patch.setattr(sys, "argv", [str(SCRIPT), *command])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0
    assert len(runs) == 10  # none came twice
    main(options(local, "--n-seeds", "5", "--quiet"))
    here, there = (json.loads((f / "r.json").read_text()) for f in (local, remote))
    for part in ("config", "schedule", "per_seed", "aggregate"):
        assert here[part] == there[part]


def test_a_worker_with_another_blas_kernel_works_and_is_recorded(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    if not str(blas()["blas"]).startswith("openblas") or platform.machine() != "x86_64":
        pytest.skip("only OpenBLAS takes its kernel from a variable, and this one is x86's")
    cluster.start_workers({}, {"OPENBLAS_CORETYPE": "Nehalem"})
    assert main(options(tmp_path, "--dask", cluster.address, "--n-seeds", "4")) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["per_seed"]
    assert len({row["blas_kernel"] for row in rows}) == 2
    assert "2 BLAS kernels" in capsys.readouterr().out


def test_an_address_without_a_scheduler_is_one_line_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compete.workers, "SCHEDULER_SECONDS", 0.5)
    # A web server answers with what is no message of Dask's, the other socket with nothing.
    web = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with web, socket.create_server(("127.0.0.1", 0)) as silent:
        ports = [1, web.server_port, silent.getsockname()[1]]
        addresses = ["", "nonsense", "127.0.0.1", "tls://127.0.0.1:1"]
        for address in [*addresses, *(f"tcp://127.0.0.1:{port}" for port in ports)]:
            with pytest.raises(InputError, match=f"^--dask {address!r}: no scheduler answers .*$"):
                main(options(tmp_path, "--dask", address))
        web.shutdown()
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_without_mnist_and_a_scheduler_that_dies_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("distributed.client").addHandler(caplog.handler)
    cluster = Cluster(tmp_path)
    try:
        cluster.start_workers({"MNIST_DIR": "/nowhere"})
        with pytest.raises(InputError, match=r"^/nowhere[^\n]*$"):
            main(options(tmp_path, "--dask", cluster.address, "--n-seeds", "2"))
        cluster.kill_workers()
        cluster.start_workers({})
        disturb(monkeypatch, cluster.scheduler.kill)
        with pytest.raises(Stopped, match=r"^[^\n]*the cluster failed[^\n]*go on with --resume$"):
            main(options(tmp_path, "--dask", cluster.address, "--n-seeds", "50"))
        assert caplog.records == []
    finally:
        cluster.client.close()
        for process in (cluster.scheduler, *cluster.workers):
            process.kill()
            process.wait()
