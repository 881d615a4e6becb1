"""Why the small start brings a gap: the numbers and tables that declared.md names.

The means and correlations are over the seeds of the cells that are looked into, the frontier is
over the cells of `start-rate`. Intervals, no verdicts.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm, spearmanr

from compete_to_compute import label
from study.analysis import DIFFERENCE, BySeed, Numbers, Result, analyse, inside, minus, summarised
from study.families import activation_of
from study.runs import PAIR
from study.tables import MISSING, estimate, number, table

SMALL, HE = "init scale 0.2, 2 layers", "init scale 1.0, 2 layers"
ROWS_AT = ", Task 2's output rows at "
WHO = {PAIR[0]: "ReLU", PAIR[1]: "LWTA", DIFFERENCE: "ReLU minus LWTA"}
RANK, MOVED = "rank.layer1.after1", "moved.layer1.task2"
CURVES = {  # what might hold both networks on one curve
    "logit_std": "standard deviation of the logits at the start",
    "tangent_trace": "trace of the tangent kernel at the start, a logit and image",
    MOVED: "relative change of layer 1 in Task 2",
    RANK: "effective rank of layer 1 after Task 1",
}
WITHIN = {
    RANK: "effective rank of layer 1 after Task 1",
    "rank.layer2.after1": "effective rank of layer 2 after Task 1",
    "cosine.layer1.after1": "mean cosine of layer 1's incoming weights, absolute",
    MOVED: "relative change of layer 1 in Task 2",
    "moved.layer2.task2": "relative change of layer 2 in Task 2",
}
OF_A_CELL = {
    "forgetting": "forgetting",
    "task2": "Task 2 accuracy",
    "lost.at0.9": "lost when Task 2 is first at .90",
    "rank.layer1.before": "effective rank of layer 1 before training",
    **WITHIN,
    "moved.layer3.task2": "relative change of the output layer in Task 2",
    "moved_rank.layer1.task1": "effective rank of what Task 1 changes in layer 1",
    "dead.layer1.after1": "share of layer 1's units that no test image activates",
    "overlap_tasks.layer1.after1": "overlap of active sets across tasks, layer 1",
    "lost.old_head": "lost with the old output rows on the new features",
    "lost.new_head": "lost with the new output rows on the old features",
    "lost.offsets": "lost with five class offsets refitted",
    "five_shot.lost": "lost by five images a class, nearest mean",
    "probe.lost": "lost by a linear probe",
    "information_share.layer1.after2": "share of a unit's entropy that tells the task, layer 1",
    "information_share_chance.layer1.after2": "the same for other partings of the digits",
    "information_share.layer2.after2": "share of a unit's entropy that tells the task, layer 2",
    "information_share_chance.layer2.after2": "the same for other partings of the digits, layer 2",
}
LEAST_TASK_2 = (0.92, 0.93, 0.94, 0.945, 0.95)


def two_layer_cells() -> list[Result]:
    """The cells of two layers, by the scale of their initial weights."""
    return [result for name, result in inside().items() if name.endswith("2 layers")]


def correlation(by_seed: BySeed, measure: str) -> Numbers:
    """Spearman's correlation of a measure with forgetting over seeds, as a summary has it.

    The 95 % interval is Fisher's, of standard error 1 / sqrt(n - 3).
    """
    x, y = ([run[name] for run in by_seed.values()] for name in (measure, "forgetting"))
    rho = float(spearmanr(x, y).statistic)
    half = norm.ppf(0.975) / np.sqrt(len(x) - 3)
    ends = [float(np.tanh(np.arctanh(rho) + side * half)) for side in (-1, 1)]
    return {"mean": rho, "ci95": ends}


def curve(measure: str) -> dict[str, np.ndarray]:
    """For each network the cells' means of a measure and of forgetting, (2, cells)."""
    return {
        model: np.array(
            [
                [np.mean([*cell.values(model, which).values()]) for cell in two_layer_cells()]
                for which in (measure, "forgetting")
            ]
        )
        for model in PAIR
    }


def distances(measure: str) -> list[float]:
    """How far LWTA's cells lie from ReLU's curve, straight in log x, where x is in its range."""
    (x, y), (lwta_x, lwta_y) = curve(measure).values()
    order = np.argsort(x)
    inside = (lwta_x >= x.min()) & (lwta_x <= x.max())
    expected = np.interp(np.log(lwta_x[inside]), np.log(x[order]), y[order])
    return (lwta_y[inside] - expected).tolist()


def mean_of(values: list[float]) -> float | None:
    """Their mean; None of none."""
    return float(np.mean(values)) if values else None


def trained_cells(model: str) -> dict[str, Numbers]:
    """A network's numbers in the cells of `start-rate` in which none of its runs failed."""
    cells = {name: result.numbers[model] for name, result in analyse()["start-rate"].items()}
    return {name: numbers for name, numbers in cells.items() if not numbers["failed"]}


# --- Tables ---------------------------------------------------------------------------------------


def mean(name: str, of: str, measure: str) -> str:
    """A cell's mean and interval of a measure, as text; `of` a network or of a difference."""
    by_seed = inside()[name].measures.get(of, {})
    return estimate(summarised(by_seed, measure), sign=of == DIFFERENCE)


