"""The tables of runs, the conditions and their training, and the study's own statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute as core
from compete_to_compute import ACTIVATIONS, InputError
from study import analysis, conditions, figures, rule, runs
from study.analysis import Result, quantity
from study.conditions import FAMILIES, Condition, Family
from study.runs import PAIR, GzipTable, Table

Study = Callable[..., Table]  # what `study_of` gives
TINY = {"hidden": 20, "train_per_class": 20, "test_per_task": 50, "epochs": 2}


def row(seed: int, model: str = "relu", kept: float = 0.8, **rest: Any) -> dict[str, Any]:
    """A made-up row of a table; `rest` are other parts of its record."""
    record = {"seed": seed, "model": model, "status": "ok", "failure": None, "epochs": [5, 5]}
    record |= {"accuracy_matrix": [[0.1, 0.2], [0.9, 0.1], [kept, 0.7]], "target_reached": None}
    return runs.make_row(
        Condition("").identity(model), {**record, "blas_kernel": "Haswell", **rest}, 1.5
    )


@pytest.fixture
def study_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Makes a study of other families, with a table of their own."""
    table = Table(tmp_path / "conditions.csv")

    def install(**families: Family) -> Table:
        for module in (conditions, analysis):
            monkeypatch.setattr(module, "FAMILIES", families)
            monkeypatch.setattr(module, "CONDITIONS", table)
        return table

    analysis.analyse.cache_clear()
    yield install
    analysis.analyse.cache_clear()


@pytest.mark.parametrize("kind", [Table, GzipTable])
def test_a_table_cut_anywhere_keeps_what_is_complete_and_grows_on(
    tmp_path: Path, kind: type[Table]
) -> None:
    table = kind(tmp_path / "results" / "table")
    rows = [row(0, failure='a "quoted", text', status="untrained"), row(1)]
    for each in rows:
        table.append(each)
    content = table.path.read_bytes()
    assert table.read() == rows
    for size in range(0, len(content), 7):
        table.path.write_bytes(content[:size])
        complete = table.read()
        assert complete == rows[: len(complete)]
        table.append(row(2))
        assert table.read() == [*complete, row(2)]


@pytest.mark.parametrize("kind", [Table, GzipTable])
def test_foreign_and_damaged_rows_are_refused(tmp_path: Path, kind: type[Table]) -> None:
    table = kind(tmp_path / "table")
    for change in ({"schema": 0}, {"mnist_sha256": {}}):
        foreign = "# " + json.dumps({**json.loads(runs.IDENTITY[2:]), **change})
        table.path.write_bytes(table.join(foreign))
        for use in (table.read, partial(table.append, row(1))):
            with pytest.raises(InputError, match="another schema or MNIST"):
                use()
    table.path.write_bytes(b"".join(map(table.join, (*table.head, "half a row"))))
    with pytest.raises(InputError, match="row 1 is damaged"):
        table.read()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_condition_can_be_trained_and_has_a_name_of_its_own(family: Family) -> None:
    labels = {condition.label for condition in family.conditions}
    assert len(labels) == len(family.conditions)
    assert {condition.against for condition in family.conditions} <= labels | {None}
    for condition in family.conditions:
        for model in condition.activations:
            core.check_config(condition.config(model), [ACTIVATIONS[model]])


def test_points_are_labelled_by_their_changes_and_hold_fields_of_both_kinds() -> None:
    points = [*conditions.grid(lr=[0.1], init_scale=(1, 2)), {"label": "own", "seeds": 3}]
    family = conditions.ask("?", points, {"depth": 3, "seeds": 5}, exploratory=True)
    first, second, own = family.conditions
    assert (first.label, second.label) == ("lr 0.1, init scale 1", "lr 0.1, init scale 2")
    assert own == Condition("own", {"depth": 3}, seeds=3, first_seed=1000)
    assert second.changes == {"depth": 3, "lr": 0.1, "init_scale": 2}


