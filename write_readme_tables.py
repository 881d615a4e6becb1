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
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compete_to_compute import (
    STATUSES,
    InputError,
    OneLineParser,
    label,
    run_script,
    write_atomically,
)
from study_mechanism import LABELS
from study_open_questions import (
    PAPER_ERRORS,
    estimate,
    group_report,
    markdown,
    outcome,
    pair_of,
    pairs_text,
    paper_table,
    saved_groups,
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
        difference = pair["difference"]
        lines.append(
            f"- {text}, {difference['n']} seeds: ReLU's forgetting minus LWTA's is "
            f"{difference['mean']:+.3f} (95 % interval {interval(difference['ci95'], 3, '+')}), "
            f"LWTA forgets less on {pair['wins']} seeds, sign test p = {pair['sign_test_p']:.2f}: "
            f"**{pair['verdict']}**."
        )
    return "\n".join(lines)


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
        + f"\n\nDuring Task 1, every test accuracy is within {deviation:.3f} of the published one. "
        f"At the end ReLU's figures are within {last['relu']:.3f} of it and LWTA's within "
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
    return (
        markdown([*head, "published mean ± std, wins"], rows)
        + f"\n\nReLU minus LWTA, seed by seed: {difference['mean']:+.3f}, 95 % interval "
        f"{interval(difference['ci95'], 3, '+')} ({difference['n']} pairs, sign test "
        f"p = {pair['sign_test_p']:.2f}). Verdict: **{pair['verdict']}**."
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


def claims() -> str:
    """Each claim of the published run that these results can test."""
    ten, seen, many = study("ten_seeds"), study("visual_claims"), many_seeds("published")
    first = ten["headline"]["summary"]
    ratio = first["relu"]["forgetting"] / first["lwta"]["forgetting"]
    (pair,) = ten["aggregate"]["pairs"]
    plateau = [
        [row["accuracy_matrix"][i][j] for row in ten["per_seed"]] for i, j in ((1, 0), (2, 1))
    ]
    reached = all(
        abs(sum(values) / len(values) - goal) < 0.015
        for values, goal in zip(plateau, (0.97, 0.95), strict=True)
    )

    signs = {
        (low > 0) - (high < 0)
        for name in ("selectivity_1", "gap_1")
        for low, high in [seen["aggregate"][name]["relu_minus_lwta"]["ci95"]]
    }
    separation = {
        frozenset({-1}): "supported",
        frozenset({1}): "not supported: ReLU is more separated",
    }.get(frozenset(signs), "not supported: it depends on the measure")

    def say(name: str, more: str, less: str, none: str) -> str:
        low, high = seen["aggregate"][name]["relu_minus_lwta"]["ci95"]
        return less if low > 0 else more if high < 0 else none

    spread = seen["aggregate"]["change_spread"]
    mean = {
        name: {model: seen["aggregate"][name][model]["mean"] for model in ("relu", "lwta")}
        for name in seen["aggregate"]
    }
    rows = [
        [
            "At seed 0 LWTA forgets 3.3 times less",
            f"{ratio:.1f} times less at seed 0",
            ("reproduced" if ratio > 2 else "not reproduced") + "; one seed shows no effect",
        ],
        [
            "LWTA forgets less on average",
            f"ten seeds {pair['difference']['mean']:+.3f} "
            f"({interval(pair['difference']['ci95'], 3, '+')}), {pair['wins']} wins; "
            f"{many['difference']['n']} seeds {many['difference']['mean']:+.3f} "
            f"({interval(many['difference']['ci95'], 3, '+')}), {many['wins']} wins",
            "supported"
            if "LWTA" in many["verdict"]
            else "contradicted"
            if "ReLU" in many["verdict"]
            else "not shown",
        ],
        [
            "Task 1 reaches about 97 %, Task 2 about 95 %",
            f"{min(plateau[0]):.3f} to {max(plateau[0]):.3f} and "
            f"{min(plateau[1]):.3f} to {max(plateau[1]):.3f} over models and seeds",
            "reproduced" if reached else "not reproduced",
        ],
        [
            "LWTA's first-layer fields are more localised",
            f"spread of the change {spread['relu']['mean']:.2f} (ReLU), "
            f"{spread['lwta']['mean']:.2f} (LWTA) pixels",
            say("change_spread", "not supported: less localised", "supported", "not supported"),
        ],
        [
            "A band of LWTA's units fires almost only for one task",
            f"{mean['exclusive_1']['lwta']:.1%} of layer 1, "
            f"{mean['exclusive_2']['lwta']:.1%} of layer 2",
            "not supported"
            if max(mean[f"exclusive_{layer}"]["lwta"] for layer in (1, 2)) < 0.05
            else "supported",
        ],
        [
            "ReLU's units fire for both tasks, LWTA's are separated",
            "; ".join(
                f"{text} {mean[name]['relu']:.3f} (ReLU), {mean[name]['lwta']:.3f} (LWTA)"
                for name, text in (("selectivity_1", "S in layer 1:"), ("gap_1", "gap:"))
            ),
            separation,
        ],
    ]
    return markdown(["claim", "measured", "verdict"], rows)


EPOCHS = {"default": "5 epochs a task", "1024x3": "1 epoch a task"}  # of benchmark.SIZES


def benchmark() -> str:
    """Training beside its matrix products."""
    data = study("benchmark")
    rows = []
    for size, result in data["training"].items():
        for model in ("relu", "lwta"):
            ratio = result[f"{model}_over_floor"]
            rows.append(
                [
                    f"one model, {size}, {label(model)}, {EPOCHS[size]}",
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
        steps = {"default": 400, "1024x3": 80}[size]
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
    return (
        f"{seconds['median']:.2f} s, {ratio['median']:.2f} "
        f"({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
    )


def case_name(case: dict[str, Any]) -> str:
    """Size, seeds and threads of a case of peers.py, in words."""
    counts = [(case["seeds"], "seed"), (case["threads"], "thread")]
    return ", ".join([case["size"], *(f"{n} {what}{'s' * (n > 1)}" for n, what in counts)])


def ours(library: str) -> bool:
    """Whether a row of peers.py is of this project."""
    return library.startswith("compete_to_compute")


def peers() -> str:
    """The same training in other libraries, beside ours: ratios, then everything, folded."""
    data = study("benchmark").get("peers")
    if not data:
        return "Not measured yet: `python3 peers.py` does it."
    cases = list(data["cases"].values())
    most = max((case["libraries"] for case in cases), key=len)
    ratios: dict[str, dict[str, str]] = {name: {} for name in most if not ours(name)}
    behind: list[str] = []
    differences: dict[str, float] = {}
    blocks = []
    for case in cases:
        here, rows = case_name(case), []
        for name, found in case["libraries"].items():
            times = {
                f"{label(m)} training": (found[m]["train_s"], found[m]["over_ours"])
                for m in ("relu", "lwta")
                if m in found
            }
            if "process_s" in found:
                times["whole process"] = (found["process_s"], found["process_over_ours"])
            if not ours(name):
                ratios[name][here] = " / ".join(
                    f"{times[what][1]['median']:.2f}" if what in times else "-"
                    for what in ("ReLU training", "LWTA training", "whole process")
                )
            if not ours(name) and not name.startswith("matrix products"):
                behind += [
                    f"{name}, {what}, {here}: {ratio['median']:.2f} "
                    f"({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
                    for what, (_, ratio) in times.items()
                    if ratio["median"] < 1
                ]
            cells = [name]
            for what in ("ReLU training", "LWTA training"):
                cells.append(times_ours(*times[what]) if what in times else "")
            warm_up = found.get("warm_up_s")
            cells.append(
                f"{warm_up['median']:.1f} s, at most {warm_up['highest']:.1f}" if warm_up else ""
            )
            whole = "whole process" in times
            cells.append(times_ours(*times["whole process"]) if whole else "")
            cells.append(f"{found['peak_mb']['median']:.0f} MB" if whole else "")
            rows.append(cells)
            for trained in (found.get(m, {}) for m in ("relu", "lwta")):
                if "task1_difference" in trained:
                    largest = max(differences.get(name, 0), trained["task1_difference"])
                    differences[name] = largest
        head = ["library", "ReLU training", "LWTA training", "warm-up", "whole process", "memory"]
        many = case["rounds"] > 1
        blocks.append(
            f"**{here}, {EPOCHS[case['size']]}** (median of {case['rounds']} round{'s' * many}; "
            "times ours, lowest and highest)\n\n" + markdown(head, rows)
        )
    names = [case_name(case) for case in cases]
    summary = markdown(
        ["times ours", *names],
        [[name, *(found.get(here, "") for here in names)] for name, found in ratios.items()],
    )
    ahead = "Ours is behind nowhere in this table, the matrix products apart."
    if behind:
        ahead = f"Ours is behind: {'; '.join(behind)}."
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
            summary,
            "Medians, as multiples of ours: ReLU training / LWTA training / whole process. "
            + ahead,
            "<details><summary>Seconds, spread, warm-up and memory of each</summary>",
            *blocks,
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


def judge(intervals: Sequence[Sequence[float]], above: str, below: str) -> str:
    """A verdict from unadjusted intervals: all above zero, all below, some, or none."""
    if not intervals:
        return "no pairs"
    higher, lower = (
        sum(beyond) for beyond in ([low > 0 for low, _ in intervals], [h < 0 for _, h in intervals])
    )
    if len(intervals) in (higher, lower):
        return above if higher else below
    if not higher and not lower:
        return "not shown"
    if higher and lower:
        return f"mixed: above zero in {higher}, below in {lower} of {len(intervals)}"
    return f"{above if higher else below}, in {higher or lower} of {len(intervals)} only"


def study_claims() -> str:
    """Claims and expectations of the source that the study's finished groups test."""
    groups = {result["name"]: result["conditions"] for result in saved_groups()}
    rows = []

    def add(
        claim: str,
        values: dict[str, dict[str, Any]],
        above: str,
        below: str,
        decisive: Sequence[str] = (),
        null: float = 0.0,
    ) -> None:
        """A row: the values with their intervals, judged by those named, or by all."""
        judged = [values[name]["ci95"] for name in decisive or values if values[name]["ci95"]]
        measured = "; ".join(
            f"{name}: {estimate(value, '' if null else '+')}"
            + (f", n = {value['n']}" if "n" in value else "")
            for name, value in values.items()
        )
        beyond = [[low - null, high - null] for low, high in judged]
        rows.append([claim, measured, judge(beyond, above, below)])

    def gaps(conditions: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {row["label"]: pair_of(row)["difference"] for row in conditions}

    def changes(conditions: Sequence[dict[str, Any]], model: str) -> dict[str, dict[str, Any]]:
        return {
            row["label"]: row["change"]["forgetting"][model]["difference"] for row in conditions
        }

    supported, relu_less = "supported", "contradicted: ReLU forgets less"
    if "paper-chosen" in groups:
        chosen = groups["paper-chosen"]
        add("LWTA forgets less under the paper's protocol", gaps(chosen), supported, relu_less)
    if "scale" in groups:
        large = [row for row in groups["scale"] if "x3" in row["label"]]
        add("LWTA forgets less at the paper's scale", gaps(large), supported, relu_less)
    if "dropout" in groups:
        dropped = [row for row in groups["dropout"] if "change" in row]
        for model in ("relu", "lwta"):
            add(
                f"Dropout helps: change of {label(model)}'s forgetting",
                changes(dropped, model),
                "contradicted: it forgets more",
                supported,
            )
        add(
            "Dropout helps LWTA more: change of ReLU minus LWTA",
            {row["label"]: row["change"]["difference"]["difference"] for row in dropped},
            supported,
            "contradicted: it helps ReLU more",
        )
        add(
            "Dropout steadies the contrast: its std over that without",
            {row["label"]: row["change"]["spread_ratio"] for row in dropped},
            "contradicted: it varies more",
            supported,
            null=1.0,
        )
    if "permuted" in groups:
        permuted = [row for row in groups["permuted"] if "change" in row]
        for model in ("relu", "lwta"):
            add(
                f"Permuted MNIST is harder: {label(model)}'s forgetting minus that on split digits",
                changes(permuted, model),
                supported,
                "contradicted: it forgets less",
            )
        add(
            "Permuted MNIST gives a noisier contrast: its std over that on split digits",
            {row["label"]: row["change"]["spread_ratio"] for row in permuted},
            supported,
            "contradicted: it varies less",
            null=1.0,
        )
        add(
            "On permuted MNIST, trained longer, LWTA forgets less",
            gaps(permuted),
            supported,
            relu_less,
            decisive=[permuted[-1]["label"]],
        )
    if "block" in groups:
        four = next(row for row in groups["block"] if row["label"] == "k 4, equal units")
        add(
            "k = 4 gives noisier results: std of ReLU minus LWTA over that of k = 2",
            {"k 4": four["change"]["spread_ratio"]},
            supported,
            "contradicted: less noisy",
            null=1.0,
        )
    if "single-head" in groups:
        kept = groups["single-head"][-1]["first_task_kept"]
        rows.append(
            [
                "Without the mask every network loses Task 1",
                "accuracy on Task 1 at the end: "
                + ", ".join(
                    f"{value['mean']:.3f} ({label(model)})" for model, value in kept.items()
                ),
                supported if max(v["mean"] for v in kept.values()) < 0.2 else "not supported",
            ]
        )
    return markdown(["claim or expectation", "measured", "verdict"], rows)


# What a reader should know first: a text, the group, and its condition or each seed's mean.
FINDINGS = (
    ("The published split of the digits", "default", "default"),
    ("Twelve splits, each seed's mean", "partition", "pooled"),
    ("Ten other splits, other seeds, each seed's mean", "partition-again", "pooled"),
    ("Five tasks of two digits", "five-task", "01 23 45 67 89"),
    ("Four layers instead of two", "depth", "depth 4"),
    ("Blocks of 8, as many units", "block", "k 8, equal units"),
    (
        "Blocks of 8, as many active units, ReLU as wide",
        "block",
        "k 8, equal active units, ReLU as wide",
    ),
    ("Next to LWTA's edge of divergence", "optimiser", "lr 0.05, momentum 0.95"),
    ("No momentum, other seeds", "momentum", "lr 0.05, momentum 0.0"),
    ("Momentum 0.95, other seeds", "momentum", "lr 0.02, momentum 0.95"),
    ("Dropout 0.5, input 0.2", "dropout", "hidden 0.5, input 0.2"),
    ("Ten digits, then permuted, 5 epochs", "permuted", "ten digits, then permuted, 5 epochs"),
    ("Ten digits, then permuted, 50 epochs", "permuted", "ten digits, then permuted, 50 epochs"),
    ("1024x3, 50 epochs", "scale", "1024x3, 50 epochs"),
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
                f"{pair.get('sign_test_p_holm', pair['sign_test_p']):.2g}",
                (pair["verdict"] or "").partition(":")[0],
            ]
        )
    head = ["forgetting", "pairs", "ReLU", "LWTA", "ReLU minus LWTA, 95 % interval"]
    return markdown([*head, "LWTA's wins", "p", "the interval says"], rows)


def paper() -> str:
    """The paper's table beside ours, and where our grid comes closest to its gap."""
    text = paper_table(study("paper-chosen"))
    rows = study("paper")["conditions"]

    def error(row: dict[str, Any], model: str) -> float:
        """Task 1's mean test error after Task 2, in %; below zero where no run trained."""
        mean = row["first_task_kept"][model]["mean"]
        return -1.0 if mean is None else 100 * (1 - mean)

    def tell(row: dict[str, Any]) -> str:
        return ", ".join(
            f"{label(model)} {error(row, model):.1f} %"
            if totals["ok"]
            else f"{label(model)} fails"
            if sum(totals[status] for status in STATUSES)
            else f"{label(model)} not run"
            for model, totals in row["aggregate"]["models"].items()
        )

    reported = PAPER_ERRORS["relu"][1][0]
    closest = min(rows, key=lambda row: abs(error(row, "relu") - reported))
    both = [row for row in rows if min(error(row, "relu"), error(row, "lwta")) >= 0]
    widest = max(both, key=lambda row: error(row, "relu") - error(row, "lwta"))
    most = max(row["seeds_run"] for row in rows)
    return (
        f"{text}\n\nThe grid has {len(rows)} settings and {rows[0]['seeds_planned']} seeds each, "
        f"of which {most} ran so far. ReLU's error after Task 2 comes closest to the paper's at "
        f"{closest['label']}: {tell(closest)}. Where both train, the widest gap in LWTA's favour "
        f"is at {widest['label']}: {tell(widest)}."
    )


def momentum() -> str:
    """The effect without and with much momentum, on fresh seeds."""
    rows = study("momentum")["conditions"]
    lines = [
        f"- {row['label']}: ReLU minus LWTA {estimate(pair_of(row)['difference'])} over "
        f"{row['n']} seeds, LWTA forgets less on {pair_of(row)['wins']}: "
        f"**{pair_of(row)['verdict'].partition(':')[0]}**."
        for row in rows
    ]
    (moved,) = [row for row in rows if "change" in row]
    found = moved["change"]["difference"]["difference"]
    low, high = found["ci95"]
    shown = "" if low > 0 or high < 0 else " not"
    lines.append(
        f"- From {moved['change']['against']} to {moved['label']} that changes by "
        f"{estimate(found)} over {found['n']} seeds: a shift towards LWTA is{shown} shown."
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
    parts = [
        f"{len(results)} groups, {sum(len(r['conditions']) for r in results)} conditions, "
        f"{spent:.1f} core-hours of training so far on {results[0]['environment']['processor']}; "
        f"every seed planned takes about {planned:.0f} (a model that two groups share is counted "
        "in both)."
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
    """The mean of a measure for ReLU and for LWTA."""
    return ", ".join(
        f"{factor * case['models'][model]['measures'][measure]['mean']:{form}} ({LABELS[model]})"
        for model in ("relu", "lwta")
    )


def by_layer(text: Callable[[int], str], layers: Sequence[int] = (1, 2)) -> str:
    """A text for each layer."""
    return "; ".join(f"layer {layer}: {text(layer)}" for layer in layers)


def mechanism_claims() -> str:
    """What competition is said to do inside the network, and what it does."""
    every = cases()
    default, deep, still = (
        every[name] for name in ("default", "four layers", "no decay, restarted")
    )
    lwta, difference = default["models"]["lwta"], default["relu_minus"]["lwta"]
    shifted = default["models"]["shifted"]
    rows = []

    def add(claim: str, measured: str, verdict: str, figure: str = "") -> None:
        rows.append([claim, measured, verdict, figure])

    def information_chance(layer: int) -> str:
        return f"information_chance, layer {layer}, after Task 2"

    def divided(layer: int) -> str:
        name = f"information, layer {layer}, after Task 2"
        bounds = [1000 * bound for bound in difference[name]["ci95"]]
        return of_both(default, name, ".1f", 1000) + f", difference {interval(bounds, 1, '+')}"

    add(
        "LWTA's units are divided between the tasks more than ReLU's",
        "what a unit's gate tells about the task, after Task 2, of 1,000 millibits: "
        + by_layer(divided)
        + "; about other halves of the digits: "
        + by_layer(lambda n: of_both(default, information_chance(n), ".1f", 1000)),
        judge(
            [difference[f"information, layer {n}, after Task 2"]["ci95"] for n in (1, 2)],
            "contradicted: less",
            "supported",
        ),
        "layers.png",
    )
    deeper = {
        f"layer {layer} of {case['config']['lwta']['depth']}": case["models"]["lwta"][
            "deeper minus first"
        ][f"information, layer {layer}, after Task 1"]
        for case, layer in ((default, 2), (deep, 2), (deep, 3), (deep, 4))
    }
    add(
        "Deeper LWTA layers are more divided than the first",
        "millibits more than in the first layer, after Task 1: "
        + "; ".join(
            f"{name}: {1000 * found['mean']:+.1f} "
            f"({interval([1000 * bound for bound in found['ci95']], 1, '+')})"
            for name, found in deeper.items()
        ),
        judge([found["ci95"] for found in deeper.values()], "supported", "contradicted: less"),
        "layers.png",
    )
    related = [
        lwta["correlation with forgetting"][f"information, layer {n}, after Task 1"] for n in (1, 2)
    ]
    add(
        "LWTA networks that are more divided after Task 1 forget less",
        "correlation with forgetting over seeds: "
        + by_layer(
            lambda n: f"{related[n - 1]['r']:+.2f} ({interval(related[n - 1]['ci95'], 2, '+')})"
        ),
        judge([found["ci95"] for found in related], "contradicted: they forget more", "supported"),
    )
    untouched = {
        model: [
            still["models"][model]["measures"][f"weights untouched, layer {n}"]["mean"]
            for n in (1, 2)
        ]
        for model in ("relu", "lwta")
    }
    add(
        "Only a strict subset of LWTA's weights changes during Task 2, unlike ReLU's",
        "weights with the same bits, without decay and with momentum restarted: "
        + by_layer(lambda n: of_both(still, f"weights untouched, layer {n}", ".1%"))
        + "; as published, share that holds 90 % of the squared change: "
        + by_layer(lambda n: of_both(default, f"weights carrying, layer {n}", ".0%")),
        "supported"
        if min(untouched["lwta"]) > max(0.05, *untouched["relu"])
        else "contradicted: nearly all change, in both"
        if max(untouched["lwta"] + untouched["relu"]) < 0.05
        else "not supported: no more stand still than in ReLU",
    )
    add(
        "Task 1's winners stay while Task 2 is learned",
        "share of Task 1's active units that Task 2 silences, over its images: "
        + by_layer(lambda n: of_both(default, f"changed silenced, layer {n}", ".0%"))
        + "; in a ReLU network that is as active: "
        + by_layer(lambda n: f"{shifted['measures'][f'changed silenced, layer {n}']['mean']:.0%}"),
        judge(
            [difference[f"changed silenced, layer {n}"]["ci95"] for n in (1, 2)],
            "in part: more stay than in ReLU",
            "contradicted: fewer stay than in ReLU",
        ),
    )
    add(
        "Task 1's representation is overwritten",
        "forgetting "
        + of_both(default, "forgetting")
        + "; a linear probe on the last hidden layer, before training "
        + of_both(default, "probe before")
        + ", after Task 1 "
        + of_both(default, "probe after Task 1")
        + ", after Task 2 "
        + of_both(default, "probe after Task 2"),
        "not supported: what a linear probe finds hardly changes, and most of it is there untrained"
        if all(
            abs(of["measures"]["probe lost"]["mean"]) < of["measures"]["forgetting"]["mean"] / 4
            for of in (default["models"][model] for model in ("relu", "lwta"))
        )
        else "supported",
        "controls.png",
    )
    ran = ", ".join(
        f"{name}: {case['seeds_run']} of {case['seeds_planned']}" for name, case in every.items()
    )
    table = markdown(["claim", "measured", "verdict", "figure"], rows)
    return f"{table}\n\nSeeds that ran so far, of those planned: {ran}."


MATCHED = (0.8, 0.9, 0.925)


def matched() -> str:
    """ReLU minus LWTA in what Task 1 has lost, where Task 2 is known equally well."""
    rows = []
    for name, case in cases().items():
        found = case["relu_minus"]["lwta"]
        if "change" in case or not found["forgetting"]["n"]:
            continue  # the experiments on the optimiser have a table of their own
        cells = [name, f"{found['forgetting']['n']}"]
        for key in [f"lost at {level}" for level in MATCHED] + ["forgetting"]:
            few = key not in found or found[key]["n"] < 0.8 * found["forgetting"]["n"]
            cells.append("too few get there" if few else estimate(found[key]))
        rows.append(cells)
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
                *(f"{models[m]['measures']['dip']['mean']:.3f}" for m in ("relu", "lwta")),
                *(f"{step * s['mean']:.2f}" if s else "-" for s in sharp),
            ]
        )
    head = ["experiment", "forgetting, ReLU", "LWTA", "ReLU minus LWTA"]
    head += ["change of that against its case", "early dip, ReLU", "LWTA"]
    return markdown(
        [*head, "sharpness of Task 2 at the switch, times lr / 2 (1 + m), ReLU", "LWTA"], rows
    )


def controls() -> str:
    """LWTA and ReLU beside networks that have a part of what competition has."""
    every = cases()
    rows = []
    for name, model in (
        *(("default", m) for m in ("relu", "lwta", "fixed", "random", "shifted")),
        ("LWTA with 200 units", "lwta"),
    ):
        found = every[name]["models"][model]["measures"]
        cells = [LABELS[model] if name == "default" else name]
        cells += [f"{found[f'activity, layer {n}, after Task 2']['mean']:.0%}" for n in (1, 2)]
        cells += [estimate(found["forgetting"], ""), f"{found['task 2']['mean']:.3f}"]
        cells.append(
            "" if model == "relu" else estimate(every[name]["relu_minus"][model]["forgetting"])
        )
        rows.append(cells)
    head = ["network", "active in layer 1", "in layer 2", "forgetting", "Task 2 at the end"]
    return markdown([*head, "ReLU minus it, paired"], rows)


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "answer": answer,
        "findings": findings,
        "momentum": momentum,
        "seed_0": seed_0,
        "ten_seeds": ten_seeds,
        "claims": claims,
        "visual_claims": visual_claims,
        "study_claims": study_claims,
        "paper": paper,
        "open_questions": open_questions,
        "scale": scale,
        "benchmark": benchmark,
        "peers": peers,
    },
    "study/README.md": {
        "findings": findings,
        "matched": matched,
        "mechanism_claims": mechanism_claims,
        "optimiser_experiments": optimiser_experiments,
        "controls": controls,
    },
}


def fill(page: str, text: str) -> str:
    """A page with every block made anew; `InputError` if a marker is missing."""
    for name, make in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        block = make()
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
    for page in PAGES:
        path = ROOT / page
        write_atomically(path, fill(page, path.read_text(encoding="utf-8")).encode())
        print(f"Wrote {page}")
    return 0


if __name__ == "__main__":
    run_script(main)
