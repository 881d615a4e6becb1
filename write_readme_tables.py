#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66", "matplotlib>=3.8"]
# ///
"""Write the README's measured numbers from study/*.json, between its markers.

    python3 write_readme_tables.py

Every measured number in the README stands between `<!-- NAME -->` and `<!-- /NAME -->` and is made
here; a test checks that the README is what this script would write.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import SIZES
from compete_to_compute import (
    STATUSES,
    InputError,
    OneLineParser,
    compare,
    label,
    run_script,
    write_or_stop,
)
from measure_data_movement import answer as movement_answer
from measure_data_movement import detail_tables, overview_table
from study_mechanism import CASES, CONTROL_LEVEL, LABELS, known
from study_open_questions import (
    ALL_THREE,
    PAIR,
    PAPER_ERRORS,
    adjusted_p,
    effective_rate,
    estimate,
    group_report,
    markdown,
    outcome,
    pair_of,
    pairs_text,
    paper_table,
    saved_groups,
    verdict_text,
)

ROOT = Path(__file__).resolve().parent

# Figures of the published run (seed 0, then seeds 0-9; standard deviations with divisor n).
PUBLISHED_SEED_0 = {
    "task1_after_task1": (0.974, 0.973),
    "task1_after_task2": (0.902, 0.951),
    "forgetting": (0.072, 0.022),
    "task2_after_task2": (0.957, 0.951),
}
PUBLISHED_TASK_1 = {  # test accuracy on Task 1 and on Task 2, after each epoch of Task 1
    "relu": ((0.956, 0.143), (0.961, 0.125), (0.971, 0.112), (0.968, 0.112), (0.974, 0.119)),
    "lwta": ((0.963, 0.217), (0.971, 0.147), (0.975, 0.171), (0.973, 0.155), (0.973, 0.162)),
}
PUBLISHED_SEEDS = {"relu": (0.045, 0.021, 4), "lwta": (0.043, 0.028, 6)}


def study(name: str) -> dict[str, Any]:
    """One committed result."""
    path = ROOT / "study" / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run its command first") from None


def interval(values: Sequence[float], digits: int = 3, sign: str = "") -> str:
    """An interval in words."""
    return f"{values[0]:{sign}.{digits}f} to {values[1]:{sign}.{digits}f}"


def many_seeds(name: str) -> dict[str, Any]:
    """ReLU against LWTA in a group of one condition."""
    return study(name)["conditions"][0]["aggregate"]["pairs"][0]


def answer() -> str:
    """What the published configuration shows over many seeds."""
    lines = []
    for name, text in (
        ("published", "With the published run's settings"),
        ("default", "With the same batches for both"),
    ):
        pair = many_seeds(name)
        lines.append(
            f"- {text}, {pair['difference']['n']} seeds: ReLU's forgetting minus LWTA's is "
            f"{told(pair)}: **{pair['verdict']}**. {again(name)}"
        )
    default = cases()["default"]
    learned_by_relu, learned = default["relu_minus"]["fixed"]["task 2"]["means"]
    kept, forgetting = (
        default["relu_minus"]["fixed"]["forgetting"],
        {m: default["models"][m]["measures"]["forgetting"]["mean"] for m in (*PAIR, "fixed")},
    )
    lines.append(
        f"- Whether competition protects, {kept['n']} other seeds: ReLU forgets "
        f"{forgetting['relu']:.3f} and LWTA {forgetting['lwta']:.3f}. In a third network each "
        "image keeps for good the units that won for it before training, so that nothing competes "
        f"while the network learns. It forgets {forgetting['fixed']:.3f}, ReLU minus it "
        f"{estimate(kept)}, less than ReLU on {kept['wins']} seeds; at the end it knows Task 2 to "
        f"{learned:.1%}, ReLU to {learned_by_relu:.1%}."
    )
    return "\n".join(lines)


def told(pair: dict[str, Any]) -> str:
    """A difference with its interval and sign test."""
    difference = pair["difference"]
    return (
        f"{difference['mean']:+.3f} (95 % interval {interval(difference['ci95'], 3, '+')}), LWTA "
        f"forgets less on {pair['wins']} seeds, sign test p = {pair['sign_test_p']:.2g}"
    )


def again(name: str) -> str:
    """What the same seeds gave when they were trained again, where sums have other last bits."""
    (condition,), repeated = study(name)["conditions"], study(f"{name}_again")
    runs = [
        {(seed, m): value for seed, m, status, value, _ in condition["per_seed"] if status == "ok"},
        {
            (r["seed"], r["model"]): r["forgetting"]
            for r in repeated["per_seed"]
            if r["status"] == "ok"
        },
    ]
    seeds = sorted({s for s, _ in runs[0] if all((s, m) in of for of in runs for m in PAIR)})
    means = [[sum(of[seed, m] for of in runs) / 2 for seed in seeds] for m in PAIR]
    (pair,) = repeated["aggregate"]["pairs"]
    return (
        f"The same seeds again, with the BLAS kernel {repeated['environment']['blas_kernel']} for "
        f"{' and '.join(condition['blas_kernels'])}: {told(pair)}: **{pair['verdict']}**. With "
        f"each seed's mean of the two: {told(compare(*means))} (exploratory)."
    )


def seed_0() -> str:
    """The published table for seed 0, beside ours."""
    summary = study("ten_seeds")["headline"]["summary"]
    rows = []
    for key, text in (
        ("task1_after_task1", "Task 1 accuracy after Task 1"),
        ("task1_after_task2", "Task 1 accuracy after Task 2"),
        ("forgetting", "Forgetting"),
        ("task2_after_task2", "Task 2 accuracy after Task 2"),
    ):
        theirs = [f"{value:.3f}" for value in PUBLISHED_SEED_0[key]]
        ours = [f"{summary[model][key]:.3f}" for model in ("relu", "lwta")]
        rows.append([text, ours[0], theirs[0], ours[1], theirs[1]])
    data = study("ten_seeds")
    deviation = max(
        abs(ours - theirs)
        for row in data["schedule"]
        if row["task"] == 1
        for ours, theirs in zip(
            row["test_accuracy"], PUBLISHED_TASK_1[row["model"]][row["epoch"] - 1], strict=True
        )
    )
    last = {
        model: max(abs(summary[model][key] - values[i]) for key, values in PUBLISHED_SEED_0.items())
        for i, model in enumerate(("relu", "lwta"))
    }
    return (
        markdown(["seed 0", "ReLU", "published", "LWTA", "published"], rows)
        + "\n\nDuring Task 1, every test accuracy "
        + (
            "equals the published one to three decimals. "
            if deviation < 0.0005
            else f"is within {deviation:.3f} of the published one. "
        )
        + f"At the end ReLU's figures are within {last['relu']:.3f} of it and LWTA's within "
        f"{last['lwta']:.3f}."
    )


def ten_seeds() -> str:
    """The ten-seed table and its verdict."""
    aggregate = study("ten_seeds")["aggregate"]
    (pair,) = aggregate["pairs"]
    wins = {"relu": pair["losses"], "lwta": pair["wins"]}
    rows = []
    for model in ("relu", "lwta"):
        values = aggregate["models"][model]["forgetting"]
        mean, std, won = PUBLISHED_SEEDS[model]
        rows.append(
            [
                label(model),
                f"{values['mean']:.3f}",
                interval(values["ci95"]),
                f"{values['std']:.3f}",
                f"{values['median']:.3f}",
                f"{values['iqm']:.3f}",
                str(wins[model]),
                f"{mean:.3f} ± {std:.3f}, {won}",
            ]
        )
    head = ["forgetting", "mean", "95 % interval", "std", "median", "IQM", "wins"]
    difference = pair["difference"]
    other = study("published_again")
    ours, theirs = (of["environment"]["blas_kernel"] for of in (study("ten_seeds"), other))
    means = [
        np.mean([r["forgetting"] for r in other["per_seed"] if r["model"] == m and r["seed"] < 10])
        for m in PAIR
    ]
    return (
        markdown([*head, "published mean ± std, wins"], rows)
        + f"\n\nReLU minus LWTA, seed by seed: {difference['mean']:+.3f}, 95 % interval "
        f"{interval(difference['ci95'], 3, '+')} ({difference['n']} pairs, sign test "
        f"p = {pair['sign_test_p']:.2f}). Verdict: **{pair['verdict']}**. With the BLAS kernel "
        f"{theirs} for {ours} the means are {means[0]:.3f} (ReLU) and {means[1]:.3f} (LWTA)."
    )


def visual_claims() -> str:
    """What people say they see, as numbers."""
    data = study("visual_claims")
    rows = [
        [
            values["what"],
            f"{values['relu']['mean']:.3f}",
            f"{values['lwta']['mean']:.3f}",
            interval(values["relu_minus_lwta"]["ci95"], 3, "+"),
        ]
        for values in data["aggregate"].values()
    ]
    head = [f"mean over {data['n']} seeds", "ReLU", "LWTA", "difference, 95 % interval"]
    return markdown(head, rows)


def seed_0_claim() -> list[str]:
    """A row of `claims`: the published contrast at seed 0."""
    first = study("ten_seeds")["headline"]["summary"]
    ratio = first["relu"]["forgetting"] / first["lwta"]["forgetting"]
    return [
        "At seed 0 LWTA forgets 3.3 times less",
        f"{ratio:.1f} times less at seed 0",
        ("reproduced" if ratio > 2 else "not reproduced") + "; one seed shows no effect",
    ]


def average_claim() -> list[str]:
    """A row of `claims`: forgetting over ten and over 200 seeds."""
    (ten,), many = study("ten_seeds")["aggregate"]["pairs"], many_seeds("published")
    return [
        "LWTA forgets less on average",
        f"ten seeds {estimate(ten['difference'])}, {ten['wins']} wins; {many['difference']['n']} "
        f"seeds {estimate(many['difference'])}, {many['wins']} wins",
        judge({"200 seeds": many["difference"]["ci95"]}, "supported", "contradicted"),
    ]


def plateau_claim() -> list[str]:
    """A row of `claims`: how well each task is learned."""
    per_seed = study("ten_seeds")["per_seed"]
    learned = [[row["accuracy_matrix"][i][j] for row in per_seed] for i, j in ((1, 0), (2, 1))]
    reached = all(
        abs(sum(values) / len(values) - goal) < 0.015
        for values, goal in zip(learned, (0.97, 0.95), strict=True)
    )
    return [
        "Task 1 reaches about 97 %, Task 2 about 95 %",
        " and ".join(f"{min(values):.3f} to {max(values):.3f}" for values in learned)
        + " over models and seeds",
        "reproduced" if reached else "not reproduced",
    ]


def field_claim() -> list[str]:
    """A row of `claims`: how localised the first layer's fields are."""
    data = study("visual_claims")
    spread = data["aggregate"]["change_spread"]
    difference = spread["relu_minus_lwta"]["ci95"]
    return [
        "LWTA's first-layer fields are more localised",
        f"spread of the change {spread['relu']['mean']:.2f} (ReLU), {spread['lwta']['mean']:.2f} "
        f"(LWTA) pixels, difference {interval(difference, 2, '+')}, {data['n']} seeds "
        "(viz/W1_relu.png, viz/W1_lwta.png)",
        judge({"spread": difference}, "supported", "contradicted: less localised", "not supported"),
    ]


