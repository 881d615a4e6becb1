"""The scripts in surroundings that are not theirs: pipes, disks, environments, interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compete_to_compute import main

ROOT = Path(__file__).parents[1]
TINY = "--hidden 20 --depth 1 --train-per-class 20 --test-per-task 50 --epochs 1".split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a tiny run left."""
    folder = tmp_path_factory.mktemp("saved")
    files = ["--out", f"{folder}/results.json", "--snapshots", f"{folder}/viz/snapshots.npz"]
    main([*files, *TINY, "--quiet"])
    return folder


def run(
    folder: Path, *command: str, stdout: int | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with its errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="these devices are POSIX")
@pytest.mark.parametrize("where", ["a closed pipe", "a full disk"])
def test_output_that_nobody_can_take_does_not_keep_a_script_from_its_files(
    where: str, saved: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stdout = writer if where == "a closed pipe" else os.open("/dev/full", os.O_WRONLY)
    for script, files in {
        "compete_to_compute.py": ["results.json", "viz/snapshots.npz"],
        "visualize_compete_to_compute.py": ["viz/training_curves.png", "viz/winner_freq.png"],
        "make_compete_to_compute_gif.py": ["compete_to_compute.gif"],
    }.items():
        for file in files:
            (saved / file).unlink(missing_ok=file != "viz/snapshots.npz")
        options = TINY if script == "compete_to_compute.py" else []
        result = run(saved, str(ROOT / script), *options, stdout=stdout)
        assert result.returncode == 0
        assert result.stderr.count("\n") == (where == "a full disk")
        assert all((saved / file).is_file() for file in files)


def test_a_notebook_s_backend_and_a_user_s_matplotlibrc_change_no_figure(saved: Path) -> None:
    (saved / "matplotlibrc").write_text("text.usetex: True\nfont.size: 30\n")
    drawn = []
    for variables in ({}, {"MPLBACKEND": "module://none", "MATPLOTLIBRC": str(saved)}):
        result = run(saved, str(ROOT / "visualize_compete_to_compute.py"), **variables)
        assert result.returncode == 0, result.stderr
        drawn.append((saved / "viz" / "winner_freq.png").read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_a_missing_package_is_one_line_with_what_installs_it(script: str, tmp_path: Path) -> None:
    for package in ("numpy", "matplotlib"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(
            f"raise ModuleNotFoundError('no {package}', name='{package}')"
        )
    result = run(tmp_path, str(ROOT / script), PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert "is missing: python3 -m pip install -r requirements.txt" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_script_that_was_copied_alone_says_that_the_repository_is_needed(tmp_path: Path) -> None:
    (tmp_path / "compete_to_compute.py").write_bytes((ROOT / "compete_to_compute.py").read_bytes())
    alone = run(tmp_path, "compete_to_compute.py", PYTHONPATH="")
    isolated = run(ROOT, "-I", str(ROOT / "compete_to_compute.py"))
    for result in (alone, isolated):
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert "take the whole repository" in result.stderr
