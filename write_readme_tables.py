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

from compete_to_compute import STATUSES, InputError, label, run_script, write_atomically
from study_mechanism import CONTROL_LEVEL, LABELS, known
from study_open_questions import (
    PAIR,
    PAPER_ERRORS,
    effective_rate,
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
    default = cases()["default"]
    kept, forgetting = (
        default["relu_minus"]["fixed"]["forgetting"],
        {m: default["models"][m]["measures"]["forgetting"]["mean"] for m in (*PAIR, "fixed")},
    )
    lines.append(
        f"- Inside, {kept['n']} other seeds: ReLU forgets {forgetting['relu']:.3f} and LWTA "
        f"{forgetting['lwta']:.3f}. A network whose winners are for good those of its untrained "
        f"weights, so that nothing competes while it learns, forgets {forgetting['fixed']:.3f}: "
        f"ReLU minus it {estimate(kept)}."
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


def peers() -> str:
    """The same training in other libraries, beside ours."""
    data = study("benchmark")["peers"]
    blocks = []
    differences: dict[str, float] = {}
    for case in data["cases"].values():
        rows = []
        for name, found in case["libraries"].items():
            cells = [name]
            for model in ("relu", "lwta"):
                trained = found.get(model)
                cells.append(
                    times_ours(trained["train_s"], trained["over_ours"]) if trained else ""
                )
                if trained and "task1_difference" in trained:
                    most = max(differences.get(name, 0), trained["task1_difference"])
                    differences[name] = most
            warm_up = found.get("warm_up_s")
            cells.append(
                f"{warm_up['median']:.1f} s, at most {warm_up['highest']:.1f}" if warm_up else ""
            )
            whole = "process_s" in found
            cells += [
                times_ours(found["process_s"], found["process_over_ours"]) if whole else "",
                f"{found['peak_mb']['median']:.0f} MB" if whole else "",
            ]
            rows.append(cells)
        many, threads = case["seeds"] > 1, case["threads"]
        head = ["library", *(f"training {label(m)}" for m in ("relu", "lwta"))]
        head += ["warm-up", "whole process", "peak memory"]
        blocks.append(
            f"**{case['size']}, {EPOCHS[case['size']]}, {case['seeds']} seed{'s' * many}, "
            f"{threads} thread{'s' * (threads > 1)}** (median of {case['rounds']} rounds, ratio to "
            "ours with lowest and highest)\n\n" + markdown(head, rows)
        )
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
        + ".",
    ]
    return "\n\n".join([*blocks, "\n".join(f"- {note}" for note in notes)])


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
    """The paper's table beside ours, where our grid comes closest to its gap, and what moves it."""
    rows = study("paper")["conditions"]
    return "\n\n".join(
        [paper_table(study("paper-chosen")), closest_to_the_paper(rows), moves_the_error(rows)]
    )


def error_after(row: dict[str, Any], model: str) -> float | None:
    """Task 1's mean test error after Task 2, in %; None where no run trained."""
    mean = row["first_task_kept"][model]["mean"]
    return None if mean is None else 100 * (1 - mean)


def closest_to_the_paper(rows: Sequence[dict[str, Any]]) -> str:
    """The settings of the grid that come closest to the paper's ReLU, and to its gap."""

    def tell(row: dict[str, Any]) -> str:
        texts = []
        for model, totals in row["aggregate"]["models"].items():
            run = sum(totals[status] for status in STATUSES)
            error = error_after(row, model)
            text = "not run" if not run else "fails" if error is None else f"{error:.1f} %"
            if error is not None and totals["ok"] < run:
                text += f" ({run - totals['ok']} of {run} fail)"
            texts.append(f"{label(model)} {text}")
        return ", ".join(texts)

    reported = PAPER_ERRORS["relu"][1][0]
    closest = min(
        (row for row in rows if error_after(row, "relu") is not None),
        key=lambda row: abs(error_after(row, "relu") - reported),
    )
    both = [row for row in rows if pair_of(row)["difference"]["n"]]
    widest = max(both, key=lambda row: pair_of(row)["difference"]["mean"])
    runs = [
        sum(totals[status] for status in STATUSES)
        for row in rows
        for totals in row["aggregate"]["models"].values()
    ]
    planned = rows[0]["seeds_planned"]
    return (
        f"The grid has {len(rows)} settings, with {planned} seeds planned for each of three "
        f"activations; {sum(runs)} of {planned * len(runs)} runs are there. ReLU's error after "
        f"Task 2 comes closest to the paper's at {closest['label']}: {tell(closest)}. Where both "
        f"train, the widest gap in LWTA's favour is at {widest['label']}: {tell(widest)}."
    )


def moves_the_error(rows: Sequence[dict[str, Any]]) -> str:
    """How Task 1's error after Task 2 follows the effective rate and the loss to stop at."""
    lines = []
    for depth in (2, 3):
        grid = sorted(
            (row for row in rows if row["config"]["relu"]["depth"] == depth), key=effective_rate
        )
        texts = []
        for model in ("relu", "lwta", "sigmoid"):
            there = [row for row in grid if error_after(row, model) is not None]
            if len(there) > 1:
                ends = [
                    f"{error_after(row, model):.1f} % at {effective_rate(row):.1f}"
                    for row in (there[0], there[-1])
                ]
                texts.append(f"{label(model)} from {' to '.join(ends)}")
        lines.append(
            f"- Learning rate and momentum, {depth} layers, error after Task 2 at the smallest and "
            f"the largest lr / (1 - m) at which a network trains: {'; '.join(texts)}."
        )
    stops = study("paper-stopping")["conditions"]
    texts = [
        f"{label(model)} "
        + ", ".join(
            f"{error_after(row, model):.1f} % at {row['config'][model]['target_loss']:g}"
            for row in stops
            if error_after(row, model) is not None
        )
        for model in ("relu", "lwta")
    ]
    gaps = "; ".join(
        f"{row['config']['relu']['target_loss']:g}: {estimate(pair_of(row)['difference'])}, "
        f"n = {row['n']}"
        for row in stops
    )
    lines.append(
        f"- Stopping rule, the error after Task 2 by the training loss that ends a task: "
        f"{'; '.join(texts)}. ReLU's forgetting minus LWTA's: {gaps}."
    )
    return "\n".join(lines)


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


def differences(case: dict[str, Any], measure: str) -> list[list[float]]:
    """The intervals of ReLU minus LWTA in both layers; `measure` has a place for the layer."""
    return [case["relu_minus"]["lwta"][measure.format(n)]["ci95"] for n in (1, 2)]


def pairs_in(case: dict[str, Any]) -> str:
    """How many seeds both networks of a case finished, and how many were planned if more."""
    found, planned = case["relu_minus"]["lwta"]["forgetting"]["n"], case["seeds_planned"]
    return f"{found}" if found == planned else f"{found} of {planned}"


def units_are_divided(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: segregation, against ReLU's and against chance."""
    case, measure = every["default"], "information, layer {}, after Task 2"
    return [
        "LWTA's units are divided between the tasks more than ReLU's",
        "millibits a unit's gate tells about the task, after Task 2: "
        + by_layer(lambda n: of_both(case, measure.format(n), ".1f", 1000))
        + "; about other halves of the digits: "
        + by_layer(
            lambda n: of_both(case, f"information_chance, layer {n}, after Task 2", ".1f", 1000)
        ),
        pairs_in(case),
        judge(differences(case, measure), "contradicted: less", "supported"),
        "layers.png",
    ]


def deeper_layers_are_divided(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: segregation of deeper layers against the first."""
    found = {
        f"layer {layer} of {every[name]['config']['lwta']['depth']} after Task {task}": every[name][
            "models"
        ]["lwta"]["deeper minus first"][f"information, layer {layer}, after Task {task}"]
        for name, layer in (("default", 2), *(("four layers", deep) for deep in (2, 3, 4)))
        for task in (1, 2)
    }
    return [
        "Deeper LWTA layers are more divided than the first",
        "millibits more than in the first layer: "
        + "; ".join(
            f"{name}: {1000 * value['mean']:+.1f} "
            f"({interval([1000 * bound for bound in value['ci95']], 1, '+')})"
            for name, value in found.items()
        ),
        f"{pairs_in(every['default'])}; {pairs_in(every['four layers'])}",
        judge([value["ci95"] for value in found.values()], "supported", "contradicted: less"),
        "layers.png",
    ]


def division_predicts_forgetting(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: segregation and forgetting over seeds."""
    case = every["default"]
    related = case["models"]["lwta"]["correlation with forgetting"]
    found = [related[f"information, layer {n}, after Task 1"] for n in (1, 2)]
    return [
        "LWTA networks that are more divided after Task 1 forget less",
        "correlation with forgetting over seeds: "
        + by_layer(
            lambda n: f"{found[n - 1]['r']:+.2f} ({interval(found[n - 1]['ci95'], 2, '+')})"
        ),
        f"{found[0]['n']}",
        judge([of["ci95"] for of in found], "contradicted: they forget more", "supported"),
        "mechanism.json",
    ]


def few_weights_change(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: weights that Task 2 leaves alone."""
    still = every["no decay, restarted"]
    measure = "weights untouched, layer {}"
    untouched = [still["models"]["lwta"]["measures"][measure.format(n)]["mean"] for n in (1, 2)]
    return [
        "Only a strict subset of LWTA's weights changes during Task 2, unlike ReLU's",
        "weights with the same bits, without decay and with momentum restarted: "
        + by_layer(lambda n: of_both(still, measure.format(n), ".1%"))
        + "; as published, share that holds 90 % of the squared change: "
        + by_layer(lambda n: of_both(every["default"], f"weights carrying, layer {n}", ".1%")),
        f"{pairs_in(still)}; {pairs_in(every['default'])}",
        "contradicted: nearly all change"
        if max(untouched) < 0.05
        else judge(
            differences(still, measure),
            "not supported: fewer stand still than in ReLU",
            "supported: more stand still than in ReLU",
        ),
        "mechanism.json",
    ]


def winners_stay(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: active units that Task 2 silences."""
    case, measure = every["default"], "changed silenced, layer {}"
    shifted = case["models"]["shifted"]["measures"]
    return [
        "Task 1's winners stay while Task 2 is learned",
        "share of Task 1's active units that Task 2 silences, over its images: "
        + by_layer(lambda n: of_both(case, measure.format(n), ".1%"))
        + "; in a ReLU network that is as active: "
        + by_layer(lambda n: f"{shifted[measure.format(n)]['mean']:.1%}"),
        pairs_in(case),
        judge(
            differences(case, measure),
            "in part: more stay than in ReLU",
            "contradicted: fewer stay than in ReLU",
        ),
        "mechanism.json",
    ]


def replaced_winners_cost(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: LWTA's replaced winners, over seeds and by experiment."""
    case = every["default"]
    related = case["models"]["lwta"]["correlation with forgetting"]
    found = [related[f"changed silenced, layer {n}"] for n in (1, 2)]
    saved = case["lwta_minus"]["kept"]["forgetting"]
    return [
        "LWTA forgets because Task 2 replaces Task 1's winners",
        "correlation of the share that Task 2 replaces with forgetting: "
        + by_layer(lambda n: f"{found[n - 1]['r']:+.2f} ({interval(found[n - 1]['ci95'], 2, '+')})")
        + "; but LWTA's forgetting minus that with the winners kept from the switch on: "
        + estimate(saved),
        f"{found[0]['n']}; {saved['n']}",
        judge(
            [saved["ci95"]],
            "supported: keeping them saves",
            "contradicted: keeping them costs more",
        ).replace("not shown", "not supported: they go together, but keeping them saves nothing"),
        "controls.png",
    ]


def competition_protects(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: LWTA against winners that never were learned."""
    case = every["default"]
    fixed, lwta = (case["relu_minus"][model] for model in ("fixed", "lwta"))
    level = f"lost at {CONTROL_LEVEL}"
    against_lwta = case["lwta_minus"]["fixed"][level]
    return [
        "What protects is competition that goes on while the network learns",
        f"lost on Task 1 when Task 2 first reaches {CONTROL_LEVEL:.1%}: "
        f"{fixed[level]['means'][0]:.3f} (ReLU), "
        f"{lwta[level]['means'][1]:.3f} (LWTA), {fixed[level]['means'][1]:.3f} (winners of the "
        f"untrained network, kept for good); ReLU minus LWTA {estimate(lwta[level])}, LWTA minus "
        f"the last {estimate(against_lwta)}",
        f"{lwta[level]['n']}; {against_lwta['n']}",
        judge(
            [against_lwta["ci95"]],
            "contradicted: it is the network in which nothing competes that forgets less",
            "supported",
        ),
        "controls.png",
    ]


def representation_is_lost(every: dict[str, dict[str, Any]]) -> list[str]:
    """A row of `mechanism_claims`: what a refitted linear probe loses, beside forgetting."""
    case = every["default"]
    return [
        "Task 1's representation is overwritten",
        "forgetting "
        + of_both(case, "forgetting")
        + "; a linear probe on the last hidden layer, before training "
        + of_both(case, "probe before")
        + ", after Task 1 "
        + of_both(case, "probe after Task 1")
        + ", after Task 2 "
        + of_both(case, "probe after Task 2"),
        pairs_in(case),
        "not supported: what a linear probe finds hardly changes, and most of it is there untrained"
        if all(
            abs(of["measures"]["probe lost"]["mean"]) < of["measures"]["forgetting"]["mean"] / 4
            for of in (case["models"][model] for model in PAIR)
        )
        else "supported",
        "controls.png",
    ]


MECHANISM_CLAIMS = (
    units_are_divided,
    deeper_layers_are_divided,
    division_predicts_forgetting,
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
    return markdown(head, [row(every) for row in MECHANISM_CLAIMS])


def seeds_of_the_mechanism() -> str:
    """How many seeds of each case of the mechanism's study ran, and what failed."""
    rows = []
    for name, case in cases().items():
        failed = [
            f"{LABELS[model]} {of['failed']}"
            for model, of in case["models"].items()
            if of["failed"]
        ]
        run = f"{case['seeds_run']} of {case['seeds_planned']}"
        rows.append([name, run, ", ".join(failed)])
    return markdown(["case", "seeds run", "runs that failed"], rows)


def explanations() -> str:
    """Each explanation of the optimiser's effect, the experiment that could refute it, a verdict.

    An explanation is refuted where the difference stands without what it names, and supported where
    taking that away moves the difference towards zero.
    """
    every = cases()
    rows = []

    def add(explanation: str, refuted: str, name: str) -> None:
        case = every[name]
        base = every[case["change"]["against"]]["relu_minus"]["lwta"]["forgetting"]
        rest, moved = case["relu_minus"]["lwta"]["forgetting"], case["change"]["relu minus lwta"]
        sign = 1 if base["mean"] > 0 else -1
        stands = min(sign * bound for bound in rest["ci95"]) > 0
        less = max(sign * bound for bound in moved["ci95"]) < 0
        verdict = {
            (True, False): "refuted: the difference is there without it",
            (True, True): "carries a part",
            (False, True): "supported",
            (False, False): "undecided: neither shown",
        }[stands, less]
        cells = [f"{estimate(x)}, n = {x['n']}" for x in (base, rest, moved)]
        rows.append([explanation, refuted, name, *cells, verdict])

    high, edge = "lr 0.02, momentum 0.95", "lr 0.05, momentum 0.95"
    add(
        "the momentum left over at the switch",
        "the difference stays when each task starts with no momentum",
        f"{high}, restarted",
    )
    add(
        "the size of Task 2's first steps",
        "it stays when Task 2's learning rate rises over two epochs",
        f"{high}, ramp",
    )
    add(
        "nearness to the edge of divergence while Task 2 trains",
        "it stays when Task 2 is trained with a fifth of the step",
        f"{edge}, Task 2 at lr 0.01",
    )
    conditions = {row["label"]: row for row in study("effective-rate")["conditions"]}
    for rate in (0.2, 0.5):
        (row,) = (
            row
            for name, row in conditions.items()
            if name.startswith(f"lr / (1 - m) = {rate}:") and name.endswith("momentum 0.95")
        )
        base = pair_of(conditions[row["change"]["against"]])["difference"]
        rest, moved = pair_of(row)["difference"], row["change"]["difference"]["difference"]
        low, high_bound = moved["ci95"]
        rows.append(
            [
                f"the effective step lr / (1 - m) = {rate} alone",
                "at the same effective step, more momentum changes the difference",
                row["label"].partition(": ")[2],
                *(f"{estimate(x)}, n = {x['n']}" for x in (base, rest, moved)),
                "refuted: momentum moves it"
                if low > 0 or high_bound < 0
                else "not refuted: no change shown",
            ]
        )
    head = ["explanation", "would be refuted if", "experiment", "ReLU minus LWTA with it"]
    return markdown([*head, "without it", "change", "verdict"], rows)


MATCHED = (0.8, 0.9, 0.925)


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
        *(("default", m) for m in ("relu", "lwta", "kept", "fixed", "random", "shifted")),
        *((f"LWTA with {units} units", "lwta") for units in (304, 200)),
    ):
        if name not in every:
            continue  # no run yet
        found = every[name]["models"][model]["measures"]
        cells = [LABELS[model] if name == "default" else name, f"{found['forgetting']['n']}"]
        cells += [f"{found[f'activity, layer {n}, after Task 2']['mean']:.0%}" for n in (1, 2)]
        cells += [estimate(found["forgetting"], ""), f"{found['task 2']['mean']:.3f}"]
        if model == "relu":
            cells += ["", ""]
        else:
            minus = every[name]["relu_minus"][model]
            cells.append(estimate(minus["forgetting"]))
            cells.append(matched_estimate(minus, CONTROL_LEVEL))
        rows.append(cells)
    head = ["network", "seeds", "active in layer 1", "in layer 2", "forgetting"]
    head += ["Task 2 at the end", "ReLU's forgetting minus its"]
    return markdown([*head, f"the same when Task 2 first reaches {CONTROL_LEVEL:.1%}"], rows)


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
        "mechanism_claims": mechanism_claims,
        "paper": paper,
        "open_questions": open_questions,
        "scale": scale,
        "benchmark": benchmark,
    },
    "study/README.md": {
        "findings": findings,
        "matched": matched,
        "mechanism_claims": mechanism_claims,
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
        block = make()
        text, found = pattern.subn(
            lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text
        )
        if found != 1:
            raise InputError(f"{page}: needs <!-- {name} --> and <!-- /{name} --> once")
    return text


def main() -> int:
    """Rewrite the pages; the exit status."""
    for page in PAGES:
        path = ROOT / page
        write_atomically(path, fill(page, path.read_text(encoding="utf-8")).encode())
        print(f"Wrote {page}")
    return 0


if __name__ == "__main__":
    run_script(main)
