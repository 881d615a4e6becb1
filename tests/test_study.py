"""The table of conditions and the study's own statistics."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import study_open_questions as study
from compete_to_compute import ACTIVATIONS, Config, InputError, check_config

TINY = {"hidden": 20, "train_per_class": 20, "test_per_task": 50, "epochs": 2}
OPTIONS = argparse.Namespace(n_seeds=None, jobs=1, data_dir=None, dask=None)


@pytest.mark.parametrize("name", study.GROUPS)
def test_every_condition_can_be_trained_and_has_a_name_of_its_own(name: str) -> None:
    conditions = study.GROUPS[name].conditions
    assert len({condition.label for condition in conditions}) == len(conditions)
    for condition in conditions:
        for model in condition.activations:
            check_config(condition.config(model), [ACTIVATIONS[model]])


def test_comparisons_are_paired_but_for_the_published_streams() -> None:
    unpaired = [
        name
        for name, group in study.GROUPS.items()
        for condition in group.conditions
        if not all(condition.config(model).paired for model in condition.activations)
    ]
    assert unpaired == ["published"]


def test_holm_on_a_worked_example() -> None:
    # Sorted .01 .03 .04 times 3, 2, 1 gives .03 .06 .04, made monotone: .03 .06 .06.
    assert study.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert study.holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("k", study.MEAN_SQUARE_OF_MAXIMUM)
def test_the_scaled_start_gives_lwta_the_mean_square_of_relu(k: int) -> None:
    normals = np.random.default_rng(k).standard_normal((400_000 // k, k))
    lwta = (study.scaled(k) * normals.max(axis=1)) ** 2
    assert lwta.mean() / k == pytest.approx(0.5, rel=0.02)


def test_a_group_resumes_from_its_journals_and_shares_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STUDY", tmp_path)
    first = study.Condition("first", TINY, seeds=3)
    again = study.Condition("same models", TINY, {"lwta": {"k": 4}}, seeds=2)
    monkeypatch.setitem(study.GROUPS, "tiny", study.Group("?", (first, again)))
    result = study.run_group("tiny", OPTIONS)
    saved = json.loads((tmp_path / "tiny.json").read_text())
    assert [row["label"] for row in saved["conditions"]] == ["first", "same models"]
    assert [row["seeds_run"] for row in saved["conditions"]] == [3, 2]
    assert saved["core_seconds"] > 0

    def train_nothing(*_: object) -> None:
        raise AssertionError("everything is in the journals")

    monkeypatch.setattr("compete_to_compute.train_model", train_nothing)
    rerun = study.run_group("tiny", OPTIONS)
    assert rerun["conditions"] == result["conditions"]
    relu = [[row for row in c["per_seed"] if row[1] == "relu"] for c in saved["conditions"]]
    assert relu[0][:2] == relu[1], "both conditions have the same ReLU runs"


def test_tables_and_figures_show_failed_pairs_and_missing_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STUDY", tmp_path)
    cells = tuple(
        study.Condition(f"lr {lr}, momentum {m}", {**TINY, "lr": lr, "momentum": m}, seeds=4)
        for lr, m in ((0.1, 0.9), (0.2, 0.95))
    )
    monkeypatch.setitem(study.GROUPS, "optimiser", study.Group("?", cells))
    options = argparse.Namespace(**{**vars(OPTIONS), "n_seeds": 2})
    table = study.group_table(study.run_group("optimiser", options))
    assert " of 4" in table
    for figure in (
        study.phase_figure(study.saved_groups()[0]),
        study.summary_figure(study.saved_groups()),
    ):
        study.save_figure(figure, tmp_path / "figure.png")


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(InputError, match="nonsense"):
        study.main(["nonsense"])


def test_the_default_condition_is_the_published_configuration() -> None:
    (condition,) = study.GROUPS["default"].conditions
    assert condition.config("relu") == Config(paired=True)
