"""Activations from a user's file: found, checked, trained in any process, never mistaken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from compete_to_compute import InputError, main

TINY = "--hidden 8 --depth 1 --train-per-class 20 --test-per-task 50 --epochs 1 --quiet".split()
RELU = """
import numpy as np

def positive(z):
    return z > 0

def mine(z, gate, k):
    gate[:] = positive(z)
    z *= gate
"""


def train(folder: Path, *more: str) -> dict[str, Any]:
    """Train tiny networks in a folder; the results."""
    files = ["--out", f"{folder}/r.json", "--snapshots", f"{folder}/s.npz"]
    assert main([*files, *TINY, *more]) == 0
    return json.loads((folder / "r.json").read_text())


def test_a_function_of_a_file_trains_like_ours_in_worker_processes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.py").write_text(RELU)
    (tmp_path / "b.py").write_text(RELU.replace("gate[:] = positive(z)", "gate[:] = 1"))
    models = ["relu", "a.py:mine", "b.py:mine"]
    options = ["--activations", *models, "--n-seeds", "2", "--jobs", "2"]
    runs = {(r["model"], r["seed"]): r for r in train(tmp_path, "--paired", *options)["per_seed"]}
    assert len(runs) == 6
    for seed in (0, 1):
        ours, same, other = (runs[model, seed]["accuracy_matrix"] for model in models)
        assert ours == same != other
    unpaired = train(tmp_path, *options, "--n-seeds", "1")
    ours, same, _ = (row["accuracy_matrix"] for row in unpaired["per_seed"])
    assert ours == same, "its own batches are drawn from seed + 100, as ReLU's are"
    labels = [activation["label"] for activation in unpaired["activations"].values()]
    assert labels == ["ReLU", "mine (a)", "mine (b)"]


def test_the_example_of_contributing_trains(tmp_path: Path) -> None:
    page = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    rows = train(tmp_path, "--activations", "relu", f"{tmp_path}/mine.py:leaky")["per_seed"]
    assert rows[0]["accuracy_matrix"] != rows[1]["accuracy_matrix"]


def test_resuming_with_an_edited_function_is_refused_but_not_for_a_comment(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text(RELU)
    options = ["--activations", f"{file}:mine", "--n-seeds", "2", "--resume", "--jobs", "1"]
    first = train(tmp_path, *options)
    file.write_text(RELU.replace("return z > 0", '"""Yes."""\n    return z > 0  # or no'))
    assert train(tmp_path, *options)["per_seed"] == first["per_seed"]
    file.write_text(RELU.replace("z > 0", "z > 1"))
    with pytest.raises(InputError, match=r"a\.py:mine was edited since its runs"):
        train(tmp_path, *options)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("gate[:] = z > 0; z[:] = np.where(z > 0, z, 0.1 * z)", "gate is not the derivative"),
        ("gate[:] = z == z.max(axis=1, keepdims=True); z *= gate", "depend on the other images"),
        ("gate[:] = z > 0; z = z * gate", "must be changed in place"),
        ("z[z < 0] = 0", "not finite"),
        ("gate[:] = 1; z *= np.float32(3e38); z *= 10; z /= 10", "not finite"),
        ("z.reshape(-1, 3, z.shape[1])", "it raises ValueError"),
        ("gate[:] = 1; z -= z.mean(axis=0)", "gate is not the derivative"),
    ],
)
def test_a_function_that_breaks_the_contract_is_refused_and_told_how(
    body: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(f"import numpy as np\ndef f(z, gate, k): {body}\n")
    with pytest.raises(InputError, match=reason) as refused:
        train(tmp_path, "--activations", f"{tmp_path}/own.py:f")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["own.py"], "nothing was written"


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (None, "own.py:f", "No such file"),
        ("def g(): pass", "own.py:f", "no attribute 'f'"),
        ("f = 3", "own.py:f", "that is no function"),
        ("def f(:", "own.py:f", "SyntaxError"),
        ("import sys; sys.exit(3)", "own.py:f", "SystemExit: 3"),
        ("", "leaky", "there are relu, lwta, sigmoid and FILE.py:FUNCTION"),
    ],
)
def test_a_function_that_cannot_be_found_is_one_line(
    text: str | None, name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    with pytest.raises(InputError, match=reason) as refused:
        train(tmp_path, "--activations", name)
    assert "\n" not in str(refused.value)
