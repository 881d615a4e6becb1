"""The one rule of inference: is a paired difference shown, are two things alike, or neither?

It knows nothing of networks: values, records and labels are handed in. The estimate is the mean of
the paired differences with Student's interval; the test flips their signs; p-values are adjusted
within a family by Holm's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np

from compete.files import require

LEVEL = 0.05  # of the adjusted p-values
ALIKE = 0.010  # two means closer than this are called alike
EXACT_PAIRS = 12  # up to so many, every flip of signs is tried
FLIPS = 100_000  # drawn for more
METRICS = ("forgetting", "average_accuracy", "backward_transfer", "forward_transfer")
STATUSES = ("ok", "diverged", "untrained")  # of a run
Runs = dict[int, dict[str, Any]]  # a model's rows of `per_seed`, by seed


def summarise(values: Sequence[float | None]) -> dict[str, Any]:
    """n, mean, median, standard deviation (n - 1) and Student's 95 % interval of the mean.

    Missing values are left out; what too few values cannot give is None.
    """
    present = np.sort(np.array([v for v in values if v is not None], float))
    n = len(present)
    summary: dict[str, Any] = {"n": n, **dict.fromkeys(("mean", "median", "std", "ci95"))}
    if n:
        summary["mean"] = float(present.mean())
        summary["median"] = float(np.median(present))
    if n > 1:
        summary["std"] = float(present.std(ddof=1))
        summary["ci95"] = student_interval(summary, 0.95)
    return summary


def student_interval(summary: dict[str, Any], level: float) -> list[float]:
    """Student's interval of a mean at this level of confidence, from a summary of n > 1 values."""
    n, mean = summary["n"], summary["mean"]
    half = student_t_quantile((1 + level) / 2, n - 1) * summary["std"] / math.sqrt(n)
    return [mean - half, mean + half]


