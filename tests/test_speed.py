"""What speed compares with is what it says, and what it does not measure is kept."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from compete.data import Mnist
from compete.files import Stopped
from compete_to_compute import ACTIVATIONS, MLP, Config, train_model
from study import speed

SMALL = Config(hidden=12, train_per_class=4, test_per_task=30, epochs=2, batch=8)


def test_the_floor_has_the_products_of_training(mnist: Mnist) -> None:
    with (
        patch.object(MLP, "forward", autospec=True, side_effect=MLP.forward) as forward,
        patch.object(MLP, "backward", autospec=True, side_effect=MLP.backward) as backward,
    ):
        train_model(SMALL, ACTIVATIONS["relu"], 0, mnist)
    expected: Counter[tuple[int, int, int]] = Counter()
    for n in (len(call.args[1]) for call in forward.call_args_list):
        expected.update([(12, 784, n), (12, 12, n), (10, 12, n)])
    for n in (len(call.args[1]) for call in backward.call_args_list):
        expected.update([(10, n, 12), (12, n, 12), (12, n, 784), (12, 10, n), (12, 12, n)])
    with patch.object(np, "matmul", wraps=np.matmul) as matmul:
        speed.matrix_products(SMALL)()
    products = [call.args for call in matmul.call_args_list]
    assert Counter((len(a), len(b), b.shape[1]) for a, b in products) == expected


def test_the_command_measures_and_prints_what_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("one seed", "visualise", "animate")
    monkeypatch.setattr(speed, "SIZES", {"default": SMALL})
    monkeypatch.setattr(speed, "commands", lambda folder: {name: ["-c", ""] for name in names})
    out = tmp_path / "speed.json"
    assert speed.main(["--rounds", "1", "--out", str(out)]) == 0
    report, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert all(f"{title}\n\n{table}\n" in printed for title, table in speed.tables(report).items())
    found = speed.quantities(report)
    assert found["training.default.lwta.over_floor"] > 0
    total = sum(found[f"processes.{name}.seconds"] for name in names)
    assert found["processes.all of one seed.seconds"] == total


def test_what_fails_is_said_with_its_reason() -> None:
    with pytest.raises(Stopped, match="failed: ZeroDivisionError"):
        speed.run_python(["-c", "1 / 0"])
