"""The way in from Python: the page's example, notebooks, and an installed copy."""

from __future__ import annotations

import functools
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from compete.machine import blas
from compete.workers import OURS, pickled
from compete_to_compute import Config, InputError, relu, run_seeds

ROOT = Path(__file__).parents[1]
TINY = Config(hidden=20, depth=1, train_per_class=50, test_per_task=50, epochs=6, paired=True)


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL
    )
    (tmp_path / "example.py").write_text(example)
    command = [sys.executable, str(tmp_path / "example.py")]
    output = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), **os.environ}, capture_output=True
    )
    assert output.returncode == 0, output.stderr.decode()
    assert output.stdout.decode().count("\n") == 4
    assert b"leaky" in output.stdout


def test_run_seeds_trains_names_and_functions_side_by_side_or_not() -> None:
    alone = run_seeds(TINY, ["relu", "lwta"], [3, 1])
    assert [(r["seed"], r["model"]) for r in alone["per_seed"]] == [
        *((3, "relu"), (3, "lwta"), (1, "relu"), (1, "lwta"))
    ]
    assert run_seeds(TINY, ["relu", "lwta"], [3, 1], jobs=2) == alone
    assert alone["aggregate"]["pairs"][0]["difference"]["n"] == 2
    assert run_seeds(TINY, [relu], [1])["per_seed"] == [alone["per_seed"][2]]


def test_functions_that_nobody_can_import_train_in_worker_processes_too() -> None:
    factor = 2

    @functools.cache
    def power(exponent: int) -> int:
        return factor * power(exponent - 1) if exponent else 1

    def double(z: np.ndarray, gate: np.ndarray, k: int) -> None:
        z *= power(1)
        gate[:] = power(1)

    alone = run_seeds(TINY, ["relu", double], [0, 1])
    assert run_seeds(TINY, ["relu", double], [0, 1], jobs=2) == alone
    assert alone["per_seed"][1]["model"] == "double"
    with pytest.raises(InputError, match="must be changed in place"):
        run_seeds(TINY, [lambda z, gate, k: gate.fill(2)], [0])
    with pytest.raises(InputError, match="two models have one name"):
        run_seeds(TINY, ["relu", relu], [0])
    lock = threading.Lock()
    with pytest.raises(InputError, match=r"^this cannot travel[^\n]*lock[^\n]*give one job$"):
        run_seeds(TINY, ["relu", lambda z, gate, k: lock and relu(z, gate, k)], [0, 1], jobs=2)


def test_what_others_can_import_travels_by_its_name_but_to_a_cluster() -> None:
    assert pickle.loads(pickled(blas)) is blas  # functools.cache
    copy = pickle.loads(pickled(blas, OURS))
    assert copy is not blas
    assert copy() == blas()


@pytest.mark.parametrize("command", [["-"], ["unguarded.py"], ["-m", "cProfile", "unguarded.py"]])
def test_a_program_without_a_main_guard_trains_in_worker_processes(
    command: list[str], tmp_path: Path
) -> None:
    options = "--hidden 20 --depth 1 --train-per-class 20 --epochs 1 --n-seeds 2 --jobs 2"
    starts = f"import compete_to_compute as c; c.main({options.split()})"
    (tmp_path / "unguarded.py").write_text(starts)
    result = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=starts,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert (tmp_path / "results.json").exists()