def compare(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Compare two lists of forgetting pair by pair: the difference is first minus second.

    Above zero the second forgets less, which is a win. `p` is the permutation test's; `p_adjusted`
    is the same until `adjust` is told of a family, of `tests` comparisons.
    `smallest_detectable` is the true mean difference that a two-sided 5 % t-test would have found
    with 80 % power, if the spread is the observed one: (t_.975 + t_.8) s / sqrt(n), with n - 1
    degrees of freedom. That is an approximation, good to 1 % of power from 5 pairs on.
    Raises `InputError` for a value that is not a finite number, and for lists of unequal length.
    """
    require(len(first) == len(second), f"{len(first)} values cannot be paired with {len(second)}")
    for value in (*first, *second):
        is_number = isinstance(value, int | float | np.number) and math.isfinite(value)
        require(is_number, f"a comparison needs finite numbers, not {value!r}; leave its pair out")
    # Accuracies are multiples of 1 / test images; a difference below 1e-9 is rounding, so a tie.
    difference = [round(float(a) - float(b), 9) for a, b in zip(first, second, strict=True)]
    summary = summarise(difference)
    wins, losses = sum(d > 0 for d in difference), sum(d < 0 for d in difference)
    comparison = {
        "difference": summary,
        "ci90": None,
        "wins": wins,
        "losses": losses,
        "ties": len(difference) - wins - losses,
        **dict.fromkeys(("p", "p_adjusted", "tests", "smallest_detectable")),
    }
    if summary["n"] > 1:
        comparison["p"] = comparison["p_adjusted"] = permutation_test(difference)
        comparison["tests"] = 1
        comparison["ci90"] = student_interval(summary, 0.90)
        quantiles = sum(student_t_quantile(q, summary["n"] - 1) for q in (0.975, 0.8))
        comparison["smallest_detectable"] = quantiles * summary["std"] / math.sqrt(summary["n"])
    return comparison


def permutation_test(difference: Sequence[float]) -> float:
    """Two-sided sign-flip test of the mean: p of one at least as far from zero by flips alone.

    Exact up to `EXACT_PAIRS` pairs; else (1 + count) / (1 + flips) over `FLIPS` flips drawn from a
    fixed generator (Phipson and Smyth 2010).
    """
    values = np.array(difference, float)  # flipping one takes twice its value from the sum
    n, total = len(values), values.sum()
    least = abs(total) - 1e-12 * np.abs(values).sum()  # sums of other orders are equal but rounding
    if n <= EXACT_PAIRS:
        bits = np.arange(1 << n)[:, None] >> np.arange(n) & 1  # a row a choice of what to flip
        return float(np.mean(np.abs(total - 2 * bits @ values) >= least))
    rng = np.random.default_rng(0)
    extreme = 0
    for _ in range(10):
        octets = rng.integers(0, 256, (FLIPS // 10, -(-n // 8)), np.uint8)
        bits = np.unpackbits(octets, axis=1, count=n).astype(float)
        extreme += int(np.sum(np.abs(total - 2 * bits @ values) >= least))
    return (1 + extreme) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several tests (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.sort(p_values) * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def adjust(family: Sequence[dict[str, Any]]) -> None:
    """Set `p_adjusted` and `tests` of each comparison of a family; those without a p are left."""
    tested = [comparison for comparison in family if comparison["p"] is not None]
    for comparison, p in zip(tested, holm([c["p"] for c in tested]), strict=True):
        comparison["p_adjusted"], comparison["tests"] = p, len(tested)


def pairs_needed(tests: int) -> int:
    """The fewest pairs of which some outcome is shown in a family of so many tests.

    The smallest p of n pairs is 2^(1 - n), and Holm's method multiplies the smallest by `tests`.
    """
    return 1 + math.floor(1 + math.log2(tests / LEVEL))


def verdict(first: str, second: str, comparison: dict[str, Any]) -> str | None:
    """What a comparison says of the two with these labels; None for fewer than two pairs.

    The one rule: a difference is shown by the adjusted permutation test alone; two are alike if
    the 90 % interval lies within `ALIKE` (two one-sided 5 % tests; Schuirmann 1987).
    """
    if comparison["p_adjusted"] is None:
        return None
    low, high = comparison["ci90"]
    alike = low > -ALIKE and high < ALIKE
    if comparison["p_adjusted"] < LEVEL:
        better = second if comparison["difference"]["mean"] > 0 else first
        return f"{better} forgets less" + (f" by less than {ALIKE:.3f}" if alike else "")
    if alike:
        return f"alike within {ALIKE:.3f}"
    n, needed = comparison["difference"]["n"], pairs_needed(comparison["tests"])
    if n < needed:
        return f"{n} seeds can show nothing here, take {needed} or more"
    return f"undecided: {n} seeds could have shown {comparison['smallest_detectable']:.3f}"


def aggregate(
    records: Sequence[dict[str, Any]],
    models: Sequence[str],
    guessing: float,
    against: str | None = None,
) -> dict[str, Any]:
    """Summarise each model's runs, and compare the models pair by pair, or all `against` one.

    `records` are rows of `per_seed` in results.json, of which this gives `aggregate`, but for the
    verdicts, which `judge` sets. A run that diverged or never learned is in no mean, and its seed
    in no pair with that model. Where a pair has such runs, `at_chance` is the difference in average
    accuracy in which they count as `guessing`, so that no model wins by failing.
    """
    by_model = {
        model: {row["seed"]: row for row in records if row["model"] == model} for model in models
    }
    per_model = {
        model: {
            **{status: sum(r["status"] == status for r in rows.values()) for status in STATUSES},
            **{
                metric: summarise([r[metric] for r in rows.values() if r["status"] == "ok"])
                for metric in METRICS
            },
        }
        for model, rows in by_model.items()
    }
    names = combinations(models, 2) if against is None else product([against], models)
    pairs = [
        compare_runs(first, by_model[first], second, by_model[second], guessing)
        for first, second in names
        if first != second
    ]
    return {"models": per_model, "pairs": pairs}


def compare_runs(
    first: str, first_runs: Runs, second: str, second_runs: Runs, guessing: float
) -> dict[str, Any]:
    """Compare two models by the runs of the seeds that both have; see `aggregate`."""
    seeds = sorted(first_runs.keys() & second_runs.keys())
    both = [(first_runs[seed], second_runs[seed]) for seed in seeds]
    complete = [
        [row["forgetting"] for row in pair]
        for pair in both
        if all(row["status"] == "ok" and row["forgetting"] is not None for row in pair)
    ]
    failed = {
        name: sum(pair[place]["status"] != "ok" for pair in both)
        for place, name in enumerate((first, second))
    }
    worth = [
        [r["average_accuracy"] if r["status"] == "ok" else guessing for r in pair] for pair in both
    ]
    return {
        "first": first,
        "second": second,
        "failed": failed,
        **compare([a for a, _ in complete], [b for _, b in complete]),
        "at_chance": summarise([a - b for a, b in worth]) if any(failed.values()) else None,
    }


def judge(settings: Sequence[dict[str, Any]], label: Callable[[str], str]) -> None:
    """Adjust the pairs of all settings, of `aggregate` each, as one family; set their verdicts."""
    pairs = [pair for setting in settings for pair in setting["pairs"]]
    adjust(pairs)
    for pair in pairs:
        pair["verdict"] = verdict(label(pair["first"]), label(pair["second"]), pair)


@cache
def student_t_quantile(probability: float, df: int) -> float:
    """Quantile of Student's t for a probability in [0.5, 0.999] and an integer df >= 1."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, df) < probability else (low, middle)
    return high


def student_t_cdf(t: float, df: int) -> float:
    """Distribution function of Student's t, integer df (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan2(t, math.sqrt(df))
    odd = df % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for i in range(odd, df - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (i + 1) / (i + 2)
    central = math.sin(angle) * total
    if odd:
        central = (angle + central) * 2 / math.pi
    return (1 + central) / 2
