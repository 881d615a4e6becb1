"""The one rule of inference, and what many seeds are made into."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compete.files import InputError
from compete.inference import METRICS, adjust, aggregate, compare, holm, summarise, verdict
from compete_to_compute import Config, chance


def compare_with_zero(differences: Any) -> dict[str, Any]:
    return compare(list(differences), [0.0] * len(differences))


@pytest.mark.parametrize("n", [2, 3, 4, 7, 40, 101])
def test_summaries_and_intervals_against_scipy(n: int) -> None:
    values = np.random.default_rng(n).standard_t(3, n).round(6)
    summary = summarise([None, *values, None])
    mean, sem = pytest.approx(np.mean(values), abs=1e-12), stats.sem(values)
    assert (summary["n"], summary["median"]) == (n, np.median(values))
    assert (summary["mean"], summary["std"]) == (mean, pytest.approx(sem * math.sqrt(n)))
    for level, found in ((0.95, summary["ci95"]), (0.9, compare_with_zero(values)["ci90"])):
        expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=sem)
        assert found == pytest.approx(expected, rel=1e-8)  # older scipy is off by 2e-9
    power = stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)  # 80 %, as `compare` explains
    assert compare_with_zero(values)["smallest_detectable"] == pytest.approx(power * sem)
    unknown = dict.fromkeys(("mean", "median", "std", "ci95"))
    assert summarise([None]) == {"n": 0, **unknown}
    assert summarise([0.5]) == {"n": 1, **unknown, "mean": 0.5, "median": 0.5}


def test_compare_takes_first_minus_second_seed_by_seed() -> None:
    # A difference of rounding alone is a tie; a win is a seed on which the second forgets less.
    first, second = [0.5, 0.25, 0.75, 0.125, 0.3 - 0.2], [0.25, 0.125, 0.25, 0.5, 0.2 - 0.1]
    comparison, mirrored = compare(first, second), compare(second, first)
    assert comparison["difference"] == summarise([0.25, 0.125, 0.5, -0.375, 0.0])
    assert [comparison[key] for key in ("wins", "losses", "ties")] == [3, 1, 1]
    assert [mirrored[key] for key in ("wins", "losses", "ties")] == [1, 3, 1]
    assert comparison["p_adjusted"] == comparison["p"] == mirrored["p"]


@pytest.mark.parametrize("values", [[0.1, math.nan], [math.inf, 0.2], [0.1, None], [0.1]])
def test_compare_refuses_what_is_no_number_or_has_no_partner(values: list[float]) -> None:
    with pytest.raises(InputError, match=r"1 values|finite numbers, not (nan|inf|None)"):
        compare(values, [0.1, 0.2])


@cache
def flips(n: int) -> np.ndarray:
    return np.array([*product((-1, 1), repeat=n)])


def share_of_flips(values: np.ndarray) -> float:
    """How many flips of signs have a sum at least as far from zero; exact, in whole numbers."""
    return float(np.mean(np.abs(flips(len(values)) @ values) >= abs(values.sum())))


@given(st.lists(st.integers(-200, 200), min_size=2, max_size=9))
def test_p_is_exact_for_few_pairs(thousandths: list[int]) -> None:
    values = np.array(thousandths)
    assert compare_with_zero(values / 1000)["p"] == share_of_flips(values)


@pytest.mark.parametrize("n", [12, 13])  # the last that is exact, the first that is drawn
def test_p_of_many_pairs_is_a_share_of_drawn_flips_and_never_zero(n: int) -> None:
    thousandths = np.random.default_rng(n).integers(-200, 300, n)
    p, expected = compare_with_zero(thousandths / 1000)["p"], share_of_flips(thousandths)
    deviation = math.sqrt(expected * (1 - expected) / 100_000)
    assert p == pytest.approx(expected, abs=0 if n == 12 else 4 * deviation)
    assert p == compare_with_zero(thousandths / 1000)["p"]  # the flips are the same each time
    assert compare_with_zero([0.1] * 60)["p"] == pytest.approx(1 / 100_001)


@given(st.lists(st.integers(1, 64), max_size=8), st.integers(1, 63))
def test_holm_rejects_what_his_procedure_rejects(numbers: list[int], level: int) -> None:
    """From the smallest p on: reject while p is at most the level over the hypotheses left."""
    rejected = set()
    for rank, index in enumerate(sorted(range(len(numbers)), key=numbers.__getitem__)):
        if (len(numbers) - rank) * numbers[index] > level:
            break
        rejected.add(index)
    adjusted = holm([number / 64 for number in numbers])
    assert {index for index, p in enumerate(adjusted) if p <= level / 64} == rejected
    assert all(p <= 1 for p in adjusted)


@pytest.mark.parametrize(
    ("p", "ci90", "words"),
    [
        (0.049, [0.01, 0.05], "LWTA forgets less"),
        (0.049, [-0.05, -0.01], "ReLU forgets less"),
        (0.001, [0.001, 0.0099], "LWTA forgets less by less than 0.010"),
        (0.05, [-0.0099, 0.0099], "alike within 0.010"),
        (0.05, [-0.0099, 0.01], "undecided: 7 seeds could have shown 0.123"),
        (0.05, [-0.01, 0.0099], "undecided: 7 seeds could have shown 0.123"),
    ],
)
def test_verdict_is_by_the_adjusted_p_and_the_margin(p: float, ci90: list, words: str) -> None:
    comparison = {"difference": {"n": 7, "mean": sum(ci90) / 2}, "ci90": ci90, "tests": 1}
    comparison |= {"p": 0.5, "p_adjusted": p, "smallest_detectable": 0.1234}
    assert verdict("ReLU", "LWTA", comparison) == words


@pytest.mark.parametrize(("tests", "needed"), [(1, 6), (2, 7), (3, 7), (10, 9)])
def test_few_seeds_can_show_nothing_exactly_where_no_outcome_is_shown(
    tests: int, needed: int
) -> None:
    """Equal differences with every pattern of signs, in each test of a family at once."""
    shown = {"ReLU forgets less", "LWTA forgets less"}
    for n in range(2, needed + 1):
        words = set()
        for signs in flips(n):
            comparison = compare_with_zero(0.1 * signs)
            assert comparison["p"] == share_of_flips(signs)
            adjust([comparison, *(dict(comparison) for _ in range(tests - 1))])
            words.add(verdict("ReLU", "LWTA", comparison))
        nothing = f"{n} seeds can show nothing here, take {needed} or more"
        assert words == {nothing} if n < needed else words > shown and nothing not in words


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
    totals = aggregate(records[::-1], ["relu", "lwta"], 0.2, str.upper)
    relu, lwta = totals["models"]["relu"], totals["models"]["lwta"]
    assert [relu[status] for status in ("ok", "diverged", "untrained")] == [4, 1, 1]
    assert [lwta[status] for status in ("ok", "diverged", "untrained")] == [3, 1, 1]
    for metric in METRICS:
        assert relu[metric] == summarise([0.25, 0.5, 0.75, 0.9])
        assert lwta[metric] == summarise([0.125, 0.9, 0.25])
    [pair] = totals["pairs"]
    assert pair["failed"] == {"relu": 2, "lwta": 2}
    assert pair["difference"] == summarise([0.125, 0.5])
    at_chance = [0.25 - 0.125, 0.2 - 0.9, 0.5 - 0.2, 0.2 - 0.2, 0.75 - 0.25]
    assert pair["at_chance"] == summarise(at_chance)
    complete = [record for record in records if record["seed"] in (0, 4)]
    assert aggregate(complete, ["relu", "lwta"], 0.2, str)["pairs"][0]["at_chance"] is None
    # They guess among the classes that the softmax sees.
    assert chance(Config(tasks=("01", "2345"))) == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert chance(Config(head="single")) == pytest.approx(1 / 10)


def test_the_pairs_of_all_models_are_one_family_but_for_those_without_a_test() -> None:
    models = ["relu", "lwta", "sigmoid"]
    records = [row(s, m, (10 + s) * i / 100) for s in range(7) for i, m in enumerate(models)]
    # One seed of a model is no pair, and joint training or a single task has no forgetting.
    records += [row(0, "once", 0.5), *(row(s, "joint", None) for s in range(7))]
    pairs = aggregate(records, [*models, "once", "joint"], 0.2, str.upper)["pairs"]
    found = {(p["first"], p["second"]): (p["p"], p["p_adjusted"], p["verdict"]) for p in pairs}
    assert len(found) == 10
    tested = {pair: found.pop(pair) for pair in [*found] if {*pair} <= {*models}}
    assert tested == {
        ("relu", "lwta"): (2 / 128, 6 / 128, "RELU forgets less"),
        ("relu", "sigmoid"): (2 / 128, 6 / 128, "RELU forgets less"),
        ("lwta", "sigmoid"): (2 / 128, 6 / 128, "LWTA forgets less"),
    }
    assert {*found.values()} == {(None, None, None)}