def band_claim() -> list[str]:
    """A row of `claims`: units of LWTA that fire for one task alone."""
    found = study("visual_claims")["aggregate"]
    shares = {n: found[f"exclusive_{n}"]["lwta"]["mean"] for n in (1, 2)}
    return [
        "A band of LWTA's units fires almost only for one task",
        ", ".join(f"{share:.1%} of layer {n}" for n, share in shares.items()),
        "not supported" if max(shares.values()) < 0.05 else "supported",
    ]


def separation_claim() -> list[str]:
    """A row of `claims`: whose units are more separated, by two measures."""
    found = study("visual_claims")["aggregate"]
    measures = {"S in layer 1": found["selectivity_1"], "gap": found["gap_1"]}
    return [
        "ReLU's units fire for both tasks, LWTA's are separated",
        "; ".join(
            f"{text}: {of['relu']['mean']:.3f} (ReLU), {of['lwta']['mean']:.3f} (LWTA)"
            for text, of in measures.items()
        ),
        judge(
            {text: of["relu_minus_lwta"]["ci95"] for text, of in measures.items()},
            "contradicted: ReLU's are more separated",
            "supported",
            "not supported",
        ),
    ]


def seconds_claim() -> list[str]:
    """A row of `claims`: how long whole processes take."""
    timed = study("benchmark")
    took = {name: of["seconds"]["median"] for name, of in timed["processes"].items()}
    whole = sum(took[name] for name in ("one seed", "visualise", "animate"))
    claimed = {"one seed": (took["one seed"], 0.8), "ten": (took["ten seeds"], 9)}
    claimed["the whole"] = (whole, 10)
    machine = timed["environment"]
    return [
        "One seed takes 0.8 s, ten take 9 s, a seed with plots and animation about 10 s",
        f"{', '.join(f'{ours:.1f} s' for ours, _ in claimed.values())}, whole processes, on "
        f"{machine['processor']}, {machine['cores']} cores",
        "times as long here: "
        + ", ".join(f"{name} {ours / theirs:.1f}" for name, (ours, theirs) in claimed.items()),
    ]


CLAIMS = (
    *(seed_0_claim, average_claim, plateau_claim),
    *(field_claim, band_claim, separation_claim, seconds_claim),
)


def claims() -> str:
    """Each claim of the published run that these results can test."""
    return markdown(["claim", "measured", "verdict"], [claim() for claim in CLAIMS])


def epochs_of(size: str) -> str:
    """How long a size of the benchmark trains, in words."""
    epochs = SIZES[size].epochs
    return f"{epochs} epoch{'s' * (epochs > 1)} a task"


def benchmark() -> str:
    """Training beside its matrix products."""
    data = study("benchmark")
    rows = []
    for size, result in data["training"].items():
        for model in ("relu", "lwta"):
            ratio = result[f"{model}_over_floor"]
            rows.append(
                [
                    f"one model, {size}, {label(model)}, {epochs_of(size)}",
                    f"{result[f'{model}_s']['median']:.2f} s",
                    f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})",
                    "",
                ]
            )
    for name, result in data["processes"].items():
        rows.append(
            [
                f"whole process, {name}",
                f"{result['seconds']['median']:.2f} s",
                f"{result['over_floor']:.2f}" if "over_floor" in result else "",
                f"{result['peak_mb']:.0f} MB",
            ]
        )
    machine = data["environment"]
    lines = []
    for size, variants in data["update_us"].items():
        built = variants["five passes, as built"]["median"]
        config = SIZES[size]
        batches = math.ceil(config.train_per_class * len(config.tasks[0]) / config.batch)
        steps = batches * config.epochs * len(config.tasks)
        step = 1e6 * data["training"][size]["floor_s"]["median"] / steps
        others = "; ".join(
            f"{name} {(result['median'] - built) / step:+.1%}"
            for name, result in variants.items()
            if name != "five passes, as built"
        )
        lines.append(
            f"- {size}: the update of the parameters takes {built:.0f} us, {built / step:.0%} of a "
            f"step's floor. Written otherwise, by this much of the floor more or less: {others}."
        )
    return (
        markdown(["what", "median", "floors", "peak memory"], rows)
        + f"\n\nMeasured on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['blas']} with kernel {machine['blas_kernel']}, one BLAS thread.\n\n- one seed: "
        + ", ".join(f"{name} {value:.2f} s" for name, value in data["breakdown"].items())
        + ".\n"
        + "\n".join(lines)
    )


def times_ours(seconds: dict[str, float], ratio: dict[str, float]) -> str:
    """Median seconds, and the ratio to ours with its spread."""
    return f"{seconds['median']:.2f} s, {ratio_range(ratio)}"


def ratio_range(ratio: dict[str, float]) -> str:
    """A median with the lowest and the highest."""
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def case_name(case: dict[str, Any]) -> str:
    """Size, seeds and threads of a case of peers.py, in words."""
    counts = [(case["seeds"], "seed"), (case["threads"], "thread")]
    return ", ".join([case["size"], *(f"{n} {what}{'s' * (n > 1)}" for n, what in counts)])


def others(case: dict[str, Any]) -> dict[str, Any]:
    """What a case of peers.py found for each library but our own."""
    found = case["libraries"].items()
    return {name: what for name, what in found if not name.startswith("compete_to_compute")}


PEER_TIMES = ("ReLU training", "LWTA training", "whole process")


def peer_times(found: dict[str, Any]) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """Seconds and ratio to ours of each of `PEER_TIMES` that was measured."""
    times = {
        f"{label(m)} training": (found[m]["train_s"], found[m]["over_ours"])
        for m in ("relu", "lwta")
        if m in found
    }
    if "process_s" in found:
        times["whole process"] = (found["process_s"], found["process_over_ours"])
    return times


