"""The rule of inference on differences like ours: how often it errs, and what it finds.

Samples are drawn with replacement from the paired differences of real conditions, less their mean,
so that nothing is to be found in them, and again with a shift added. The t-test beside it is the
two-sided one at 5 %. Both are exact for symmetric differences; those of some conditions are skewed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compete.inference import EXACT_PAIRS, student_t_quantile
from study.analysis import DIFFERENCE, analyse
from study.runs import PAIR
from study.tables import number, table

PAIRS = (10, 20, 40)
SAMPLES = 500  # of each condition; the standard error of a rate of 5 % is 1 %, of their mean 0.1 %
FLIPS = 500  # instead of the rule's 100,000: that moves no size, and hardly the power


def centred_differences() -> list[np.ndarray]:
    """ReLU minus LWTA less its mean, of every tested condition with 40 pairs or more."""
    values = []
    for family, results in analyse().items():
        for result in results.values():
            if result.tested_in == family and result.numbers["difference"]["n"] >= 40:
                gaps, (relu, lwta) = result.values(DIFFERENCE), map(result.measures.get, PAIR)
                # The order is that of a set, as in the table since its first version.
                values.append(np.array([gaps[seed] for seed in relu.keys() & lwta.keys()]))
    return [difference - difference.mean() for difference in values]


def rejections(samples: np.ndarray, shifts: Sequence[float]) -> list[tuple[float, float]]:
    """How often the rule and the t-test reject at 5 %, for each shift of all samples.

    `samples` is (pairs, samples). One set of flips serves all samples, as the rule's are fixed.
    """
    n = len(samples)
    if n <= EXACT_PAIRS:  # all but the flips of these, which give as much
        signs = 1 - 2 * (np.arange(1 << n - 1)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), (FLIPS, n))
    signs = signs.astype(np.float32)
    flipped, ones = signs @ samples.astype(np.float32), signs.sum(axis=1, keepdims=True)
    error = samples.std(axis=0, ddof=1) / math.sqrt(n)
    rates = []
    for shift in shifts:
        mean = samples.mean(axis=0) + shift
        # Of the exact test's flips one is the sample itself, whose sum may differ by rounding.
        least = (0.99999 * n * abs(mean)).astype(np.float32)
        count = np.count_nonzero(abs(flipped + ones * np.float32(shift)) >= least, axis=0)
        p = count / len(signs) if n <= EXACT_PAIRS else (1 + count) / (1 + len(signs))
        t = abs(mean) > student_t_quantile(0.975, n - 1) * error
        rates.append((float(np.mean(p < 0.05)), float(np.mean(t))))
    return rates


def tables() -> dict[str, str]:
    """The simulation's table in Markdown, by its title; in it are rates in %.

    The shifts are none, and half and all of what the t-test finds in 80 % of normal samples.
    """
    sources, rng, rows = centred_differences(), np.random.default_rng(1), []
    for n in PAIRS:
        detectable = sum(student_t_quantile(q, n - 1) for q in (0.975, 0.8)) / math.sqrt(n)
        rates = [
            rejections(rng.choice(source, (n, SAMPLES)), np.array([0, 0.5, 1]) * d)
            for source, d in ((source, detectable * source.std()) for source in sources)
        ]  # of each condition, for each shift, of both tests
        for test, (none, half, whole) in zip(
            ("the rule", "t-test"), 100 * np.array(rates).T, strict=True
        ):
            found = (np.median(none), none.mean(), none.max(), half.mean(), whole.mean())
            rows.append([f"{n}", test, *(number(rate, 1) for rate in found)])
    heads = ["pairs", "test", "no difference: median condition", "mean", "largest"]
    heads += ["half the detectable: mean", "the detectable: mean"]
    return {"rule: how often a difference is shown, in %": table(heads, rows)}
