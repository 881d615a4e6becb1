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

from compete_to_compute import InputError, label, run_script, write_atomically
from study_open_questions import group_table, saved_groups

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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
        table(["seed 0", "ReLU", "published", "LWTA", "published"], rows)
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
        table([*head, "published mean ± std, wins"], rows)
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
    return table(head, rows)


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
    return table(["claim", "measured", "verdict"], rows)


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
        table(["what", "median", "floors", "peak memory"], rows)
        + f"\n\nMeasured on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['blas']} with kernel {machine['blas_kernel']}, one BLAS thread.\n\n- one seed: "
        + ", ".join(f"{name} {value:.2f} s" for name, value in data["breakdown"].items())
        + ".\n"
        + "\n".join(lines)
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
    return table(["what", "measured", ""], rows)


def open_questions() -> str:
    """The groups of the study that are finished so far, each with its table."""
    parts = []
    for result in saved_groups():
        hours = result["core_seconds"] / 3600
        parts.append(
            f"**{result['question']}** (`{result['command']}`, {hours:.1f} core-hours)\n\n"
            + group_table(result)
        )
    return "\n\n".join(parts)


BLOCKS: dict[str, Callable[[], str]] = {
    "answer": answer,
    "seed_0": seed_0,
    "ten_seeds": ten_seeds,
    "claims": claims,
    "visual_claims": visual_claims,
    "benchmark": benchmark,
    "scale": scale,
    "open_questions": open_questions,
}


def fill(text: str) -> str:
    """The README with every block made anew; `InputError` if a marker is missing."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        block = make()
        text, found = pattern.subn(
            lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text
        )
        if found != 1:
            raise InputError(f"README.md: needs <!-- {name} --> and <!-- /{name} --> once")
    return text


def main() -> int:
    """Rewrite README.md; the exit status."""
    path = ROOT / "README.md"
    write_atomically(path, fill(path.read_text(encoding="utf-8")).encode())
    print(f"Wrote {path.name}")
    return 0


if __name__ == "__main__":
    run_script(main)
