"""The one rule of inference, and what many seeds are made into."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import compete_to_compute as ctc
from compete_to_compute import METRICS, Config, aggregate, compare, summarise, verdict

# ReLU's forgetting minus LWTA's at the default configuration, seeds 0 to 39, of one machine.
DIFFERENCES = np.array(
    [
        *(0.055, 0.005, 0.036, -0.044, -0.021, -0.079, -0.035, 0.008, 0.018, 0.028),
        *(0.044, -0.015, -0.010, -0.010, -0.002, -0.012, 0.119, -0.014, 0.006, 0.004),
        *(-0.171, -0.026, 0.094, -0.006, 0.158, 0.042, -0.012, -0.013, -0.057, 0.006),
        *(-0.016, 0.021, -0.163, 0.003, 0.036, -0.007, -0.027, -0.064, -0.024, -0.016),
    ]
)


def compare_with_zero(differences: Any) -> dict[str, Any]:
    return compare(list(differences), [0.0] * len(differences))


@pytest.mark.parametrize("n", [2, 3, 4, 7, 40, 101])
def test_summarise_against_scipy(n: int) -> None:
    values = np.random.default_rng(n).standard_t(3, n)
    summary = summarise([None, *values, None])
    assert summary["n"] == n
    assert summary["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert summary["median"] == pytest.approx(np.median(values), abs=1e-12)
    assert summary["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert summary["ci95"] == pytest.approx(expected, rel=1e-8)  # older scipy is off by 2e-9


def test_summarise_says_none_for_what_too_few_values_cannot_give() -> None:
    unknown = dict.fromkeys(("mean", "median", "std", "ci95"))
    assert summarise([]) == summarise([None]) == {"n": 0, **unknown}
    assert summarise([0.5]) == {"n": 1, **unknown, "mean": 0.5, "median": 0.5}


def test_compare_takes_first_minus_second_seed_by_seed() -> None:
    # A difference of rounding alone is a tie; a win is a seed on which the second forgets less.
    first, second = [0.5, 0.25, 0.75, 0.125, 0.3 - 0.2], [0.25, 0.125, 0.25, 0.5, 0.2 - 0.1]
    comparison, mirrored = compare(first, second), compare(second, first)
    differences = [0.25, 0.125, 0.5, -0.375, 0.0]
    assert comparison["difference"] == summarise(differences)
    assert [comparison[key] for key in ("wins", "losses", "ties")] == [3, 1, 1]
    assert [mirrored[key] for key in ("wins", "losses", "ties")] == [1, 3, 1]
    assert comparison["p_adjusted"] == comparison["p"] == mirrored["p"]
    expected = stats.t.interval(0.9, 4, loc=0.1, scale=stats.sem(differences))
    assert comparison["ci90"] == pytest.approx(expected, rel=1e-8)  # older scipy is off by 2e-9
    assert mirrored["ci90"] == pytest.approx(
        [-expected[1], -expected[0]], rel=1e-8
    )  # older scipy is off by 2e-9
    with pytest.raises(ValueError, match="argument 2"):
        compare(first, second[:3])


@given(st.lists(st.integers(-200, 200), min_size=2, max_size=9))
def test_p_is_exact_for_few_pairs(thousandths: list[int]) -> None:
    """The share of all flips of signs whose sum is at least as far from zero, in whole numbers."""
    flips = list(product((-1, 1), repeat=len(thousandths)))
    sums = (sum(s * d for s, d in zip(signs, thousandths, strict=True)) for signs in flips)
    extreme = sum(abs(total) >= abs(sum(thousandths)) for total in sums)
    assert compare_with_zero(np.array(thousandths) / 1000)["p"] == extreme / len(flips)


@pytest.mark.parametrize("n", [12, 13])  # the last that is exact, the first that is drawn
def test_p_against_scipy(n: int) -> None:
    values = DIFFERENCES[:n] + 0.02
    expected = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=1 << n,  # all of them
    ).pvalue
    p = compare_with_zero(values)["p"]
    deviation = (expected * (1 - expected) / 100_000) ** 0.5  # of a share of drawn flips
    assert p == pytest.approx(expected, abs=1e-12 if n == 12 else 4 * deviation)
    assert p == compare_with_zero(values)["p"]  # the flips are the same each time
    assert compare_with_zero([0.1] * 60)["p"] == pytest.approx(1 / 100_001)  # and never p = 0


@pytest.mark.parametrize("n", [10, 20, 40])
def test_smallest_detectable_difference_has_80_percent_power(n: int) -> None:
    values = DIFFERENCES[:n]
    noncentrality = compare_with_zero(values)["smallest_detectable"] / stats.sem(values)
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, noncentrality)
    power += stats.nct.cdf(-critical, n - 1, noncentrality)
    assert power == pytest.approx(0.8, abs=0.01)


@given(st.lists(st.integers(1, 64), max_size=8), st.integers(1, 63))
def test_holm_rejects_what_his_procedure_rejects(numbers: list[int], level: int) -> None:
    """From the smallest p on: reject while p is at most the level over the hypotheses left."""
    rejected = set()
    for rank, index in enumerate(sorted(range(len(numbers)), key=numbers.__getitem__)):
        if (len(numbers) - rank) * numbers[index] > level:
            break
        rejected.add(index)
    adjusted = ctc.holm([number / 64 for number in numbers])
    assert {index for index, p in enumerate(adjusted) if p <= level / 64} == rejected
    assert all(p <= 1 for p in adjusted)


UNDECIDED = "undecided: 7 seeds could have shown 0.123"


@pytest.mark.parametrize(
    ("p_adjusted", "mean", "ci90", "words"),
    [
        (0.049, 0.03, [0.01, 0.05], "LWTA forgets less"),
        (0.049, -0.03, [-0.05, -0.01], "ReLU forgets less"),
        (0.001, 0.004, [0.001, 0.0099], "LWTA forgets less by less than 0.010"),
        (0.001, -0.004, [-0.0099, -0.001], "ReLU forgets less by less than 0.010"),
        (0.05, 0.001, [-0.0099, 0.0099], "alike within 0.010"),
        (0.05, 0.001, [-0.0099, 0.01], UNDECIDED),
        (0.05, -0.001, [-0.01, 0.0099], UNDECIDED),
        (1.0, 0.1, [0.05, 0.15], UNDECIDED),
    ],
)
def test_verdict_is_by_the_adjusted_p_and_the_margin(
    p_adjusted: float, mean: float, ci90: list[float], words: str
) -> None:
    difference = {"n": 7, "mean": mean, "ci95": [-1, 1]}
    comparison = {"difference": difference, "ci90": ci90, "smallest_detectable": 0.1234, "p": 0.5}
    assert verdict("ReLU", "LWTA", {**comparison, "p_adjusted": p_adjusted}) == words


def row(seed: int, model: str, value: float | None, status: str = "ok") -> dict[str, Any]:
    """A row of `per_seed`, as far as `aggregate` reads it; every metric is `value`."""
    return {"seed": seed, "model": model, **dict.fromkeys(METRICS, value), "status": status}


def test_failed_runs_are_in_no_mean_and_a_second_line_counts_them_at_chance() -> None:
    records = [
        *(row(0, "relu", 0.25), row(0, "lwta", 0.125)),
        *(row(1, "relu", None, "diverged"), row(1, "lwta", 0.9)),
        *(row(2, "relu", 0.5), row(2, "lwta", 0.8, "untrained")),
        *(row(3, "relu", 0.7, "untrained"), row(3, "lwta", None, "diverged")),
        *(row(4, "relu", 0.75), row(4, "lwta", 0.25)),
        row(5, "relu", 0.9),  # no LWTA at this seed: in a mean, in no pair
    ]
    totals = aggregate(records, ["relu", "lwta"], 0.2)
    assert totals == aggregate(records[::-1], ["relu", "lwta"], 0.2)
    relu, lwta = totals["models"]["relu"], totals["models"]["lwta"]
    assert [relu[status] for status in ("ok", "diverged", "untrained")] == [4, 1, 1]
    assert [lwta[status] for status in ("ok", "diverged", "untrained")] == [3, 1, 1]
    for metric in METRICS:
        assert relu[metric] == summarise([0.25, 0.5, 0.75, 0.9])
        assert lwta[metric] == summarise([0.125, 0.9, 0.25])
    [pair] = totals["pairs"]
    assert (pair["first"], pair["second"]) == ("relu", "lwta")
    assert pair["failed"] == {"relu": 2, "lwta": 2}
    assert pair["difference"] == summarise([0.125, 0.5])
    assert (pair["wins"], pair["losses"], pair["ties"]) == (2, 0, 0)
    at_chance = [0.25 - 0.125, 0.2 - 0.9, 0.5 - 0.2, 0.2 - 0.2, 0.75 - 0.25]
    assert pair["at_chance"] == summarise(at_chance)
    complete = [record for record in records if record["seed"] in (0, 4)]
    assert aggregate(complete, ["relu", "lwta"], 0.2)["pairs"][0]["at_chance"] is None


def test_chance_is_by_the_classes_that_the_softmax_sees() -> None:
    assert ctc.chance(Config()) == pytest.approx(1 / 5)
    assert ctc.chance(Config(tasks=("01", "2345"))) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert ctc.chance(Config(head="single")) == pytest.approx(1 / 10)


def test_the_pairs_of_all_models_are_one_family_but_for_those_without_a_test() -> None:
    models = ["relu", "lwta", "sigmoid"]
    records = [row(s, m, (10 + s) * i / 100) for s in range(7) for i, m in enumerate(models)]
    pairs = aggregate([*records, row(0, "other", 0.5)], [*models, "other"], 0.2)["pairs"]
    tested = [pair for pair in pairs if pair["second"] != "other"]
    assert [(pair["first"], pair["second"], pair["verdict"]) for pair in tested] == [
        ("relu", "lwta", "ReLU forgets less"),
        ("relu", "sigmoid", "ReLU forgets less"),
        ("lwta", "sigmoid", "LWTA forgets less"),
    ]
    assert [(pair["p"], pair["p_adjusted"]) for pair in tested] == [(2 / 128, 6 / 128)] * 3
    others = [pair for pair in pairs if pair not in tested]
    assert [(pair["p_adjusted"], pair["verdict"]) for pair in others] == [(None, None)] * 3


def test_without_forgetting_there_is_no_pair_and_no_verdict() -> None:
    """Joint training, or a single task: accuracies but no forgetting."""
    records = [
        {**row(seed, model, None), "average_accuracy": 0.9}
        for seed in range(3)
        for model in ("relu", "lwta")
    ]
    totals = aggregate(records, ["relu", "lwta"], 0.2)
    assert totals["models"]["relu"]["average_accuracy"]["n"] == 3
    [pair] = totals["pairs"]
    assert (pair["difference"]["n"], pair["wins"], pair["verdict"]) == (0, 0, None)