def peers_ahead(cases: list[dict[str, Any]]) -> list[str]:
    """Where another library takes less time than ours, and whether in every round."""
    behind: dict[bool, list[str]] = {True: [], False: []}  # by whether it was so in every round
    for case in cases:
        for name, found in others(case).items():
            if name.startswith("matrix products"):
                continue
            for what, (_, ratio) in peer_times(found).items():
                if ratio["median"] < 1:
                    place = f"{name}, {what}, {case_name(case)}: {ratio_range(ratio)}"
                    behind[ratio["highest"] < 1].append(place)
    sentences = [
        f"Ours is behind {how}: {'; '.join(behind[always])}."
        for always, how in ((True, "in every round"), (False, "in the median, not in every round"))
        if behind[always]
    ] or ["Ours is behind nowhere in this table, the matrix products apart."]
    if not any("whole process" in place for places in behind.values() for place in places):
        sentences.append("No whole process of another library is quicker than ours.")
    return sentences


def peer_block(case: dict[str, Any]) -> str:
    """Everything that a case of peers.py measured, a row a library."""
    rows = []
    for name, found in case["libraries"].items():
        times = peer_times(found)
        training, whole = [
            [times_ours(*times[what]) if what in times else "" for what in part]
            for part in (PEER_TIMES[:2], PEER_TIMES[2:])
        ]
        warm_up = found.get("warm_up_s")
        first = f"{warm_up['median']:.1f} s, at most {warm_up['highest']:.1f}" if warm_up else ""
        memory = f"{found['peak_mb']['median']:.0f} MB" if "peak_mb" in found else ""
        rows.append([name, *training, first, *whole, memory])
    head = ["library", *PEER_TIMES[:2], "warm-up", PEER_TIMES[2], "memory"]
    rounds = f"median of {case['rounds']} round{'s' * (case['rounds'] > 1)}"
    return (
        f"**{case_name(case)}, {epochs_of(case['size'])}** ({rounds}; times ours, lowest and "
        f"highest)\n\n{markdown(head, rows)}"
    )


def peers() -> str:
    """The same training in other libraries, beside ours: ratios, then everything, folded."""
    data = study("benchmark").get("peers")
    if not data:
        return "Not measured yet: `python3 peers.py` does it."
    cases = list(data["cases"].values())
    ratios: dict[str, dict[str, str]] = {name: {} for name in max(map(others, cases), key=len)}
    differences: dict[str, float] = {}
    for case in cases:
        for name, found in others(case).items():
            times = peer_times(found)
            ratios[name][case_name(case)] = " / ".join(
                f"{times[what][1]['median']:.2f}" if what in times else "-" for what in PEER_TIMES
            )
            for trained in (found.get(m, {}) for m in ("relu", "lwta")):
                if "task1_difference" in trained:
                    largest = max(differences.get(name, 0), trained["task1_difference"])
                    differences[name] = largest
    names = [case_name(case) for case in cases]
    machine = data["environment"]
    notes = [
        "Largest difference of a Task 1 test accuracy from ours, after any epoch of Task 1: "
        + ", ".join(f"{name} {d:.3f}" for name, d in differences.items())
        + ".",
        *(f"{name}: {text}." for name, text in data["notes"].items()),
        *(f"{name} was skipped: {reason}." for name, reason in data["skipped"].items()),
        f"{machine['processor']}, {machine['cores']} cores, {machine['blas']} with kernel "
        f"{machine['blas_kernel']}; "
        + ", ".join(f"{name} {version}" for name, version in data["versions"].items())
        + f". Measured in {data['minutes']:.0f} minutes.",
    ]
    return "\n\n".join(
        [
            markdown(
                ["times ours", *names],
                [[name, *(found.get(n, "") for n in names)] for name, found in ratios.items()],
            ),
            f"Medians, as multiples of ours: {' / '.join(PEER_TIMES)}.",
            *peers_ahead(cases),
            "<details><summary>Seconds, spread, warm-up and memory of each</summary>",
            *map(peer_block, cases),
            "</details>",
            "\n".join(f"- {note}" for note in notes),
        ]
    )


def scale() -> str:
    """What sweeps cost, and where one machine ends."""
    data = study("benchmark")
    rows = [
        [
            f"one unit (a model, a seed), {size}, 5 epochs a task",
            f"{unit['seconds']['median']:.2f} s",
            f"{unit['per_core_hour']:.0f} units per core-hour; 10,000 seeds of two models take "
            f"{20000 / unit['per_core_hour']:.0f} core-hours",
        ]
        for size, unit in data["units"].items()
    ]
    sweeps = list(data["sweeps"].values())
    most = max(sweep["jobs"] for sweep in sweeps)
    per_seed = {
        jobs: [s["seconds_per_seed"] for s in sweeps if s["jobs"] == jobs] for jobs in (1, most)
    }
    for jobs, values in per_seed.items():
        times = [f"{value:.2f}" for value in values]
        counts = [str(sweep["seeds"]) for sweep in sweeps if sweep["jobs"] == jobs]
        rows.append(
            [
                f"a seed in a sweep of {', '.join(counts)}, {jobs} job{'s' if jobs > 1 else ''}",
                f"{', '.join(times)} s",
                f"the largest is {values[-1] / values[0]:.2f} times the smallest sweep's",
            ]
        )
    speedup = [one / all_ for one, all_ in zip(per_seed[1], per_seed[most], strict=True)]
    writing, traffic = data["writing_1000_seeds"], data["cluster_traffic"]
    rows += [
        [
            f"{most} jobs over 1",
            ", ".join(f"{x:.2f}" for x in speedup) + " times",
            f"peak memory of a process {max(s['peak_mb'] for s in sweeps):.0f} MB",
        ],
        [
            "journal and results of 1,000 seeds",
            f"{writing['seconds']:.1f} s",
            f"{writing['share_of_run']:.2%} of the run, {writing['megabytes']:.1f} MB",
        ],
        [
            "so writing alone, on a local disk, allows",
            f"{2000 / writing['seconds']:.0f} units a second",
            "what "
            f"{2000 / writing['seconds'] * data['units']['default']['seconds']['median']:.0f}"
            " cores would finish at the default size; not tried",
        ],
    ]
    if traffic:
        rows.append(
            [
                "traffic of a unit on a Dask cluster",
                f"{traffic['kilobytes_per_unit']:.1f} kB",
                "both ways, scheduler's own messages included",
            ]
        )
    return markdown(["what", "measured", ""], rows)


def judge(
    intervals: dict[str, Sequence[float] | None],
    above: str,
    below: str,
    neither: str = "not shown",
    null: str = "zero",
) -> str:
    """A verdict from several unadjusted intervals, by name: `above` or `below` the null if all are.

    One interval of several is no verdict: by chance some would miss it. It is named.
    """
    there = {name: found for name, found in intervals.items() if found}
    if not there:
        return "no pairs"
    higher = [name for name, (low, _) in there.items() if low > 0]
    lower = [name for name, (_, high) in there.items() if high < 0]
    if len(there) in (len(higher), len(lower)):
        return above if higher else below
    alone = [
        f"{side} {null} only in {', '.join(names)}"
        for side, names in (("above", higher), ("below", lower))
        if names
    ]
    return neither + (f"; the unadjusted interval is {' and '.join(alone)}" if alone else "")


Row = dict[str, Any]  # of `conditions` in study/NAME.json


def gap(row: Row) -> Row:
    """ReLU's forgetting minus LWTA's."""
    return pair_of(row)["difference"]


def gap_change(row: Row) -> Row:
    """What a condition changes in ReLU minus LWTA."""
    return row["change"]["difference"]["difference"]


def gap_spread(row: Row) -> Row:
    """The standard deviation of ReLU minus LWTA over that of the condition compared with."""
    return row["change"]["spread_ratio"]


def forgetting_change(model: str) -> Callable[[Row], Row]:
    """What a condition changes in one activation's forgetting."""
    return lambda row: row["change"]["forgetting"][model]["difference"]


def compared(row: Row) -> bool:
    """Whether a condition is compared with another of its group."""
    return "change" in row


def at_paper_s_scale(row: Row) -> bool:
    """Whether a condition of the group `scale` is as deep and wide as the paper's networks."""
    return row["config"]["relu"]["depth"] == 3


@dataclass(frozen=True)
class StudyClaim:
    """A claim or expectation, the group that tests it, and what is judged.

    `value` is looked at in the conditions for which `where` holds, and judged in those for which
    `decisive` does too: `above` and `below` are the verdicts if all intervals are beyond `null`,
    `neither` if not.
    """

    text: str
    group: str
    value: Callable[[Row], Row]
    above: str
    below: str
    where: Callable[[Row], bool] = lambda row: True
    decisive: Callable[[Row], bool] = lambda row: True
    null: float = 0.0
    neither: str = "not shown"

    def cells(self) -> list[str]:
        """The claim, what was measured, the verdict."""
        rows = [row for row in study(self.group)["conditions"] if self.where(row)]
        values = {row["label"]: self.value(row) for row in rows}
        measured = "; ".join(
            f"{name}: {estimate(value, '' if self.null else '+')}"
            + (f", n = {value['n']}" if "n" in value else "")
            for name, value in values.items()
        )
        bounds = {row["label"]: values[row["label"]]["ci95"] for row in rows if self.decisive(row)}
        beyond = {name: of and [b - self.null for b in of] for name, of in bounds.items()}
        null = "one" if self.null else "zero"
        verdict = judge(beyond, self.above, self.below, self.neither, null)
        return [self.text, measured, verdict]