@pytest.mark.parametrize("k", conditions.MEAN_SQUARE_OF_MAXIMUM)
def test_the_scaled_start_gives_lwta_the_mean_square_of_relu(k: int) -> None:
    normals = np.random.default_rng(k).standard_normal((400_000 // k, k))
    lwta = (conditions.scaled(k) * normals.max(axis=1)) ** 2
    assert lwta.mean() / k == pytest.approx(0.5, rel=0.02)


def test_a_study_goes_on_where_it_was_and_trains_an_edited_activation_anew(
    study_of: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, blocks = Condition("first", TINY, seeds=3), Condition("k", TINY, {"lwta": {"k": 4}})
    layers = Condition("layers", TINY, seeds=1, besides={"layer_scales": [1.0, 0.5, 1.0]})
    table = study_of(tiny=Family("?", (first, replace(blocks, seeds=2), layers)))
    conditions.main(["--n-seeds", "1", "--jobs", "1"])
    assert "tiny: 6 of 12 runs" in capsys.readouterr().out
    conditions.main(["tiny", "--jobs", "1"])
    assert len(table.read()) == 6 + 2 + 2, "two conditions have the same ReLU runs"
    plain, scaled = (
        next(r for r in table.read() if bool(r["intervention"]) is is_scaled)["accuracy_matrix"]
        for is_scaled in (False, True)
    )
    assert plain != scaled
    assert conditions.missing_runs(conditions.FAMILIES["tiny"].conditions, None) == []

    def relu(z: np.ndarray, gate: np.ndarray, k: int) -> None:
        gate[:] = z >= 0
        z *= gate

    monkeypatch.setitem(ACTIVATIONS, "relu", replace(ACTIVATIONS["relu"], function=relu))
    missing = conditions.missing_runs([first], None)
    assert [run[1:] for run in missing] == [("relu", seed) for seed in range(3)]


def test_the_first_kernel_in_the_file_counts_unless_one_is_asked_for() -> None:
    table = conditions.by_key([row(0, blas_kernel="SkylakeX"), row(0)])
    for kernel, expected in ((None, "SkylakeX"), ("Haswell", "Haswell"), ("Zen", None)):
        finished = conditions.finished_runs(Condition("any", seeds=1, kernel=kernel), table)
        assert finished["relu"].get(0, {}).get("kernel") == expected


def test_what_makes_no_study_is_refused() -> None:
    refused = {"nonsense": "nonsense: not there", "--jobs=-1": "--jobs must be 1 or more, not -1"}
    for argument, message in refused.items():
        with pytest.raises(InputError, match=message):
            conditions.main([argument])


def test_a_pair_of_runs_is_tested_in_the_first_family_that_declares_it(study_of: Study) -> None:
    everything = (Condition("all", TINY, seeds=2),)
    later = (Condition("one", TINY, seeds=1), Condition("other", TINY, first_seed=9))
    explored = Family("?", everything, exploratory=True)
    study_of(explored=explored, first=Family("?", everything), later=Family("?", later))
    results = [result for family in analysis.analyse().values() for result in family.values()]
    assert [result.tested_in for result in results] == [None, "first", "first", "later"]
    assert "not tested alone, part of `first`" in analysis.tables()["later: ?"]


def test_exploration_shares_no_pair_of_runs_with_what_is_tested() -> None:
    pairs: dict[bool, set[Any]] = {False: set(), True: set()}
    for family in FAMILIES.values():
        for condition in family.conditions:
            keys = [condition.keys(model).values() for model in PAIR]
            pairs[family.exploratory] |= {*zip(*keys, strict=True)}
    assert not pairs[True] & pairs[False]


def test_failed_and_missing_runs_are_counted_and_stand_at_chance(study_of: Study) -> None:
    tiny = Family("?", (Condition("tiny", {"lr": 0.05, "momentum": 0.9}, seeds=4),))
    table = study_of(tiny=tiny)
    for seed, status in ((0, "ok"), (1, "ok"), (2, "untrained")):
        table.append(row(seed))
        table.append(row(seed, "lwta", kept=0.9, status=status))
    assert "| 2 of 4, failed: LWTA 1 |" in analysis.tables()["tiny: ?"]
    assert quantity("tiny/tiny:difference") == pytest.approx(0.1)
    assert quantity("tiny/tiny:lwta.untrained") == 1
    # Two differences of .75 - .8, and one of .75 less a chance of .2.
    assert quantity("tiny/tiny:at_chance") == pytest.approx((0.55 - 2 * 0.05) / 3)
    for place in ("tiny/tiny:nothing", "tiny/other:difference", "tiny/tiny:change.low", "tiny"):
        with pytest.raises(InputError, match="there is no such"):
            quantity(place)
    assert len(figures.phase_figure("tiny", "lr", "momentum", 0.1).axes) == 4
    (rows,) = figures.summary_figure(["tiny/tiny", "tiny/other"]).axes
    assert [text.get_text() for text in rows.get_yticklabels()] == ["tiny (n = 2)"]


def result(relu: list[float], lwta: list[float]) -> Result:
    """A result with these accuracies on Task 1 at the end."""
    records: dict[str, Any] = {
        model: {s: runs.record_from(row(s, model, v)) for s, v in enumerate(values)}
        for model, values in zip(PAIR, (relu, lwta), strict=True)
    }
    return Result("family", Condition("any"), records)


def test_a_change_is_taken_seed_by_seed_over_the_seeds_that_both_have() -> None:
    here = result([0.8, 0.7, 0.6, 0.5] * 5 + [0.1], [0.8, 0.7, 0.8, 0.0] * 5)
    base = result([0.8] * 20, [0.8, 0.7, 0.8, 0.9] * 5)
    for record in here.records["lwta"].values():
        record["status"] = "untrained" if record["forgetting"] == 0.9 else "ok"
    change = analysis.changed(here, base)
    relu, lwta = (change[model] for model in PAIR)
    assert (relu["n"], relu["mean"], lwta["n"], lwta["mean"]) == (20, pytest.approx(0.15), 15, 0)
    # ReLU minus LWTA is 0, 0, .2 here and 0, -.1, 0 there.
    assert change["difference"]["mean"] == pytest.approx(0.1)
    low, high = change["spread_ratio"]["ci95"]
    assert change["spread_ratio"]["mean"] == pytest.approx(2.0)
    assert low < 2 < high
    assert analysis.pool([here, base]).values("relu")[2] == pytest.approx(0.2)


@pytest.mark.parametrize("n", [10, 20])
def test_the_simulated_rule_is_the_rule_and_errs_as_it_should(n: int) -> None:
    samples = np.random.default_rng(n).standard_normal((n, 4000))
    assert rule.rejections(samples, [0.0])[0] == pytest.approx((0.05, 0.05), abs=0.012)
    ours = np.mean([core.permutation_test(s + 0.4) < 0.05 for s in samples.T[:100]])
    assert rule.rejections(samples[:, :100], [0.4])[0][0] == pytest.approx(ours, abs=0.03)


def test_settings_follow_from_the_exploration_by_their_rules() -> None:
    table = conditions.by_key(runs.CONDITIONS.read())
    paper, dropout = (analysis.analyse_family(n, table, {}) for n in ("paper", "dropout-rate"))
    cost: dict[int, list[Any]] = {2: [], 3: []}
    for result in paper.values():
        numbers = [result.numbers[model] for model in result.records]
        if all(n["failed"] == 0 < n["run"] for n in numbers):
            missed = sum(n["missed"] / n["ok"] for n in numbers)
            epochs = [
                np.mean([record["epochs"] for record in by_seed.values()], axis=0).sum()
                for by_seed in result.records.values()
            ]
            changes = result.condition.changes
            cost[changes["depth"]].append((missed, sum(epochs), changes))
    for choice in conditions.PAPER_CHOICE:
        assert choice.items() <= min(cost[choice["depth"]])[2].items()
    failed: dict[float, int] = {}
    for result in dropout.values():
        rate = result.condition.changes["lr"]
        failed[rate] = failed.get(rate, 0) + sum(result.numbers[m]["failed"] for m in PAIR)
    assert max(rate for rate, count in failed.items() if not count) == conditions.DROPOUT_LR


OWN = """
import numpy as np
from study.conditions import ask, grid

def leaky(z, gate, k):
    gate[:] = np.where(z > 0, 1, 0.1)
    z *= gate

SMALL = {"hidden": 20, "depth": 1, "train_per_class": 50, "test_per_task": 50, "epochs": 5}
MODELS = {"seeds": 2, "activations": ("lwta", __file__ + ":leaky")}
FAMILIES = {"own": ask("Which?", grid(lr=(0.05, 0.1)), {**SMALL, **MODELS})}
"""


def test_conditions_and_activations_of_one_s_own_leave_the_study_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    published = conditions.CONDITIONS.path.read_bytes()
    options = ["--file", f"{tmp_path}/own.py", "--out-dir", f"{tmp_path}/out", "--jobs", "1"]
    assert conditions.main(options) == 0
    printed = capsys.readouterr().out
    assert "own: 8 of 8 runs" in printed
    assert printed.count("LWTA minus leaky (own), seed by seed") == 2
    assert conditions.CONDITIONS.path.read_bytes() == published
    assert len(Table(tmp_path / "out" / "conditions.csv").read()) == 8
    (tmp_path / "own.py").write_text(OWN.replace("z *= gate", "z *= 2"))
    with pytest.raises(InputError, match="gate is not the derivative"):
        conditions.main(options)
    with pytest.raises(InputError, match="go together"):
        conditions.main(options[:2])


def declared_result(shift: float, seeds: int = 20, short: int = 0, failed: int = 0) -> Any:
    """A result in which ReLU forgets more by `shift` on average; its first runs miss or fail."""
    spread = np.linspace(-0.004, 0.004, seeds)
    records: dict[str, dict[int, Any]] = {
        model: {
            seed: {
                "status": "untrained" if seed < failed else "ok",
                "forgetting": 0.1 + (model == "relu") * (shift + spread[seed]),
                "target_reached": [seed >= short, True],
            }
            for seed in range(seeds)
        }
        for model in ("relu", "lwta")
    }
    result = analysis.Result("f", Condition("c", seeds=seeds), records, "f")
    pairs = analysis.shared(*map(result.values, ("relu", "lwta")))
    result.numbers |= analysis.compare(*pairs)
    return result


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"shift": 0.02}, "LWTA forgets less"),
        ({"shift": -0.02}, "ReLU forgets less"),
        ({"shift": 0.008}, "a difference, perhaps below 0.010"),
        ({"shift": 0.0}, "alike within 0.010"),
        ({"shift": 0.02, "failed": 4}, "LWTA forgets less"),
        ({"shift": 0.02, "failed": 5}, "no verdict: 5 of 20 pairs failed"),
        ({"shift": 0.02, "short": 5}, "LWTA forgets less"),
        ({"shift": 0.02, "short": 18}, "undecided: runs short of the loss decide"),
    ],
)
def test_the_declared_rule(how: dict[str, Any], word: str) -> None:
    result = declared_result(**how)
    analysis.judge_declared([result])
    assert result.numbers["verdict"] == word
    result.records["lwta"].popitem()
    analysis.judge_declared([result])
    assert result.numbers["verdict"] is None, "a run of the family is not there yet"


@pytest.mark.parametrize(
    ("how", "distance"),
    [({}, 1 + 4), ({"missed": 1}, 5), ({"missed": 2}, None), ({"failed": 1}, None)],
)
def test_the_declared_distance_from_the_paper(how: dict[str, int], distance: float | None) -> None:
    errors = {"relu": 16.63 + 6.07, "lwta": 6.12 - 2 * 3.39}
    numbers: dict[str, Any] = {
        model: {"failed": 0, "missed": 0, "error_kept": {"mean": error}}
        for model, error in errors.items()
    }
    numbers["relu"] |= how
    numbers["difference"] = {"n": 3}
    assert analysis.distance_from_paper(numbers) == pytest.approx(distance)
    assert analysis.distance_from_paper({**numbers, "difference": {"n": 2}}) is None
