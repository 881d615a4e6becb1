from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compete_to_compute import (
    METRICS,
    aggregate,
    compare,
    sign_test,
    student_t_cdf,
    student_t_quantile,
    summarise,
    verdict,
)

# ReLU's forgetting minus LWTA's at the default configuration, seeds 0 to 39, of one machine.
DIFFERENCES = np.array(
    [
        *(0.055, 0.005, 0.036, -0.044, -0.021, -0.079, -0.035, 0.008, 0.018, 0.028),
        *(0.044, -0.015, -0.010, -0.010, -0.002, -0.012, 0.119, -0.014, 0.006, 0.004),
        *(-0.171, -0.026, 0.094, -0.006, 0.158, 0.042, -0.012, -0.013, -0.057, 0.006),
        *(-0.016, 0.021, -0.163, 0.003, 0.036, -0.007, -0.027, -0.064, -0.024, -0.016),
    ]
)


# --- One model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 8, 10, 40])
def test_summarise_against_scipy(n: int) -> None:
    values = np.random.default_rng(n).standard_t(3, n)
    summary = summarise(list(values))
    sem = stats.sem(values)
    assert summary["n"] == n
    assert summary["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert summary["median"] == pytest.approx(np.median(values), abs=1e-12)
    assert summary["iqm"] == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-12)
    assert summary["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=sem)
    assert summary["ci95"] == pytest.approx(expected, rel=1e-9)


def test_summarise_leaves_out_what_is_missing() -> None:
    assert summarise([None, 0.25, None, 0.75]) == summarise([0.75, 0.25])


def test_summarise_says_none_for_what_too_few_values_cannot_give() -> None:
    unknown = dict.fromkeys(("mean", "median", "iqm", "std", "ci95"))
    assert summarise([]) == summarise([None]) == {"n": 0, **unknown}
    one = {"mean": 0.5, "median": 0.5, "iqm": 0.5}
    assert summarise([0.5]) == {"n": 1, **unknown, **one}


@pytest.mark.parametrize("probability", [0.5, 0.6, 0.8, 0.9, 0.95, 0.975, 0.995, 0.999])
def test_student_t_quantile_against_scipy(probability: float) -> None:
    for df in (*range(1, 201), 999):
        expected = stats.t.ppf(probability, df)
        assert student_t_quantile(probability, df) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("df", [1, 2, 3, 9, 10, 999])
def test_student_t_cdf_against_scipy(df: int) -> None:
    for t in (-30, -2.0, -0.1, 0, 0.5, 2.3, 100):
        assert student_t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-12)


# --- Two models ---------------------------------------------------------------------------------


def test_sign_test_against_scipy() -> None:
    for wins in range(13):
        for losses in range(13 - wins):
            n = wins + losses
            expected = stats.binomtest(wins, n).pvalue if n else 1.0
            assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-12)
    assert sign_test(460, 540) == pytest.approx(stats.binomtest(460, 1000).pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [10, 20, 40])
def test_smallest_detectable_difference_has_80_percent_power(n: int) -> None:
    values = DIFFERENCES[:n]
    detectable = compare(list(values), [0.0] * n)["smallest_detectable"]
    noncentrality = detectable / stats.sem(values)
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, noncentrality)
    power += stats.nct.cdf(-critical, n - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=0.01)


def test_compare_takes_first_minus_second() -> None:
    comparison = compare([0.5, 0.25, 0.75, 0.125], [0.25, 0.125, 0.25, 0.5])
    assert comparison["difference"] == summarise([0.25, 0.125, 0.5, -0.375])
    # A win is a seed on which the second forgets less.
    assert [comparison[key] for key in ("wins", "losses", "ties")] == [3, 1, 0]
    assert comparison["sign_test_p"] == sign_test(3, 1)


def test_compare_takes_rounding_for_a_tie() -> None:
    one, other = 0.3 - 0.2, 0.2 - 0.1
    assert one != other
    comparison = compare([one, other, 0.5, 0.300], [other, one, 0.5, 0.301])
    assert [comparison[key] for key in ("wins", "losses", "ties")] == [0, 1, 3]
    assert comparison["sign_test_p"] == 1.0