MOVES_TO_LWTA, MOVES_TO_RELU = "contradicted: towards LWTA", "contradicted: towards ReLU"
SUPPORTED, RELU_LESS = "supported", "contradicted: ReLU forgets less"
STUDY_CLAIMS = (
    StudyClaim(
        *("LWTA forgets less under the paper's protocol", "paper-chosen"),
        *(gap, SUPPORTED, RELU_LESS),
    ),
    StudyClaim(
        *("LWTA forgets less at the paper's scale", "scale", gap, SUPPORTED, RELU_LESS),
        where=at_paper_s_scale,
    ),
    StudyClaim(
        "The advantage grows with scale: change of ReLU minus LWTA against 400x2, 5 epochs",
        *("scale", gap_change, SUPPORTED, "contradicted: it shrinks"),
        where=at_paper_s_scale,
    ),
    *(
        StudyClaim(
            *(f"Dropout helps: change of {label(model)}'s forgetting", "dropout"),
            *(forgetting_change(model), "contradicted: it forgets more", SUPPORTED),
            where=compared,
        )
        for model in PAIR
    ),
    StudyClaim(
        *("Dropout helps LWTA more: change of ReLU minus LWTA", "dropout"),
        *(gap_change, SUPPORTED, "contradicted: it helps ReLU more"),
        where=compared,
    ),
    StudyClaim(
        *("Dropout steadies the contrast: its std over that without", "dropout"),
        *(gap_spread, "contradicted: it varies more", SUPPORTED),
        where=compared,
        null=1.0,
    ),
    *(
        StudyClaim(
            f"Permuted MNIST is harder: {label(model)}'s forgetting minus that on split digits",
            *("permuted", forgetting_change(model)),
            "supported; but its two tasks also share their ten outputs",
            "contradicted: it forgets less",
            where=compared,
        )
        for model in PAIR
    ),
    StudyClaim(
        "Permuted MNIST gives a noisier contrast: its std over that on split digits",
        *("permuted", gap_spread, SUPPORTED, "contradicted: it varies less"),
        where=compared,
        null=1.0,
    ),
    StudyClaim(
        *("On permuted MNIST, trained longer, LWTA forgets less", "permuted"),
        *(gap, SUPPORTED, RELU_LESS),
        where=compared,
        decisive=lambda row: row["config"]["relu"]["epochs"] == 50,
    ),
    StudyClaim(
        "k = 4 gives noisier results: std of ReLU minus LWTA over that of k = 2",
        *("block", gap_spread, SUPPORTED, "contradicted: less noisy"),
        where=lambda row: row["label"] == "k 4, equal units",
        null=1.0,
    ),
    StudyClaim(
        "The high variance is that of small networks: std of ReLU minus LWTA over that of 400",
        *("width", gap_spread, "contradicted: wider networks vary more", SUPPORTED),
        where=compared,
        decisive=lambda row: row["config"]["relu"]["hidden"] > 400,
        null=1.0,
    ),
    StudyClaim(
        "Two layers give the same as the paper's 2-3: change of ReLU minus LWTA against depth 2",
        *("depth", gap_change, MOVES_TO_LWTA, MOVES_TO_RELU),
        where=compared,
        decisive=lambda row: row["config"]["relu"]["depth"] == 3,
        neither="no change shown",
    ),
    StudyClaim(
        "The width does not matter: change of ReLU minus LWTA against 400",
        *("width", gap_change, MOVES_TO_LWTA, MOVES_TO_RELU),
        where=compared,
        neither="no change shown",
    ),
)


def study_claims() -> str:
    """Claims and expectations of the source that the study's groups test."""
    kept = study("single-head")["conditions"][-1]["first_task_kept"]
    collapse = [
        "Without the mask every network loses Task 1",
        "accuracy on Task 1 at the end: "
        + ", ".join(f"{value['mean']:.3f} ({label(model)})" for model, value in kept.items()),
        SUPPORTED if max(value["mean"] for value in kept.values()) < 0.2 else "not supported",
    ]
    rows = [*(claim.cells() for claim in STUDY_CLAIMS), collapse]
    return markdown(["claim or expectation", "measured", "verdict"], rows)


# What a reader should know first: a text, the group, and its condition or each seed's mean.
FINDINGS = (
    ("Digits 0-4, then 5-9", "default", "default"),
    ("Twelve splits, each seed's mean", "partition", "pooled"),
    ("Ten splits (one also above), other seeds", "partition-again", "pooled"),
    ("Five tasks of two digits", "five-task", "01 23 45 67 89"),
    ("Four layers instead of two", "depth", "depth 4"),
    ("1 epoch a task instead of 5", "epochs", "epochs 1"),
    ("Blocks of 8, as many units", "block", "k 8, equal units"),
    ("Blocks of 16, as many units", "block", "k 16, equal units"),
    ("Blocks of 8, as many active units, 1600 in all", "block", "k 8, equal active units"),
    (
        "Blocks of 8, as many active units, ReLU as wide",
        "block",
        "k 8, equal active units, ReLU as wide",
    ),
    ("Blocks of 16, as many active units, 3200 in all", "block", "k 16, equal active units"),
    (
        "Blocks of 16, as many active units, ReLU as wide",
        "block",
        "k 16, equal active units, ReLU as wide",
    ),
    *(
        (f"Next to LWTA's edge, {where}, without failed runs", "optimiser", where)
        for where in ("lr 0.05, momentum 0.95", "lr 0.1, momentum 0.9")
    ),
    ("No momentum, lr 0.02, other seeds", "momentum", "lr 0.02, momentum 0.0"),
    ("No momentum, lr 0.05, other seeds", "momentum", "lr 0.05, momentum 0.0"),
    ("Momentum 0.95, lr 0.01, other seeds", "momentum", "lr 0.01, momentum 0.95"),
    ("Momentum 0.95, lr 0.02, other seeds", "momentum", "lr 0.02, momentum 0.95"),
    ("Dropout 0.5, input 0.2", "dropout", "hidden 0.5, input 0.2"),
    ("Ten digits, then permuted, 5 epochs", "permuted", "ten digits, then permuted, 5 epochs"),
    ("Ten digits, then permuted, 50 epochs", "permuted", "ten digits, then permuted, 50 epochs"),
    ("3 layers of 800, 50 epochs", "scale", "800x3, 50 epochs"),
    ("3 layers of 1024, 50 epochs", "scale", "1024x3, 50 epochs"),
)


def findings() -> str:
    """The study in one table: ReLU minus LWTA where it matters most."""
    groups = {result["name"]: result for result in saved_groups()}
    rows = []
    for text, name, where in FINDINGS:
        if name not in groups:
            continue
        if where == "pooled":
            pair = groups[name]["pooled"]
            forgetting, pairs = pair["forgetting"], f"{pair['difference']['n']}"
        else:
            row = next(row for row in groups[name]["conditions"] if row["label"] == where)
            pair, pairs = pair_of(row), pairs_text(row)
            models = row["aggregate"]["models"]
            forgetting = {model: models[model]["forgetting"] for model in ("relu", "lwta")}
        rows.append(
            [
                text,
                pairs,
                *(estimate(forgetting[m], "").partition(" ")[0] for m in ("relu", "lwta")),
                estimate(pair["difference"]),
                f"{pair['wins']} of {pair['difference']['n']}",
                adjusted_p(pair) if where != "pooled" else f"{pair['sign_test_p']:.2g}",
                verdict_text(pair),
            ]
        )
    head = ["forgetting", "pairs", "ReLU", "LWTA", "ReLU minus LWTA, 95 % interval"]
    return markdown([*head, "LWTA's wins", "p", "verdict"], rows)


def paper() -> str:
    """The paper's table beside ours, whether we find its gap and why, and what moves the error."""
    return "\n\n".join(
        [
            paper_table(study("paper-chosen")),
            gap_of_the_paper(study("paper-chosen")["conditions"], study("paper")["conditions"]),
            by_effective_rate(study("paper")["conditions"]),
            by_stopping_loss(study("paper-stopping")["conditions"]),
        ]
    )


def error_after(row: Row, model: str) -> float | None:
    """Task 1's mean test error after Task 2, in %; None where no run trained."""
    mean = row["first_task_kept"][model]["mean"]
    return None if mean is None else 100 * (1 - mean)


