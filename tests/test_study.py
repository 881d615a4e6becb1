"""The table of conditions and the study's own statistics."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import study_open_questions as study
from compete_to_compute import ACTIVATIONS, STATUSES, Config, InputError, Run, check_config

TINY = {"hidden": 20, "train_per_class": 20, "test_per_task": 50, "epochs": 2}
OPTIONS = argparse.Namespace(n_seeds=None, jobs=1, data_dir=None, client=None, finished_only=False)


def saved(name: str) -> dict:
    return json.loads((study.STUDY / f"{name}.json").read_text())


def made_up(model: str, seed: int, forgetting: float) -> Run:
    record = {"seed": seed, "model": model, "status": "ok", "forgetting": forgetting}
    return Run({**record, "average_accuracy": 1 - forgetting}, [], {}, 0.0)


@pytest.mark.parametrize("name", study.GROUPS)
def test_every_condition_can_be_trained_and_has_a_name_of_its_own(name: str) -> None:
    conditions = study.GROUPS[name].conditions
    assert len({condition.label for condition in conditions}) == len(conditions)
    for condition in conditions:
        for model in condition.activations:
            check_config(condition.config(model), [ACTIVATIONS[model]])
    labels = {condition.label for condition in conditions}
    assert {condition.against for condition in conditions} <= labels | {None}


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


def test_a_change_is_taken_seed_by_seed_over_the_seeds_that_both_conditions_have() -> None:
    condition = study.Condition("more", against="less")
    values = {
        "relu": ([0.1, 0.2, 0.3, 0.4] * 5, [0.1] * 20),
        "lwta": ([0.1, 0.2, 0.1, 0.9] * 5, [0.1, 0.2, 0.1, 0.0] * 5),
    }
    here, base = (
        [made_up(model, seed, of[i][seed]) for model, of in values.items() for seed in range(20)]
        for i in (0, 1)
    )
    for run in here:
        if run.record["forgetting"] == 0.9:
            run.record["status"] = "untrained"
    found = study.change(condition, [*here, made_up("relu", 20, 0.5)], base)
    relu, lwta = (found["forgetting"][model]["difference"] for model in ("relu", "lwta"))
    assert (relu["n"], relu["mean"]) == (20, pytest.approx(0.15))
    assert (lwta["n"], lwta["mean"]) == (15, 0)
    # ReLU minus LWTA is 0, 0, .2 here and 0, -.1, 0 there.
    assert found["difference"]["difference"]["mean"] == pytest.approx(0.1)
    assert found["spread_ratio"]["mean"] == pytest.approx(2.0)
    low, high = found["spread_ratio"]["ci95"]
    assert low < 2 < high


def test_the_paper_s_setting_follows_from_the_grid_by_its_rule() -> None:
    rows = saved("paper")["conditions"]
    for depth, choice in study.PAPER_CHOICE.items():
        cost = {}
        for row in rows:
            config = row["config"]["relu"]
            trained = all(
                totals["ok"] == sum(totals[status] for status in STATUSES) > 0
                for totals in row["aggregate"]["models"].values()
            )
            if config["depth"] == depth and trained:
                epochs = sum(sum(used) for used in row["epochs_used"].values())
                missed = sum(
                    row["targets_missed"][model] / totals["ok"]
                    for model, totals in row["aggregate"]["models"].items()
                )
                cost[config["lr"], config["momentum"]] = (missed, epochs)
        assert min(cost, key=cost.__getitem__) == choice


def test_dropout_is_studied_at_the_largest_rate_at_which_no_run_failed() -> None:
    sound: dict[float, bool] = {}
    for row in saved("dropout-rate")["conditions"]:
        rate = row["config"]["relu"]["lr"]
        ok = all(totals["ok"] == 8 for totals in row["aggregate"]["models"].values())
        sound[rate] = sound.get(rate, True) and ok
    assert max(rate for rate, ok in sound.items() if ok) == study.DROPOUT_LR


def test_results_of_an_unfinished_group_say_how_many_seeds_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STUDY", tmp_path)
    both = study.Condition("both", TINY, seeds=3)
    monkeypatch.setitem(study.GROUPS, "tiny", study.Group("?", (both,)))
    finished_only = argparse.Namespace(**{**vars(OPTIONS), "finished_only": True})
    (row,) = study.run_group("tiny", finished_only)["conditions"]
    assert (row["seeds_run"], row["n"]) == (0, 0)
    study.train_condition(both, argparse.Namespace(**{**vars(OPTIONS), "n_seeds": 2}))
    result = study.run_group("tiny", finished_only)
    assert "0 of 3, 2 run, failed: relu 2, lwta 2" in study.group_report(result)


def test_fewer_seeds_this_time_leave_nothing_out_that_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STUDY", tmp_path)
    tiny = study.Condition("tiny", TINY, seeds=3)
    monkeypatch.setitem(study.GROUPS, "tiny", study.Group("?", (tiny,)))
    whole = study.run_group("tiny", OPTIONS)
    fewer = study.run_group("tiny", argparse.Namespace(**{**vars(OPTIONS), "n_seeds": 2}))
    assert fewer["conditions"] == whole["conditions"]
    assert whole["core_seconds_planned"] == pytest.approx(whole["core_seconds"])
    assert whole["cost_unknown"] == []
    (row,) = whole["conditions"]
    assert sum(row["blas_kernels"].values()) == 6


def test_an_interval_and_a_sign_test_that_disagree_are_both_told() -> None:
    pair = {"verdict": "LWTA forgets less", "sign_test_p": 0.01, "wins": 9, "losses": 1}
    said = {
        holm: study.verdict_text({**pair, "sign_test_p_holm": holm}) for holm in (0.02, 0.3, None)
    }
    assert said == {
        0.02: "LWTA forgets less",
        0.3: "LWTA forgets less, unadjusted",
        None: "LWTA forgets less",
    }
    doubted = {**pair, "sign_test_p": 0.06, "sign_test_p_holm": 0.3}
    assert study.verdict_text(doubted) == "LWTA forgets less, by the interval alone"
    unclear = {**pair, "verdict": "no difference shown: 9 seeds could have shown 0.1"}
    told = {holm: study.verdict_text({**unclear, "sign_test_p_holm": holm}) for holm in (0.02, 1)}
    assert told[0.02] == "no difference shown; by the sign test LWTA forgets less"
    assert told[1] == "no difference shown"


def test_a_group_is_told_in_a_line_with_whom_the_sign_test_favours() -> None:
    def row(verdict: str, wins: int, holm: float | None, kept: float = 0.9) -> dict:
        pair = {"verdict": verdict, "wins": wins, "losses": 40 - wins, "sign_test_p_holm": holm}
        return {
            **{"config": {"relu": {"joint": False}}, "n": 40, "aggregate": {"pairs": [pair]}},
            "first_task_kept": {model: {"mean": kept} for model in study.PAIR},
        }

    rows = [
        row("LWTA forgets less", 26, 0.2),
        row("no difference shown: 40 seeds", 11, 0.04),
        row("LWTA forgets less", 30, 0.001, kept=0.0),
        row("no difference shown: 40 seeds", 20, None),
    ]
    assert study.outcome({"conditions": rows}) == (
        "LWTA forgets less in 1, no difference shown in 1, both lose all of Task 1 in 1; "
        "the adjusted sign test favours ReLU in 1."
    )


@pytest.mark.parametrize("option", ["--jobs", "--n-seeds"])
def test_counts_that_make_no_study_are_refused(option: str) -> None:
    with pytest.raises(InputError, match=f"{option} must be 1 or more, not -1"):
        study.main([option, "-1"])


def test_a_damaged_file_of_results_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STUDY", tmp_path)
    (tmp_path / "default.json").write_text('{"schema": 1')
    with pytest.raises(InputError, match=r"default\.json: damaged"):
        study.saved_groups()


def test_unknown_groups_are_refused() -> None:
    with pytest.raises(InputError, match="nonsense"):
        study.main(["nonsense"])


def test_the_default_condition_is_the_published_configuration() -> None:
    (condition,) = study.GROUPS["default"].conditions
    assert condition.config("relu") == Config(paired=True)