def goes_with(name: str, of: str, measure: str) -> str:
    """How a measure goes with forgetting over a cell's seeds, as text."""
    return estimate(correlation(inside()[name].measures[of], measure), 2)


def means_table() -> str:
    """Every measure in the small and in the He cell, also with Task 2's output rows exchanged."""
    cells = {
        **{SMALL: "small", HE: "He"},
        **{f"{SMALL}{ROWS_AT}1.0": "small, He rows", f"{HE}{ROWS_AT}0.2": "He, small rows"},
    }
    heads = [f"{words}: {who}" for words in cells.values() for who in WHO.values()]
    rows = [
        [words, *(mean(name, of, measure) for name in cells for of in WHO)]
        for measure, words in OF_A_CELL.items()
    ]
    return table(["measure", *heads], rows)


def correlations_table() -> str:
    """How forgetting goes with each measure over the small cell's seeds."""
    rows = [
        [words, *(goes_with(SMALL, of, measure) for of in WHO)] for measure, words in WITHIN.items()
    ]
    return table(["goes with forgetting", *WHO.values()], rows)


def rows_table() -> str:
    """What Task 2's output rows do that start at another scale than the rest of the network."""
    rows = []
    for base, scale, other in ((SMALL, "0.2", "1.0"), (HE, "1.0", "0.2")):
        name = f"{base}{ROWS_AT}{other}"
        gaps = minus(inside()[name].measures[DIFFERENCE], inside()[base].measures[DIFFERENCE])
        change = estimate(summarised(gaps))
        for cell_name, own, changed in ((base, scale, ""), (name, other, change)):
            forgetting = [mean(cell_name, of, "forgetting") for of in WHO]
            task2 = [mean(cell_name, model, "task2") for model in PAIR]
            rows.append([scale, own, *forgetting, *task2, changed])
    heads = ["network from", "Task 2's output rows from", "forgetting, ReLU", "LWTA"]
    heads += ["ReLU minus LWTA", "Task 2, ReLU", "LWTA", "change of ReLU minus LWTA"]
    return table(heads, rows)


def depths_table() -> str:
    """The two measures that should go with the gap, at each depth, from either start."""
    rows = []
    for depth in ("1 layer", "2 layers", "3 layers"):
        for name in (f"init scale 0.2, {depth}", f"init scale 1.0, {depth}"):
            rows.append([name, *(mean(name, of, "forgetting") for of in WHO)])
            for measure in (RANK, MOVED):
                rows[-1] += [mean(name, DIFFERENCE, measure), goes_with(name, DIFFERENCE, measure)]
    heads = ["cell", "forgetting, ReLU", "LWTA", "ReLU minus LWTA"]
    heads += ["effective rank of layer 1, ReLU minus LWTA", "goes with the gap"]
    return table([*heads, "relative change of layer 1, ReLU minus LWTA", "goes with the gap"], rows)


def curves_table() -> str:
    """Which measures hold both networks on one curve."""
    rows = []
    for measure, words in CURVES.items():
        away = distances(measure)
        farthest = max(away, key=abs, default=None)
        cells = [number(value, sign=True) for value in (mean_of(away), farthest)]
        rows.append([words, f"{len(away)}", *cells])
    heads = ["forgetting against", "LWTA's cells within ReLU's range"]
    return table([*heads, "their mean distance from ReLU's curve", "the farthest"], rows)


def frontier_table() -> str:
    """The least mean forgetting of each network at a least Task 2 accuracy, over start and rate."""
    rows = [[f"Task 2 at least {least:.3f}".rstrip("0")] for least in LEAST_TASK_2]
    rows.append(["the highest average accuracy"])
    for model in PAIR:
        cells = trained_cells(model)
        best: list[tuple[float | None, str]] = []
        for least in LEAST_TASK_2:
            enough = [name for name, n in cells.items() if n["last_task"]["mean"] >= least]
            forgetting = [(cells[name]["forgetting"]["mean"], name) for name in enough]
            best.append(min(forgetting, default=(None, MISSING)))
        best.append(max((n["average_accuracy"]["mean"], name) for name, n in cells.items()))
        for row, (value, name) in zip(rows, best, strict=True):
            row.append(f"{number(value)}, {name}")
    return table(["", *(f"{label(model)}, and where" for model in PAIR)], rows)


def networks_table() -> str:
    """What the networks that do not compete forget from the small start."""
    small = inside()[SMALL].measures
    rows = []
    for model in inside()[SMALL].rows:
        forgetting, task2, lost = (
            mean(SMALL, model, measure) for measure in ("forgetting", "task2", "lost.at0.9")
        )
        more = estimate(summarised(minus(small[model], small["lwta"])))
        rows.append([activation_of(model).label, forgetting, task2, more, lost])
    heads = ["network", "forgetting", "Task 2", "forgetting minus LWTA's"]
    return table([*heads, "lost when Task 2 is first at .90"], rows)


def tables() -> dict[str, str]:
    """The tables in Markdown, by title."""
    return {
        "why: inside the networks": means_table(),
        "why: within the small cell": correlations_table(),
        "why: Task 2's output rows": rows_table(),
        "why: at other depths": depths_table(),
        "why: one curve for both networks": curves_table(),
        "why: the frontier": frontier_table(),
        "why: networks that do not compete": networks_table(),
    }