def error_text(row: Row, model: str) -> str:
    """Task 1's mean test error after Task 2, with the number of runs and of those that failed."""
    totals, error = row["aggregate"]["models"][model], error_after(row, model)
    run = sum(totals[status] for status in STATUSES)
    if not run:
        return "not run"
    failed = f", {run - totals['ok']} of {run} fail" if totals["ok"] < run else ""
    return (
        f"{run} of {run} fail" if error is None else f"{error:.1f} % (n = {totals['ok']}{failed})"
    )


def gap_of_the_paper(chosen: Sequence[Row], grid: Sequence[Row]) -> str:
    """Whether the paper's gap is shown, and where our grid comes closest to it."""
    (reported, spread), (of_lwta, _) = (PAPER_ERRORS[model][1] for model in PAIR)
    shown = [row["label"] for row in chosen if pair_of(row)["verdict"] == "LWTA forgets less"]
    high = [row for row in grid if (error_after(row, "relu") or 0) >= reported - spread]
    trained = sum(row["aggregate"]["models"]["lwta"]["ok"] for row in high)

    def elsewhere(model: str) -> str:
        errors = [error_after(row, model) for row in grid if row not in high]
        known = [error for error in errors if error is not None]
        return f"{label(model)} errs {min(known):.1f} to {max(known):.1f} %"

    widest = max((row for row in grid if row["n"]), key=lambda row: gap(row)["mean"])
    runs = [
        sum(totals[status] for status in STATUSES)
        for row in grid
        for totals in row["aggregate"]["models"].values()
    ]
    planned = grid[0]["seeds_planned"]
    return (
        f"The paper's gap, an error after Task 2 of {reported} % for ReLU and {of_lwta} % for "
        f"LWTA, is shown at {' and '.join(shown) or f'none of the {len(chosen)} settings'}. In "
        f"the grid ReLU errs at least {reported - spread:.1f} %, the paper's mean less a standard "
        f"deviation, at {'; '.join(row['label'] for row in high) or 'no setting'}. LWTA trains "
        f"there in {trained or 'none'} of its runs. Elsewhere "
        f"{' and '.join(map(elsewhere, PAIR))}. The grid's widest gap in LWTA's favour is at "
        f"{widest['label']}: in forgetting {estimate(gap(widest))}, n = {widest['n']}. The grid "
        f"has {len(grid)} settings, with {planned} seeds planned for each of three activations; "
        f"{sum(runs)} of {planned * len(runs)} runs are there."
    )


def by_effective_rate(grid: Sequence[Row]) -> str:
    """How Task 1's error after Task 2 follows learning rate and momentum."""
    depths = sorted({row["config"]["relu"]["depth"] for row in grid})
    settings: dict[tuple[float, float, float], dict[int, Row]] = {}
    for row in sorted(grid, key=effective_rate):
        config = row["config"]["relu"]
        key = (effective_rate(row), config["lr"], config["momentum"])
        settings.setdefault(key, {})[config["depth"]] = row
    rows = [
        [f"{rate:.1f}", f"{lr}", f"{m}"]
        + [error_text(of[depth], model) for depth in depths for model in ALL_THREE]
        for (rate, lr, m), of in settings.items()
    ]
    head = ["the grid: lr / (1 - m)", "lr", "m"]
    head += [f"{depth} layers, {label(model)}" for depth in depths for model in ALL_THREE]
    return markdown(head, rows)


def by_stopping_loss(stops: Sequence[Row]) -> str:
    """How Task 1's error after Task 2 follows the training loss that ends a task."""
    rows = [
        [
            f"{row['config']['relu']['target_loss']:g}",
            *(error_text(row, model) for model in PAIR),
            estimate(gap(row)),
            verdict_text(pair_of(row)),
        ]
        for row in stops
    ]
    config = stops[0]["config"]["relu"]
    head = [
        f"training loss that ends a task; depth {config['depth']}, lr {config['lr']}, momentum "
        f"{config['momentum']}"
    ]
    head += [*(label(model) for model in PAIR), "forgetting, ReLU minus LWTA", "verdict"]
    return markdown(head, rows)


def edge() -> str:
    """How large the differences of the phase diagram are, next to LWTA's edge and elsewhere."""
    rows = [row for row in study("optimiser")["conditions"] if row["n"]]
    failing = [row for row in rows if pair_of(row)["failed"]["lwta"]]
    others = [row for row in rows if row not in failing]

    def reach(of: Sequence[Row]) -> str:
        means = [gap(row)["mean"] for row in of]
        return f"{min(means):+.3f} to {max(means):+.3f}"

    standing = [row for row in rows if pair_of(row)["sign_test_p_holm"] < 0.05]
    return (
        f"In the {len(failing)} cells in which some LWTA runs fail but not all, ReLU minus LWTA is "
        f"{reach(failing)}; in the {len(others)} in which none does it is {reach(others)}. An "
        "adjusted p is "
        f"below .05 at {' and at '.join(row['label'] for row in standing) or 'none'}."
    )


def momentum() -> str:
    """The effect without and with much momentum, on fresh seeds."""
    rows = study("momentum")["conditions"]
    lines = [
        f"- {row['label']}: ReLU minus LWTA {estimate(pair_of(row)['difference'])} over "
        f"{row['n']} seeds, LWTA forgets less on {pair_of(row)['wins']}: "
        f"{verdict_text(pair_of(row))} (adjusted p {adjusted_p(pair_of(row))}). "
        "Task 1's accuracy, ReLU minus LWTA, after Task 1: "
        f"{estimate(row['learned_difference']['difference'])}; at the end: "
        f"{estimate(row['kept_difference']['difference'])}."
        for row in rows
    ]
    (moved,) = [row for row in rows if "change" in row]
    found = moved["change"]["difference"]["difference"]
    low, high = found["ci95"]
    shown = "" if low > 0 or high < 0 else " not"
    lines.append(
        f"- From {moved['change']['against']} to {moved['label']} that changes by "
        f"{estimate(found)} over {found['n']} seeds: a shift towards LWTA is{shown} shown "
        "(exploratory, one unadjusted interval)."
        if found["mean"] > 0
        else f"- With momentum it changes by {estimate(found)}: no shift towards LWTA."
    )
    return "\n".join(lines)


def open_questions() -> str:
    """The groups of the study, each with its outcome in a line and its tables folded."""
    results = saved_groups()
    spent, planned = (
        sum(result[key] for result in results) / 3600
        for key in ("core_seconds", "core_seconds_planned")
    )
    unknown = [text for result in results for text in result["cost_unknown"]]
    kernels: Counter[str] = Counter()
    for result in [*results, {"conditions": study("mechanism")["cases"]}]:
        for row in result["conditions"]:
            kernels.update(row["blas_kernels"])
    mechanism = study("mechanism")["core_seconds"] / 3600
    parts = [
        f"{len(results)} groups, {sum(len(r['conditions']) for r in results)} conditions, "
        f"{spent:.1f} core-hours of training so far; every seed planned takes about {planned:.0f} "
        "(a model that two groups share is counted in both; "
        + (
            f"without what has no run yet: {'; '.join(unknown)}). "
            if unknown
            else "all have runs). "
        )
        + f"`study_mechanism.py` took {mechanism:.1f} more. Models were trained with the BLAS "
        f"kernels {' and '.join(f'{name} ({n:,})' for name, n in kernels.most_common())}; the "
        "files count them by condition. Their `environment` is that of the tables."
    ]
    for result in results:
        hours = result["core_seconds"] / 3600
        parts.append(
            f"<details><summary><b>{result['question']}</b> {outcome(result)}</summary>\n\n"
            f"`{result['command']}`, {hours:.1f} core-hours\n\n"
            f"{group_report(result)}\n\n</details>"
        )
    return "\n\n".join(parts)


def cases() -> dict[str, dict[str, Any]]:
    """The cases of the study of the mechanism, by name."""
    return {row["label"]: row for row in study("mechanism")["cases"]}


def of_both(case: dict[str, Any], measure: str, form: str = ".3f", factor: float = 1) -> str:
    """The mean of a measure for ReLU and for LWTA, and the interval of their paired difference."""
    means = ", ".join(
        f"{factor * case['models'][model]['measures'][measure]['mean']:{form}} ({LABELS[model]})"
        for model in PAIR
    )
    low, high = case["relu_minus"]["lwta"][measure]["ci95"]
    return f"{means}, difference {factor * low:+{form}} to {factor * high:+{form}}"


def by_layer(text: Callable[[int], str], layers: Sequence[int] = (1, 2)) -> str:
    """A text for each layer."""
    return "; ".join(f"layer {layer}: {text(layer)}" for layer in layers)


