"""What the benchmark compares with is what it says."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark
from compete_to_compute import Config, InputError, Stopped


def test_the_floor_has_the_products_of_training_and_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = Config(hidden=12, train_per_class=4, test_per_task=30, epochs=2, batch=8)
    found: Counter[tuple[int, int, int]] = Counter()
    real = np.matmul

    def record(a: np.ndarray, b: np.ndarray, **keywords: Any) -> np.ndarray:
        found[len(a), len(b), b.shape[1]] += 1
        return real(a, b, **keywords)

    monkeypatch.setattr(np, "matmul", record)
    benchmark.matrix_products(config)()

    def forward(n: int) -> Counter[tuple[int, int, int]]:
        return Counter([(12, 784, n), (12, 12, n), (10, 12, n)])

    expected: Counter[tuple[int, int, int]] = Counter()
    for n in (8, 8, 4) * 4:  # 20 images, two tasks, two epochs
        expected += forward(n)
        expected += Counter([(10, n, 12), (12, n, 12), (12, n, 784), (12, 10, n), (12, 12, n)])
    for _ in range(2 * (1 + 4)):  # both tasks, before training and after each epoch
        expected += forward(30)
    assert found == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a process's memory")
def test_a_process_that_fails_is_said_with_its_reason() -> None:
    elapsed, peak = benchmark.run_process(["-c", "pass"])
    assert 0 < elapsed < 60
    assert peak > 1
    with pytest.raises(Stopped, match="failed: ZeroDivisionError"):
        benchmark.run_process(["-c", "1 / 0"])


def test_a_damaged_report_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    assert benchmark.saved_report(path) == {}
    path.write_text('{"peers": ')
    with pytest.raises(InputError, match=r"b\.json: cannot be read"):
        benchmark.main(["--out", str(path), "--rounds", "1"])
    assert path.read_text() == '{"peers": '