def test_rounding_alone_is_no_difference() -> None:
    comparison = compare([0.3 - 0.2] * 5, [0.2 - 0.1] * 5)
    assert comparison["ties"] == 5
    assert str(verdict("relu", "lwta", comparison)).startswith("no difference shown")


def test_compare_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare([0.1, 0.2], [0.1])


@pytest.mark.parametrize("population", ["normal", "measured"])
def test_interval_covers_the_truth_as_often_as_it_says(population: str) -> None:
    rng = np.random.default_rng(0)
    trials, n = 2000, 20
    covered = 0
    for _ in range(trials):
        if population == "normal":
            first, second = rng.normal(0.05, 0.03, (2, n))
        else:  # signs flipped at random: as heavy-tailed as the real ones, and zero on average
            first = rng.choice(DIFFERENCES, n) * rng.choice([-1, 1], n)
            second = np.zeros(n)
        low, high = compare(first, second)["difference"]["ci95"]
        covered += low <= 0 <= high
    assert 0.93 <= covered / trials <= 0.97


def test_verdict_names_the_model_that_forgets_less() -> None:
    less, more = [0.01, 0.02, 0.03, 0.02], [0.11, 0.12, 0.13, 0.11]
    assert verdict("relu", "lwta", compare(more, less)) == "LWTA forgets less"
    assert verdict("relu", "lwta", compare(less, more)) == "ReLU forgets less"
    outcome = verdict("relu", "lwta", compare(more, more[::-1]))
    assert str(outcome).startswith("no difference shown")


@pytest.mark.parametrize(
    ("interval", "outcome"),
    [
        ([0.001, 0.2], "LWTA forgets less"),
        ([-0.001, 0.2], "no difference shown: 7 seeds could have shown 0.123"),
        ([-0.2, 0.001], "no difference shown: 7 seeds could have shown 0.123"),
        ([-0.2, -0.001], "ReLU forgets less"),
    ],
)
def test_verdict_follows_the_interval(interval: list[float], outcome: str) -> None:
    comparison = {"difference": {"n": 7, "ci95": interval}, "smallest_detectable": 0.1234}
    assert verdict("relu", "lwta", comparison) == outcome


def test_verdict_does_not_call_a_constant_difference_none() -> None:
    def said(more: float) -> str | None:
        return verdict("relu", "lwta", compare([0.25 + more, 0.5 + more], [0.25, 0.5]))

    assert said(0) == "no difference shown: all 2 pairs are equal"
    assert said(0.25) == "not judged: all 2 pairs differ by exactly +0.2500"


def test_verdict_without_a_difference_says_what_would_have_been_seen() -> None:
    comparison = compare(list(DIFFERENCES), [0.0] * 40)
    assert comparison["smallest_detectable"] == pytest.approx(0.027, abs=5e-4)
    expected = "no difference shown: 40 seeds could have shown 0.027"
    assert verdict("relu", "lwta", comparison) == expected


def test_one_seed_has_no_verdict() -> None:
    comparison = compare([0.1], [0.0])
    assert comparison["smallest_detectable"] is None
    assert comparison["difference"]["ci95"] is None
    assert verdict("relu", "lwta", comparison) is None


# --- Many seeds ---------------------------------------------------------------------------------


def row(seed: int, model: str, forgetting: float | None, status: str = "ok") -> dict[str, Any]:
    """A row of `per_seed`, as far as `aggregate` reads it."""
    return {"seed": seed, "model": model, **dict.fromkeys(METRICS, forgetting), "status": status}


def test_aggregate_averages_each_metric_of_each_model() -> None:
    records = [
        {**row(seed, "relu", None), **dict(zip(METRICS, (seed, 10 + seed, -seed, 1), strict=True))}
        for seed in range(4)
    ]
    totals = aggregate(records, ["relu"])
    assert totals["pairs"] == []
    means = [totals["models"]["relu"][metric]["mean"] for metric in METRICS]
    assert means == [1.5, 11.5, -1.5, 1]


