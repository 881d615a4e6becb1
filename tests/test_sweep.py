"""Sweeps that are killed, interrupted, run out of disk, or are resumed with something else."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import compete_to_compute
from compete_to_compute import InputError, main

SCRIPT = Path(compete_to_compute.__file__)
TINY = "--hidden 4 --depth 1 --train-per-class 20 --test-per-task 50 --epochs 1".split()


def options(folder: Path, *more: str) -> list[str]:
    """A tiny sweep that writes into a folder."""
    files = ["--out", str(folder / "r.json"), "--snapshots", str(folder / "s.npz")]
    return [*files, *TINY, "--quiet", *more]


def results(folder: Path) -> dict[str, Any]:
    """The parts of results.json that a resumed sweep must reproduce bit for bit."""
    found = json.loads((folder / "r.json").read_text())
    return {key: found[key] for key in ("config", "schedule", "per_seed", "aggregate")}


def test_a_sweep_killed_twenty_times_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    main(options(undisturbed, "--n-seeds", "100"))
    command = [sys.executable, str(SCRIPT), *options(killed, "--n-seeds", "100", "--resume")]
    journal = killed / "r.json.journal"
    moments = random.Random(0)
    kills, sizes = 0, set()

    def finished() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    while kills < 20:
        enough = finished() + moments.randrange(30)
        # Every other time without worker processes, which are half of what starting takes.
        process = subprocess.Popen([*command, "--jobs", str(1 + kills % 2)])
        time.sleep(moments.uniform(0, 0.3))
        while process.poll() is None and finished() < enough:
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()  # kill -9 on POSIX
            process.wait()
            kills += 1
            sizes.add(journal.stat().st_size if journal.exists() else 0)
        else:  # it finished before: begin again, so that every kill hits a sweep under way
            assert process.returncode == 0
            assert results(killed) == results(undisturbed)
            (killed / "r.json").unlink()
            journal.unlink()
    assert len(sizes) > 3, "the kills did not hit the sweep at different moments"
    assert subprocess.run(command).returncode == 0
    assert results(killed) == results(undisturbed)
    assert (killed / "s.npz").read_bytes() == (undisturbed / "s.npz").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_at_once_and_keeps_what_is_finished(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), *options(tmp_path, "--n-seeds", "5000")]

    def heed_ctrl_c() -> None:
        """A shell's background jobs, and what they start, ignore it."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    journal = tmp_path / "r.json.journal"
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 5):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=5)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    assert "--resume" in errors
    lines = journal.read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    assert len(lines) > 5


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_stops_the_sweep_and_loses_nothing(tmp_path: Path) -> None:
    full, whole = tmp_path / "full", tmp_path / "whole"
    main(options(whole, "--n-seeds", "120"))
    limit = (whole / "s.npz").stat().st_size + 1000
    assert limit < (whole / "r.json.journal").stat().st_size, "the journal must hit the limit"
    limited = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "import sys, compete_to_compute as c; c.run_script(lambda: c.main(sys.argv[1:]))"
    )
    arguments = options(full, "--n-seeds", "120")
    stopped = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        cwd=SCRIPT.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stopped.returncode == 1
    assert "cannot be written" in stopped.stderr
    assert not (full / "r.json").exists()
    assert not list(full.glob("*.tmp"))
    saved = (full / "r.json.journal").read_bytes().count(b"\n") - 1
    assert saved > 50
    assert main([*arguments, "--resume"]) == 0
    assert results(full) == results(whole)


def test_raising_n_seeds_adds_seeds_and_keeps_the_finished_ones(tmp_path: Path) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    main(options(whole, "--n-seeds", "4"))
    main(options(grown, "--n-seeds", "2"))
    before = (grown / "r.json").read_bytes()
    (grown / "r.json.journal").unlink()  # the results alone must do
    main(options(grown, "--n-seeds", "4", "--resume"))
    assert results(grown) == results(whole)
    main(options(grown, "--n-seeds", "2", "--resume"))
    assert results(grown) == results(whole), "fewer seeds must not drop finished ones"
    assert len(before) < len((grown / "r.json").read_bytes())


def test_resuming_trains_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(options(tmp_path, "--n-seeds", "3"))
    monkeypatch.setattr(compete_to_compute, "train_model", None)
    assert main(options(tmp_path, "--n-seeds", "3", "--resume", "--jobs", "1")) == 0


def test_resuming_without_a_results_file_starts_fresh(tmp_path: Path) -> None:
    assert main(options(tmp_path, "--resume")) == 0
    assert len(results(tmp_path)["per_seed"]) == 2