def differences(case: dict[str, Any], measure: str) -> dict[str, list[float]]:
    """The intervals of ReLU minus LWTA by layer; `measure` has a place for its number."""
    return {f"layer {n}": case["relu_minus"]["lwta"][measure.format(n)]["ci95"] for n in (1, 2)}


def pairs_in(case: dict[str, Any]) -> str:
    """How many seeds both networks of a case finished, and how many were planned if more."""
    found, planned = case["relu_minus"]["lwta"]["forgetting"]["n"], case["seeds_planned"]
    return f"{found}" if found == planned else f"{found} of {planned}"


Cases = dict[str, dict[str, Any]]


def every_unit_responds(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: how many units an image makes active."""
    case, measure = every["default"], "activity, layer {}, after Task 2"
    relu = [case["models"]["relu"]["measures"][measure.format(n)]["mean"] for n in (1, 2)]
    return [
        "Every ReLU unit responds to every input, so Task 2 reaches every weight",
        "share of units active for an image, whose weights alone its gradient changes: "
        + by_layer(lambda n: of_both(case, measure.format(n), ".0%")),
        pairs_in(case),
        "contradicted: fewer of ReLU's units are active than of LWTA's"
        if all(low < 0 and high < 0 for low, high in differences(case, measure).values())
        else "supported"
        if min(relu) > 0.9
        else "contradicted",
        "table of the controls",
    ]


def task_1_drops_at_once(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: the early dip, in every case."""
    dips = {name: case["relu_minus"]["lwta"]["dip"] for name, case in every.items()}
    relu_more = [name for name, dip in dips.items() if dip["ci95"] and dip["ci95"][0] > 0]
    lwta_more = [name for name, dip in dips.items() if dip["ci95"] and dip["ci95"][1] < 0]
    stays = every["default"]["models"]["lwta"]["measures"]["dip"]["ci95"][0] <= 0
    case, dip = every["default"], dips["default"]
    counts = f"ReLU's drops more in {len(relu_more)}, LWTA's in {len(lwta_more)} of {len(dips)}"
    return [
        "ReLU's Task 1 accuracy drops as soon as Task 2 starts, LWTA's stays",
        f"the most that is lost within the first 40 updates: {of_both(case, 'dip')}; LWTA's drops "
        f"less on {dip['wins']} seeds, ReLU's on {dip['losses']}. Cases in which ReLU's drops "
        f"more: {'; '.join(relu_more) or 'none'}. LWTA's: {'; '.join(lwta_more) or 'none'}",
        f"{pairs_in(case)} (default)",
        f"{'supported' if stays else 'contradicted: both drop'}; {counts} cases, unadjusted",
        "matching_rule.png",
    ]


def units_are_divided(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: segregation against ReLU's, chance and other halves."""
    case, measure = every["default"], "information, layer {}, after Task 2"
    own, other = (
        [
            case["models"][model]["measures"][f"{what}, layer {n}, after Task 2"]["mean"]
            for model in PAIR
            for n in (1, 2)
        ]
        for what in ("information", "information_chance")
    )
    random = case["models"]["random"]["measures"][measure.format(1)]["mean"]
    return [
        "LWTA's units are divided between the tasks, more than ReLU's",
        "millibits a unit's gate tells about the task, after Task 2: "
        + by_layer(lambda n: of_both(case, measure.format(n), ".1f", 1000))
        + "; about other halves of the digits: "
        + by_layer(
            lambda n: of_both(case, f"information_chance, layer {n}, after Task 2", ".1f", 1000)
        )
        + f"; by chance alone (winners drawn at random): {1000 * random:.1f}",
        pairs_in(case),
        "not supported: both networks tell the tasks apart less than other halves of the digits"
        if all(x < y for x, y in zip(own, other, strict=True))
        else judge(differences(case, measure), "contradicted: ReLU's more", "supported"),
        "layers.png",
    ]


def deeper_layers_are_divided(every: Cases) -> list[list[str]]:
    """Rows of `mechanism_claims`: segregation of deeper layers against the first, by moment."""
    rows = []
    for task in (1, 2):
        texts, verdicts = [], []
        for key, measure in (("information", "millibits"), ("gap", "gap, thousandths")):
            for model in reversed(PAIR):
                found = {
                    f"{layer} of {every[name]['config'][model]['depth']}": every[name]["models"][
                        model
                    ]["deeper minus first"][f"{key}, layer {layer}, after Task {task}"]
                    for name, layer in (
                        ("default", 2),
                        *(("four layers", deep) for deep in (2, 3, 4)),
                    )
                }
                said = judge(
                    {f"layer {name}": value["ci95"] for name, value in found.items()},
                    "supported",
                    "contradicted: less",
                )
                verdicts.append(f"{LABELS[model]}, {measure}: {said}")
                texts.append(
                    f"{LABELS[model]}, {measure}: "
                    + ", ".join(
                        f"{name}: {1000 * value['mean']:+.1f} "
                        f"({interval([1000 * bound for bound in value['ci95']], 1, '+')})"
                        for name, value in found.items()
                    )
                )
        rows.append(
            [
                f"Deeper LWTA layers are more divided than the first, after Task {task}",
                f"more than in the first layer: {'; '.join(texts)}",
                f"{pairs_in(every['default'])}; {pairs_in(every['four layers'])}",
                "; ".join(verdicts),
                "layers.png",
            ]
        )
    return rows


def correlations(case: dict[str, Any], measure: str) -> tuple[dict[str, Any], str]:
    """LWTA's rank correlations of a measure with forgetting by layer, and both networks' text."""
    texts = []
    for model in ("lwta", "relu"):
        related = case["models"][model]["correlation with forgetting"]
        found = {f"layer {n}": related[measure.format(n)] for n in (1, 2)}
        texts.append(
            f"{LABELS[model]} "
            + ", ".join(
                f"{layer}: {of['r']:+.2f} ({interval(of['ci95'], 2, '+')})"
                for layer, of in found.items()
            )
        )
        if model == "lwta":
            judged = {layer: of["ci95"] for layer, of in found.items()}
    return judged, "; ".join(texts)


def division_predicts_forgetting(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: segregation and forgetting over seeds."""
    case = every["default"]
    judged, text = correlations(case, "information, layer {}, after Task 1")
    return [
        "LWTA networks that are more divided after Task 1 forget less",
        f"rank correlation of a unit's information with forgetting over seeds: {text}",
        pairs_in(case),
        judge(judged, "contradicted: they forget more", "supported"),
        "mechanism.json",
    ]


def dropout_divides(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: what dropout does to segregation after Task 1."""
    name = "lr 0.02, dropout 0.5"
    moved = every[name]["change"]["information"]
    found = {
        model: {f"layer {n}": moved[model][f"information, layer {n}, after Task 1"] for n in (1, 2)}
        for model in PAIR
    }
    texts = [
        f"{LABELS[model]}, {layer}: {1000 * of['mean']:+.1f} "
        f"({interval([1000 * bound for bound in of['ci95']], 1, '+')})"
        for model in reversed(PAIR)
        for layer, of in found[model].items()
    ]
    relu_too = all(of["ci95"][0] > 0 for of in found["relu"].values())
    return [
        "Dropout makes LWTA's blocks specialise earlier, in Task 1",
        "millibits a unit's gate tells about the task after Task 1, dropout 0.5 minus none: "
        + "; ".join(texts),
        f"{found['lwta']['layer 1']['n']} of {every[name]['seeds_planned']}",
        judge(
            {layer: of["ci95"] for layer, of in found["lwta"].items()},
            "supported" + ("; it does so to ReLU's units too" if relu_too else ""),
            "contradicted: less",
        ),
        "mechanism.json",
    ]


def few_weights_change(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: weights that Task 2 leaves alone, where no decay moves them."""
    measure = "weights untouched, layer {}"
    still = {
        "momentum restarted": every["no decay, restarted"],
        "no momentum": every["lr 0.05, momentum 0"],
    }
    return [
        "Only a strict subset of LWTA's weights changes during Task 2, unlike ReLU's",
        "weights with the same bits, without decay: "
        + "; ".join(
            f"{name}, {by_layer(lambda n, case=case: of_both(case, measure.format(n), '.1%'))}"
            for name, case in still.items()
        )
        + "; as published, share that holds 90 % of the squared change: "
        + by_layer(lambda n: of_both(every["default"], f"weights carrying, layer {n}", ".1%")),
        "; ".join(pairs_in(case) for case in (*still.values(), every["default"])),
        judge(
            {
                f"{layer} ({name})": found
                for name, case in still.items()
                for layer, found in differences(case, measure).items()
            },
            "not supported: fewer stand still than in ReLU",
            "supported: more stand still than in ReLU",
            "not supported: some of ReLU's stand still too",
        ),
        "reach.png",
    ]


def winners_stay(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: active units that Task 2 silences."""
    case, measure = every["default"], "changed silenced, layer {}"
    as_active = {f"layer {n}": case["lwta_minus"]["shifted"][measure.format(n)] for n in (1, 2)}
    fewer = {layer: [-high, -low] for layer, (low, high) in differences(case, measure).items()}
    return [
        "Task 1's winners stay while Task 2 is learned",
        "share of Task 1's active units that Task 2 silences, over its images: "
        + by_layer(lambda n: of_both(case, measure.format(n), ".1%"))
        + "; LWTA minus a ReLU network that is as active: "
        + "; ".join(
            f"{layer}: {of['mean']:+.1%} ({interval([100 * b for b in of['ci95']], 1, '+')})"
            for layer, of in as_active.items()
        ),
        pairs_in(case),
        judge(
            {
                **{f"{layer}, against ReLU": found for layer, found in fewer.items()},
                **{f"{layer}, as active": of["ci95"] for layer, of in as_active.items()},
            },
            "contradicted: fewer stay",
            "supported: more stay",
            "not supported by every comparison",
        ),
        "reach.png",
    ]


def replaced_winners_cost(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: LWTA's replaced winners, over seeds and by experiment."""
    case = every["default"]
    _, text = correlations(case, "changed silenced, layer {}")
    saved = case["lwta_minus"]["kept"]["forgetting"]
    return [
        "LWTA forgets because Task 2 replaces Task 1's winners",
        f"rank correlation of the share that Task 2 silences with forgetting: {text}; but LWTA's "
        f"forgetting minus that with the winners kept from the switch on: {estimate(saved)}",
        f"{pairs_in(case)}; {saved['n']}",
        judge(
            {"kept": saved["ci95"]},
            "supported: keeping them saves",
            "contradicted: keeping them costs more",
            "not supported: keeping them is not shown to save anything",
        ),
        "controls.png",
    ]


def competition_protects(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: LWTA against winners that never were learned."""
    case = every["default"]
    level = f"lost at {CONTROL_LEVEL}"
    against_relu, against_lwta = (case[of]["fixed"][level] for of in ("relu_minus", "lwta_minus"))
    lwta = case["relu_minus"]["lwta"][level]
    ends = [case["models"][m]["measures"]["task 2"]["mean"] for m in (*PAIR, "fixed")]
    worse = case["lwta_minus"]["fixed"]["task 2"]["ci95"][0] > 0
    return [
        "What protects is competition that goes on while the network learns",
        f"lost on Task 1 when Task 2 first reaches {CONTROL_LEVEL:.1%}: "
        f"{against_relu['means'][0]:.3f} (ReLU), {lwta['means'][1]:.3f} (LWTA), "
        f"{against_lwta['means'][1]:.3f} (winners of the untrained network, kept for good); ReLU "
        f"minus LWTA {estimate(lwta)}, LWTA minus the last {estimate(against_lwta)}; Task 2 at the "
        f"end: {', '.join(f'{end:.3f}' for end in ends)}",
        f"{lwta['n']}; {against_lwta['n']}",
        judge(
            {"matched": against_lwta["ci95"]},
            "contradicted: a network in which nothing competes forgets less"
            + (", and learns Task 2 less well" if worse else ""),
            "supported",
        ),
        "controls.png",
    ]


def representation_is_lost(every: Cases) -> list[str]:
    """A row of `mechanism_claims`: what a refitted linear probe loses, beside forgetting."""
    case = every["default"]
    lost, forgotten, untrained = (
        {model: case["models"][model]["measures"][name]["mean"] for model in PAIR}
        for name in ("probe lost", "forgetting", "probe before")
    )
    share, found = max(lost[m] / forgotten[m] for m in PAIR), min(untrained.values())
    return [
        "Task 1's representation is overwritten",
        "forgetting "
        + of_both(case, "forgetting")
        + "; a linear probe on the last hidden layer, before training "
        + of_both(case, "probe before")
        + ", after Task 1 "
        + of_both(case, "probe after Task 1")
        + "; what the probe loses over Task 2: "
        + of_both(case, "probe lost")
        + "; with four layers: "
        + of_both(every["four layers"], "probe lost"),
        f"{pairs_in(case)}; {pairs_in(every['four layers'])}",
        f"not shown: the probe loses at most {share:.0%} of what is forgotten, but it finds "
        f"{found:.0%} in the untrained network, so it cannot tell"
        if share < 0.5 and found > 0.9
        else "supported: the probe loses it too"
        if share >= 0.5
        else "contradicted: the probe keeps what was learned",
        "controls.png",
    ]


MECHANISM_CLAIMS = (
    every_unit_responds,
    task_1_drops_at_once,
    units_are_divided,
    deeper_layers_are_divided,
    division_predicts_forgetting,
    dropout_divides,
    few_weights_change,
    winners_stay,
    replaced_winners_cost,
    competition_protects,
    representation_is_lost,
)


def mechanism_claims() -> str:
    """What competition is said to do inside the network, and what it does."""
    every = cases()
    head = ["claim", "measured, with 95 % intervals", "seeds", "verdict", "figure or file"]
    rows: list[list[str]] = []
    for claim in MECHANISM_CLAIMS:
        found = claim(every)
        rows += found if isinstance(found[0], list) else [found]
    return markdown(head, rows)


def seeds_of_the_mechanism() -> str:
    """How many seeds of each case of the mechanism's study trained, and what failed."""
    every, rows = cases(), []
    for name, planned in CASES.items():
        models = every[name]["models"] if name in every else {}
        runs = [
            f"{LABELS[model]} {of['measures']['forgetting']['n'] if of['measures'] else 0}"
            for model, of in models.items()
        ]
        failed = [f"{LABELS[model]} {of['failed']}" for model, of in models.items() if of["failed"]]
        rows.append([name, f"{planned.seeds}", ", ".join(runs) or "none yet", ", ".join(failed)])
    return markdown(["case", "seeds planned", "trained", "failed, in no mean"], rows)


def explain(base: dict[str, Any], rest: dict[str, Any], moved: dict[str, Any]) -> str:
    """What an experiment says of an explanation: the difference, without it, and the change.

    An explanation is refuted where the difference stands without what it names, and carries it
    where taking that away moves the difference towards zero. Where none is shown there is nothing
    to explain.
    """
    if not base["ci95"] or base["ci95"][0] <= 0 <= base["ci95"][1]:
        return "nothing to explain on these seeds: no difference shown"
    sign = 1 if base["mean"] > 0 else -1
    stands = min(sign * bound for bound in rest["ci95"]) > 0
    less = max(sign * bound for bound in moved["ci95"]) < 0
    return {
        (True, False): "not needed: the difference is there without it",
        (True, True): "carries a part",
        (False, True): "carries it: without it none is shown",
        (False, False): "undecided",
    }[stands, less]


def explanations() -> str:
    """Each explanation of the optimiser's effect, the experiment that could refute it, verdicts."""
    every = cases()
    rows = []

    def add(explanation: str, experiment: str, verdict: str, *found: dict[str, Any]) -> None:
        cells = [f"{estimate(summary)}, n = {summary['n']}" for summary in found]
        rows.append([explanation, experiment, *cells, verdict])

    def add_case(explanation: str, name: str) -> None:
        case = every[name]
        base = every[case["change"]["against"]]["relu_minus"]["lwta"]["forgetting"]
        rest, moved = case["relu_minus"]["lwta"]["forgetting"], case["change"]["relu minus lwta"]
        verdict = explain(base, rest, moved)
        add(explanation, f"{case['change']['against']}; {name}", verdict, base, rest, moved)

    def conditions(group: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """A group's conditions that are compared with another: label, condition, the other."""
        by_label = {row["label"]: row for row in study(group)["conditions"]}
        for label_, row in by_label.items():
            if "change" in row:
                yield label_, row, by_label[row["change"]["against"]]

    left_over = "the momentum left over at the switch: restart it"
    for name, row, against in conditions("restart"):
        found = pair_of(against)["difference"], pair_of(row)["difference"]
        moved = row["change"]["difference"]["difference"]
        add(left_over, name, explain(*found, moved), *found, moved)
    add_case(left_over, "lr 0.02, momentum 0.95, restarted")
    add_case(
        "the size of Task 2's first steps: let its learning rate rise over two epochs",
        "lr 0.02, momentum 0.95, ramp",
    )
    add_case(
        "Task 2's step next to the edge: train Task 2 with a fifth of it",
        "lr 0.05, momentum 0.95, Task 2 at lr 0.01",
    )
    for name, row, against in conditions("effective-rate"):
        if name.endswith("momentum 0.95"):
            moved = row["change"]["difference"]["difference"]
            low, high = moved["ci95"]
            add(
                "the effective step lr / (1 - m) alone: the same with the least and the most m",
                f"{against['label'].partition(': ')[2]}; {name.partition(': ')[2]}",
                "refuted, unadjusted: momentum moves the difference"
                if low > 0 or high < 0
                else "not refuted: no change shown",
                *(pair_of(against)["difference"], pair_of(row)["difference"], moved),
            )
    edge = every["lr 0.05, momentum 0.95"]["models"]["lwta"]["correlation with forgetting"]
    sharp = edge["sharpness of Task 2 at the switch"]
    low, high = sharp["ci95"]
    rows.append(
        [
            "sharpness at the switch: do sharper LWTA networks forget more?",
            f"lr 0.05, momentum 0.95: rank correlation {sharp['r']:+.2f} "
            f"({interval(sharp['ci95'], 2, '+')}), n = {sharp['n']}",
            *("", "", ""),
            "supported" if low > 0 else "contradicted" if high < 0 else "not shown",
        ]
    )
    head = ["explanation, and what is done about it", "experiment", "ReLU minus LWTA before"]
    return markdown([*head, "with that done", "change", "verdict"], rows)


def overlaps() -> str:
    """Overlap of the active sets of two images, after Task 2."""
    rows = []
    for name in ("default", "four layers"):
        case = cases()[name]
        for layer in range(1, case["config"]["lwta"]["depth"] + 1):
            for model in PAIR:
                found = case["models"][model]["measures"]
                values = [
                    found[f"overlap_{of}, layer {layer}, after Task 2"]
                    for of in ("class", "task", "tasks", "chance")
                ]
                rows.append(
                    [name, f"{layer}", LABELS[model]] + [estimate(value, "") for value in values]
                )
    head = ["overlap after Task 2", "layer", "network", "within a digit", "across a task's digits"]
    return markdown([*head, "across tasks", "independent units"], rows)


MATCHED = (0.8, 0.9, 0.925, 0.95)


def matched_estimate(minus: dict[str, Any], level: float) -> str:
    """ReLU minus another network where Task 2 first reaches a level, if enough pairs get there."""
    return estimate(minus[f"lost at {level}"]) if known(minus, level) else "too few get there"


def matched() -> str:
    """ReLU minus LWTA in what Task 1 has lost, where Task 2 is known equally well."""
    rows = []
    for name, case in cases().items():
        found = case["relu_minus"]["lwta"]
        if "change" in case or not found["forgetting"]["n"]:
            continue  # the experiments on the optimiser have a table of their own
        cells = [name, pairs_in(case), *(matched_estimate(found, level) for level in MATCHED)]
        rows.append([*cells, estimate(found["forgetting"])])
    head = ["lost on Task 1, ReLU minus LWTA", "pairs"]
    return markdown(
        [*head, *(f"at {level:.1%} on Task 2" for level in MATCHED), "at the end"], rows
    )


def optimiser_experiments() -> str:
    """What each explanation of the optimiser's effect predicts, and what its experiment gave."""
    rows = []
    for name, case in cases().items():
        if not name.startswith("lr"):
            continue
        found, models, config = case["relu_minus"]["lwta"], case["models"], case["config"]["relu"]
        step = config["lr"] / (2 * (1 + config["momentum"]))
        sharp = (
            models[m]["measures"].get("sharpness of Task 2 at the switch") for m in ("relu", "lwta")
        )
        moved = case.get("change")
        rows.append(
            [
                name,
                *(estimate(models[m]["measures"]["forgetting"], "") for m in ("relu", "lwta")),
                f"{estimate(found['forgetting'])}, n = {found['forgetting']['n']}",
                estimate(moved["relu minus lwta"]) if moved else "",
                matched_estimate(found, CONTROL_LEVEL),
                *(f"{models[m]['measures']['dip']['mean']:.3f}" for m in ("relu", "lwta")),
                *(f"{step * s['mean']:.2f}" if s else "-" for s in sharp),
            ]
        )
    head = ["experiment", "forgetting, ReLU", "LWTA", "ReLU minus LWTA"]
    head += ["change of that against its case", f"at {CONTROL_LEVEL:.1%} on Task 2"]
    head += ["early dip, ReLU", "LWTA"]
    return markdown(
        [*head, "sharpness of Task 2 at the switch, times lr / 2 (1 + m), ReLU", "LWTA"], rows
    )


def controls() -> str:
    """LWTA and ReLU beside networks that have a part of what competition has."""
    every = cases()
    rows = []
    kept = ("relu", "lwta", "kept", "fixed")
    for name, model in (
        *(("default", m) for m in (*kept, "random", "shifted")),
        *((f"LWTA with {units} units", "lwta") for units in (304, 200)),
        *((cell, m) for cell in ("lr 0.02, momentum 0.95", "lr 0.05, momentum 0.95") for m in kept),
    ):
        if name not in every:
            continue  # no run yet
        found = every[name]["models"][model]["measures"]
        text = name if name.startswith("LWTA") else LABELS[model]
        text += f", {name}" if name.startswith("lr") else ""
        run, planned = found["forgetting"]["n"], every[name]["seeds_planned"]
        cells = [text, f"{run}" if run == planned else f"{run} of {planned}"]
        cells += [f"{found[f'activity, layer {n}, after Task 2']['mean']:.0%}" for n in (1, 2)]
        cells += [estimate(found["forgetting"], ""), f"{found['task 2']['mean']:.3f}"]
        for of in ("relu_minus", "lwta_minus"):
            minus = every[name][of].get(model)
            cells.append(estimate(minus["forgetting"]) if minus else "")
            cells.append(matched_estimate(minus, CONTROL_LEVEL) if minus else "")
        rows.append(cells)
    head = ["network", "seeds", "active in layer 1", "in layer 2", "forgetting"]
    head += ["Task 2 at the end"]
    for relative in ("ReLU's", "LWTA's"):
        head += [f"{relative} forgetting minus its", f"at {CONTROL_LEVEL:.1%} on Task 2"]
    return markdown(head, rows)


def data_movement() -> str:
    """Memory traffic: the answer, and each network in one table."""
    data = study("data_movement")
    return f"{movement_answer(data)}\n\n{overview_table(data)}"


def data_movement_tables() -> str:
    """Memory traffic: the other tables, folded, and what they took to make."""
    data = study("data_movement")
    parts = [
        f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"
        for title, table in detail_tables(data).items()
    ]
    machine = data["environment"]
    parts.append(
        f"Made in {data['seconds'] / 60:.0f} minutes by {data['jobs']} processes on "
        f"{machine['processor']}, {machine['cores']} cores, of which it used "
        f"{data['core_seconds'] / data['seconds']:.1f}: {data['core_seconds'] / 60:.0f} minutes of "
        f"one core. {data['touches_per_second'] / 1e6:.1f} million reads and writes are priced in "
        "a second of one core."
    )
    return "\n\n".join(parts)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "answer": answer,
        "findings": findings,
        "edge": edge,
        "momentum": momentum,
        "seed_0": seed_0,
        "ten_seeds": ten_seeds,
        "claims": claims,
        "visual_claims": visual_claims,
        "study_claims": study_claims,
        "mechanism_claims": mechanism_claims,
        "paper": paper,
        "open_questions": open_questions,
        "data_movement": data_movement,
        "data_movement_tables": data_movement_tables,
        "scale": scale,
        "benchmark": benchmark,
        "peers": peers,
    },
    "study/README.md": {
        "findings": findings,
        "edge": edge,
        "matched": matched,
        "mechanism_claims": mechanism_claims,
        "overlaps": overlaps,
        "explanations": explanations,
        "optimiser_experiments": optimiser_experiments,
        "controls": controls,
        "seeds_of_the_mechanism": seeds_of_the_mechanism,
    },
}


def fill(page: str, text: str) -> str:
    """A page with every block made anew; `InputError` if a marker is missing."""
    for name, make in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        try:
            block = make()
        except KeyError as error:
            raise InputError(
                f"{page}: {name} needs {error}, which no file in study/ has; run its command first"
            ) from None
        text, found = pattern.subn(
            lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text
        )
        if found != 1:
            raise InputError(f"{page}: needs <!-- {name} --> and <!-- /{name} --> once")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the pages; the exit status."""
    parser = OneLineParser(
        description=f"Make the tables of {' and '.join(PAGES)} anew, from the files in study/.",
        allow_abbrev=False,
    )
    parser.parse_args(arguments)
    made = {page: fill(page, (ROOT / page).read_text(encoding="utf-8")) for page in PAGES}
    for page, text in made.items():
        write_or_stop(ROOT / page, text.encode())
        print(f"Wrote {page}")
    return 0


if __name__ == "__main__":
    run_script(main)