def test_failed_runs_are_in_no_mean_and_their_seeds_in_no_pair() -> None:
    records = [
        *(row(0, "relu", 0.25), row(0, "lwta", 0.125)),
        *(row(1, "relu", None, "diverged"), row(1, "lwta", 0.9)),
        *(row(2, "relu", 0.5), row(2, "lwta", 0.8, "untrained")),
        *(row(3, "relu", 0.7, "untrained"), row(3, "lwta", None, "diverged")),
        *(row(4, "relu", 0.75), row(4, "lwta", 0.25)),
    ]
    totals = aggregate(records, ["relu", "lwta"])
    relu, lwta = totals["models"]["relu"], totals["models"]["lwta"]
    assert [relu[status] for status in ("ok", "diverged", "untrained")] == [3, 1, 1]
    assert [lwta[status] for status in ("ok", "diverged", "untrained")] == [3, 1, 1]
    assert relu["forgetting"] == summarise([0.25, 0.5, 0.75])
    assert lwta["forgetting"] == summarise([0.125, 0.9, 0.25])
    [pair] = totals["pairs"]
    assert (pair["first"], pair["second"]) == ("relu", "lwta")
    assert pair["failed"] == {"relu": 2, "lwta": 2}
    assert pair["difference"] == summarise([0.125, 0.5])
    assert (pair["wins"], pair["losses"], pair["ties"]) == (2, 0, 0)


def test_pairs_are_of_the_seeds_that_both_models_have() -> None:
    records = [
        *(row(seed, "relu", 0.125 * seed) for seed in (0, 1, 2)),
        *(row(seed, "lwta", 0.5) for seed in (1, 2, 3)),
        row(9, "lwta", None, "diverged"),
    ]
    totals = aggregate(records, ["relu", "lwta"])
    [pair] = totals["pairs"]
    assert pair["difference"] == summarise([-0.375, -0.25])
    assert pair["failed"] == {"relu": 0, "lwta": 0}
    assert totals["models"]["relu"]["forgetting"]["n"] == 3
    assert totals["models"]["lwta"]["forgetting"]["n"] == 3


def test_three_models_make_three_pairs() -> None:
    models = ["relu", "lwta", "sigmoid"]
    records = [row(s, m, (1 + 0.1 * s) * i / 10) for s in range(2) for i, m in enumerate(models)]
    pairs = aggregate(records, models)["pairs"]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [
        *(("relu", "lwta"), ("relu", "sigmoid"), ("lwta", "sigmoid"))
    ]
    assert [pair["verdict"] for pair in pairs] == [
        *("ReLU forgets less", "ReLU forgets less", "LWTA forgets less")
    ]


def test_one_seed_is_aggregated_without_a_verdict() -> None:
    [pair] = aggregate([row(0, "relu", 0.2), row(0, "lwta", 0.1)], ["relu", "lwta"])["pairs"]
    assert pair["difference"]["mean"] == pytest.approx(0.1)
    assert (pair["wins"], pair["verdict"]) == (1, None)


def test_what_cannot_be_forgotten_makes_no_pairs() -> None:
    """Joint training, or a single task: accuracies but no forgetting."""
    records = [row(seed, model, None) for seed in range(3) for model in ("relu", "lwta")]
    [pair] = aggregate(records, ["relu", "lwta"])["pairs"]
    assert pair["difference"]["n"] == 0
    assert (pair["wins"], pair["losses"], pair["ties"]) == (0, 0, 0)
    assert pair["verdict"] is None


@st.composite
def shuffled_records(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    units = st.tuples(st.integers(0, 9), st.sampled_from(["relu", "lwta"]))
    statuses = st.sampled_from(["ok", "ok", "ok", "diverged", "untrained"])
    records = [
        row(seed, model, draw(st.floats(-0.2, 1)), draw(statuses))
        for seed, model in draw(st.sets(units))
    ]
    return records, draw(st.permutations(records))


@given(shuffled_records())
def test_the_order_of_records_changes_nothing(
    case: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    records, shuffled = case
    assert aggregate(shuffled, ["relu", "lwta"]) == aggregate(records, ["relu", "lwta"])


@given(st.lists(st.floats(-0.2, 1), min_size=2, max_size=30))
def test_swapping_the_models_mirrors_the_comparison(first: list[float]) -> None:
    second = first[1:] + first[:1]
    one, other = compare(first, second), compare(second, first)
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"])
    assert one["sign_test_p"] == other["sign_test_p"]
    low, high = one["difference"]["ci95"]
    assert math.isclose(low, -other["difference"]["ci95"][1], abs_tol=1e-12)
    assert math.isclose(high, -other["difference"]["ci95"][0], abs_tol=1e-12)
