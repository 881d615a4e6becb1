"""Activations from a user's file: found, checked, trained in any process, never mistaken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compete_to_compute import InputError, main

ROOT = Path(__file__).parents[1]
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


def test_the_example_of_contributing_trains(tmp_path: Path) -> None:
    page = Path(__file__).parents[1].joinpath("CONTRIBUTING.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(example)
    rows = train(tmp_path, "--activations", "relu", f"{tmp_path}/mine.py:leaky")["per_seed"]
    assert rows[0]["accuracy_matrix"] != rows[1]["accuracy_matrix"]


def test_an_edited_function_or_helper_is_trained_anew_and_a_moved_one_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time in a process of its own, as a user would."""
    first, moved = tmp_path / "first", tmp_path / "moved"
    helper = "def positive(z):\n    return z > 0\n"
    for folder in (first, moved):
        folder.mkdir()
        (folder / "own.py").write_text(RELU.replace(helper, "from helper import positive\n"))
        (folder / "helper.py").write_text(helper)

    def finished(file: Path) -> int:
        command = [sys.executable, str(ROOT / "compete_to_compute.py"), *TINY[:-1], "--resume"]
        command += ["--activations", f"{file}:mine", "--n-seeds", "3", "--jobs", "2"]
        files = ["--out", f"{tmp_path}/r.json", "--snapshots", f"{tmp_path}/s.npz"]
        told = subprocess.run([*command, *files], capture_output=True, text=True, cwd=first)
        assert told.returncode == 0, told.stderr
        (found,) = re.findall(r"(\d) of 3 runs are finished", told.stderr) or ["0"]
        return int(found)

    assert finished(first / "own.py") == 0
    assert finished(Path("./own.py")) == finished(moved / "own.py") == 3
    (first / "helper.py").write_text(helper.replace("z > 0", "z > 0  # or no"))
    assert finished(first / "own.py") == 3, "a comment changes nothing"
    (first / "helper.py").write_text(helper.replace("z > 0", "z > 0.5"))
    assert finished(first / "own.py") == 0


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + RELU.encode(),
        b"# -*- coding: latin-1 -*-\n# \xe9\n" + RELU.encode(),
        b"from dataclasses import dataclass\nfrom functools import cache\n"
        b"@dataclass\nclass Slope:\n    value: int = 1\n"
        b"@cache\ndef slope(): return Slope()\n"
        + RELU.encode().replace(b"= positive(z)", b"= positive(z) * slope().value"),
    ],
    ids=["byte order mark", "coding cookie", "dataclass and cache"],
)
def test_a_file_is_a_module_like_any_other(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_bytes(content)  # a library's name, which keeps its library
    model = f"{tmp_path}/json.py:mine"
    options = ["--activations", "relu", model, "--n-seeds", "2", "--jobs", "2", "--paired"]
    ours, own, *_ = train(tmp_path, *options)["per_seed"]
    assert ours["accuracy_matrix"] == own["accuracy_matrix"]
    assert own["model"] == "json.py:mine"


def test_two_files_of_one_name_are_told_apart_with_their_helpers_in_any_process(
    tmp_path: Path,
) -> None:
    for folder, threshold in (("a", "0"), ("b", "0.5")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper.py").write_text(f"THRESHOLD = {threshold}")
        text = "import helper\n" + RELU.replace("z > 0", "z > helper.THRESHOLD")
        (tmp_path / folder / "own.py").write_text(text)
    models = ["relu", *(f"{tmp_path}/{folder}/own.py:mine" for folder in "ab")]
    # Not --paired: an own function's batches are drawn from seed + 100, as ReLU's are.
    options = ["--n-seeds", "2", "--jobs", "2"]
    found = train(tmp_path, "--activations", *models, *options)
    labels = [activation["label"] for activation in found["activations"].values()]
    assert labels == ["ReLU", "mine (a/own)", "mine (b/own)"]
    ours, same, other, *_ = (row["accuracy_matrix"] for row in found["per_seed"])
    assert ours == same != other, "each has the helper of its own folder"
    (tmp_path / "b" / "helper.py").write_text("THRESHOLD = 0")
    anew = train(tmp_path, "--activations", models[-1])["per_seed"]
    assert anew[0]["accuracy_matrix"] == ours, "an edit counts in this process too"


def test_a_function_called_relu_is_checked_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def relu(z, gate, k): gate[:] = 2\n")
    with pytest.raises(InputError, match="z stays as it is"):
        train(tmp_path, "--activations", f"{tmp_path}/wrong.py:relu")


BODIES = {
    "gate[:] = z > 0; z[:] = np.where(z > 0, z, 0.1 * z)": "gate is not the derivative",
    "gate[:] = z == z.max(axis=1, keepdims=True); z *= gate": "depend on the other images",
    "gate[:] = z > 0; z = z * gate": "must be changed in place",
    "z[z < 0] = 0": "not finite",
    "gate[:] = 1; z *= np.float32(3e38); z *= 10; z /= 10": "not finite",
    "z.reshape(-1, 3, z.shape[1])": "it raises ValueError",
    "gate[:] = 1; z -= z.mean(axis=0)": "gate is not the derivative",
}
FILES = {
    None: "No such file",
    "def g(): pass": "has no such function",
    "f = 3": "has no such function",
    "def f(:": r"SyntaxError.*own\.py, line 1",
    "import sys; sys.exit(3)": "SystemExit: 3",
    **{f"import numpy as np\ndef f(z, gate, k): {body}\n": BODIES[body] for body in BODIES},
}


@pytest.mark.parametrize(("text", "reason"), FILES.items())
def test_a_function_that_is_not_there_or_breaks_the_contract_is_refused_in_one_line(
    text: str | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=rf"^[^\n]*{reason}[^\n]*$"):
        train(tmp_path, "--activations", f"{file}:f")
    assert {*tmp_path.iterdir()} <= {file}, "nothing was written"
    with pytest.raises(InputError, match=r"there are relu, lwta, sigmoid and FILE\.py:FUNCTION"):
        train(tmp_path, "--activations", "leaky")