def test_resuming_another_configuration_is_refused_and_names_the_field(tmp_path: Path) -> None:
    main(options(tmp_path, "--n-seeds", "2"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"lr is 0\.05 there and 0\.01 here"):
        main(options(tmp_path, "--n-seeds", "2", "--resume", "--lr", "0.01"))
    (tmp_path / "r.json").unlink()
    del before["r.json"]
    with pytest.raises(InputError, match="batch is 64 there and 32 here"):
        main(options(tmp_path, "--n-seeds", "2", "--resume", "--batch", "32"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda found: found.update(schema=0), "schema"),
        (
            lambda found: found["environment"]["mnist_sha256"].update(
                {"t10k-labels-idx1-ubyte": "0"}
            ),
            "t10k-labels-idx1-ubyte",
        ),
    ],
)
def test_resuming_another_schema_or_mnist_is_refused(
    tmp_path: Path, change: Any, named: str
) -> None:
    main(options(tmp_path))
    found = json.loads((tmp_path / "r.json").read_text())
    change(found)
    (tmp_path / "r.json").write_text(json.dumps(found))
    with pytest.raises(InputError, match=named):
        main(options(tmp_path, "--resume"))


def test_a_results_file_cut_short_is_kept_aside_and_the_journal_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(options(tmp_path, "--n-seeds", "3"))
    whole = results(tmp_path)
    content = (tmp_path / "r.json").read_bytes()
    (tmp_path / "r.json").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(compete_to_compute, "train_model", None)  # the journal has every unit
    assert main(options(tmp_path, "--n-seeds", "3", "--resume", "--jobs", "1")) == 0
    assert results(tmp_path) == whole
    assert (tmp_path / "r.json.damaged").read_bytes() == content[: len(content) // 2]
    assert "r.json.damaged" in capsys.readouterr().err


def test_a_fresh_sweep_keeps_the_journal_that_was_in_its_way(tmp_path: Path) -> None:
    main(options(tmp_path, "--n-seeds", "2"))
    journal = (tmp_path / "r.json.journal").read_bytes()
    main(options(tmp_path, "--n-seeds", "3"))
    assert (tmp_path / "r.json.journal.old").read_bytes() == journal
    later = (tmp_path / "r.json.journal").read_bytes()
    main(options(tmp_path, "--n-seeds", "2"))
    assert (tmp_path / "r.json.journal.old2").read_bytes() == later
    assert (tmp_path / "r.json.journal.old").read_bytes() == journal


def test_an_empty_journal_takes_the_place_of_no_other(tmp_path: Path) -> None:
    journal = compete_to_compute.Journal(tmp_path / "r.json", {"schema": 1})
    journal.start([])
    journal.start([])
    assert [path.name for path in tmp_path.iterdir()] == ["r.json.journal"]


def test_a_worker_that_dies_stops_the_sweep_with_one_line(tmp_path: Path) -> None:
    # The worker kills itself at the first unit, as the system does to one that takes all memory.
    code = (
        "import os, sys, compete_to_compute as c\n"
        "def die(*unit): os._exit(9)\n"
        "c.run_unit = die\n"
        "if __name__ == '__main__': c.run_script(lambda: c.main(sys.argv[1:]))\n"
    )
    script = tmp_path / "dies.py"
    script.write_text(code)
    stopped = subprocess.run(
        [sys.executable, str(script), *options(tmp_path, "--n-seeds", "3", "--jobs", "2")],
        env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stopped.returncode == 1
    assert "a worker process died" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_resuming_onto_a_file_that_is_not_ours_is_refused_and_leaves_it(tmp_path: Path) -> None:
    for content in ('{"a": 1}', "[]", "3"):
        (tmp_path / "r.json").write_text(content)
        with pytest.raises(InputError, match="not a results file of ours"):
            main(options(tmp_path, "--resume"))
        assert (tmp_path / "r.json").read_text() == content


def test_a_journal_with_a_damaged_line_loses_that_line_alone(tmp_path: Path) -> None:
    main(options(tmp_path, "--n-seeds", "3"))
    whole = results(tmp_path)
    journal = tmp_path / "r.json.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"\xff\xfe{\n", *lines[4:]]))
    (tmp_path / "r.json").unlink()
    main(options(tmp_path, "--n-seeds", "3", "--resume"))
    assert results(tmp_path) == whole


def test_resuming_with_another_numpy_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(options(tmp_path))
    found = json.loads((tmp_path / "r.json").read_text())
    found["environment"]["numpy"] = "1.0"
    (tmp_path / "r.json").write_text(json.dumps(found))
    main(options(tmp_path, "--n-seeds", "2", "--resume"))
    assert "is from numpy 1.0" in capsys.readouterr().err


def test_a_target_loss_that_was_not_reached_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = [option for option in options(tmp_path) if option != "--quiet"]
    main([*loud, "--target-loss", "0.0001"])
    assert "ReLU did not reach --target-loss on task 1." in capsys.readouterr().out
    assert results(tmp_path)["per_seed"][0]["target_reached"] == [False, False]
