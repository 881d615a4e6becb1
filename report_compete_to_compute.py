"""The page that `visualize_compete_to_compute.py --html` writes: figures and tables in one file.

It needs no network, no script and no other file. The numbers are those of the terminal report and
of the README's tables, made by the same functions; everything drawn also stands in a table.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compete_to_compute import (
    METRICS,
    STATUSES,
    Config,
    InputError,
    caveats,
    flag,
    headline_rows,
    label,
    sequential_metrics,
    write_or_stop,
)

if TYPE_CHECKING:
    from visualize_compete_to_compute import Snapshots

HERE = Path(__file__).resolve().parent
STUDY = HERE / "study"
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5b616a; --page: #fdfdfc;
  --line: #d9dce1; --shade: #f1f3f5; --link: #0b5cad; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #a2a9b4; --page: #16181c;
  --line: #363b44; --shade: #20242a; --link: #7cb8ee; --mark: #56b4e9; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; color: var(--ink);
  background: var(--page); font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0; }
h2 { margin: 3rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p, li { max-width: 46rem; }
a { color: var(--link); }
code { font-size: .9em; }
.verdict { padding: .5rem .9rem; border-left: .3rem solid var(--mark); background: var(--shade); }
figure { margin: 1.8rem 0; }
figcaption { margin-bottom: .5rem; max-width: 46rem; }
.scroll { overflow-x: auto; max-width: 100%; border: 1px solid var(--line); border-radius: .4rem; }
.card { background: #fff; padding: .4rem; }
/* On a phone a wide figure keeps a size at which it can be read, and scrolls within its card. */
.card img { display: block; height: auto; max-width: max(100%, var(--least)); margin: 0 auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.tabular { margin: 1.2rem 0; width: fit-content; min-width: min(100%, 26rem); }
caption { text-align: left; padding: .5rem .7rem; font-weight: 600; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border-top: 1px solid var(--line); }
@media (max-width: 30rem) { th, td, caption { padding-inline: .45rem; } }
th { font-weight: 500; }
th, td { white-space: nowrap; }
thead th { color: var(--soft); }
tbody th { position: sticky; left: 0; background: var(--page); }
.text { white-space: normal; min-width: min(14rem, 42vw); }
details { margin: .8rem 0; }
summary { cursor: pointer; padding: .3rem 0; }
summary:hover { color: var(--link); }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
"""
METRIC_NAMES = dict(
    zip(
        METRICS,
        ("forgetting", "average accuracy", "backward transfer", "forward transfer"),
        strict=True,
    )
)

# --- HTML -----------------------------------------------------------------------------------------


def scroll(kind: str, name: str, content: str) -> str:
    """A box that scrolls by itself, with the keyboard too, so that the page never does."""
    return (
        f'<div class="scroll {kind}" role="region" tabindex="0" aria-label="{escape(name)}">'
        f"{content}</div>"
    )


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a caption; the first cell of each row is its header. Long cells may wrap."""

    def cell(tag: str, text: str, longest: int) -> str:
        kind = ' class="text"' if len(text) > longest else ""
        scope = ' scope="row"' if tag == "th" else ""
        return f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"

    heads = "".join(f'<th scope="col">{escape(h)}</th>' if h else "<td></td>" for h in head)
    lines = "\n".join(
        f"<tr>{cell('th', first, 24)}{''.join(cell('td', text, 40) for text in rest)}</tr>"
        for first, *rest in rows
    )
    content = f"<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
    return scroll("tabular", caption, f"<table>{content}<tbody>\n{lines}\n</tbody></table>")


def figure(path: Path, caption: str, alternative: str) -> str:
    """A PNG file within the page."""
    try:
        png = path.read_bytes()
        if png[:8] != b"\x89PNG\r\n\x1a\n":
            raise ValueError("not a PNG")
        width, height = struct.unpack(">II", png[16:24])
    except (OSError, ValueError, struct.error) as error:
        raise InputError(f"{path}: cannot be shown ({error}); draw it again") from None
    data = base64.b64encode(png).decode()
    image = (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'style="--least: {width * 0.55:.0f}px" alt="{escape(alternative)}">'
    )
    name = f"Figure: {path.stem}"
    caption = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure>{caption}{scroll('card', name, image)}</figure>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def folded(summary: str, *parts: str) -> str:
    """What a reader may open; it needs no script."""
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


# --- The run --------------------------------------------------------------------------------------


def record_of(snapshots: Snapshots, model: str) -> dict[str, Any]:
    """What a row of `per_seed` says, from the snapshots alone, which know of no failure."""
    task, accuracy = snapshots.of(model, "task"), snapshots.of(model, "accuracy")
    last = [*np.flatnonzero(np.diff(task)), len(task) - 1]  # the last test before each switch
    matrix = accuracy[last]
    return {
        "model": model,
        "accuracy_matrix": matrix.tolist(),
        "average_accuracy": float(matrix[-1].mean()),
        "forgetting": sequential_metrics(matrix).get("forgetting"),
        "status": "ok",
        "failure": None,
        "target_reached": None,
    }


def matching_rows(
    snapshots: Snapshots, results: dict[str, Any] | None, records: Sequence[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """The rows of results.json for the run of the snapshots; None if it is of another run."""
    if not results or results["config"] != snapshots.config:
        return None
    rows = {row["model"]: row for row in results["per_seed"] if row["seed"] == snapshots.seed}
    found = [rows.get(record["model"], {}) for record in records]
    same = all(
        row.get("accuracy_matrix") == record["accuracy_matrix"]
        for row, record in zip(found, records, strict=True)
    )
    return found if same else None


def shown_value(value: Any) -> str:
    """A setting as the command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def run_section(snapshots: Snapshots, results: dict[str, Any] | None, same: bool) -> str:
    """What was run, with which settings, and where."""
    config, models = snapshots.config, " and ".join(map(label, snapshots.models))
    tasks = (" together with " if config["joint"] else ", then ").join(snapshots.tasks)
    most = "" if config["target_loss"] is None else "at most "
    sentence = (
        f"{models} networks with {config['depth']} hidden layers of {config['hidden']} units "
        f"learned the MNIST digits {tasks}: {most}{config['epochs']} epochs each, learning rate "
        f"{config['lr']}, momentum {config['momentum']}. Seed {snapshots.seed}."
    )
    known = {item.name: item for item in fields(Config)}
    settings = [
        [
            flag(name),
            shown_value(value),
            shown_value(known[name].default) if name in known else "-",
            known[name].metadata["help"] if name in known else "-",
        ]
        for name, value in config.items()
    ]
    parts = [
        paragraph(sentence),
        folded(
            "Every setting",
            table("Settings of the run", ["setting", "value", "default", "meaning"], settings),
        ),
    ]
    if results is None:
        parts.append(paragraph("Without results.json, the machine is not known."))
    else:
        if not same:
            parts.append(paragraph("results.json is of another run than the figures of one seed."))
        machine = [
            [name.replace("_", " "), shown_value(value)]
            for name, value in results["environment"].items()
            if not isinstance(value, dict)
        ]
        parts.append(
            folded(
                "Software and machine",
                table("Where results.json was made", ["what", "found"], machine),
            )
        )
    return "\n".join(parts)


def headline_section(snapshots: Snapshots, records: Sequence[dict[str, Any]]) -> str:
    """The headline table of one seed, and its epochs."""
    names = [label(model) for model in snapshots.models]
    rows = [[text, *cells] for text, cells in headline_rows(records)]
    parts = [table(f"Seed {snapshots.seed}, on test images", ["", *names], rows)]
    parts += [paragraph(line, "verdict") for line in caveats(records)]
    parts.append(paragraph("One seed shows no effect: luck moves it by hundredths."))
    epochs = []
    for model in snapshots.models:
        columns = (snapshots.of(model, what) for what in ("task", "update", "train_loss"))
        accuracies = snapshots.of(model, "accuracy")
        for task, update, loss, tests in zip(*columns, accuracies, strict=True):
            if np.isfinite(loss):  # the tests within an epoch have none
                cells = [f"{task}", f"{update}", f"{loss:.4f}", *(f"{test:.3f}" for test in tests)]
                epochs.append([label(model), *cells])
    head = ["model", "task", "updates", "train loss"]
    head += [f"test T{number}" for number in range(1, len(snapshots.tasks) + 1)]
    parts.append(folded("Every epoch", table("After each epoch", head, epochs)))
    return "\n".join(parts)


def figure_texts(
    snapshots: Snapshots, records: Sequence[dict[str, Any]], results: dict[str, Any] | None
) -> dict[str, tuple[str, str]]:
    """A caption and an alternative text for each figure, by the name of its file."""
    from visualize_compete_to_compute import field_spread, segregation

    matrices = {label(r["model"]): r["accuracy_matrix"] for r in records}
    last = len(snapshots.tasks)
    falls = "; ".join(
        f"{name} goes from {matrix[1][0]:.3f} to {matrix[-1][0]:.3f}"
        for name, matrix in matrices.items()
    )
    ends = "; ".join(f"{name} {matrix[-1][-1]:.3f}" for name, matrix in matrices.items())
    texts = {
        "training_curves": (
            "Test accuracy through training: a network keeps Task 1 if its line stays up after "
            "the dotted switch.",
            f"Lines of test accuracy over updates. On Task 1, {falls}. On Task {last} at the end: "
            f"{ends}.",
        ),
        "forgetting_bar": (
            "The same as bars: what each network knew of Task 1 before and after the rest.",
            f"Pairs of bars of test accuracy on Task 1, before and after later training: {falls}.",
        ),
    }
    for model in snapshots.models:
        weights, start = snapshots.of(model, "W1"), snapshots.arrays["W1_init"]
        spreads = [field_spread(of).mean() for of in (weights, weights - start)]
        texts[f"W1_{model}"] = (
            f"What {label(model)}'s first hundred units look at, and what training changed there.",
            f"Two grids with an image of weights for each of {label(model)}'s first hundred units. "
            f"The trained weights spread {spreads[0]:.2f} pixels about their centre, what training "
            f"changed {spreads[1]:.2f}; spread evenly it would be 11.42.",
        )
    uses = []
    for model in snapshots.models:
        for layer, active in enumerate(snapshots.of(model, "active")[-1], start=1):
            found = segregation(active[0], active[-1])
            uses.append(
                f"{label(model)}, layer {layer}: mean gap {found['gap']:.3f}, "
                f"{found['exclusive']:.0%} of units almost only for one task"
            )
    texts["winner_freq"] = (
        "How often each unit is active on either task: units that serve one task alone would have "
        "a bar on one side only.",
        f"Bars for each unit, Task 1 upwards and Task {last} downwards. {'; '.join(uses)}.",
    )
    if results:
        means = "; ".join(
            f"{label(model)} {values['forgetting']['mean']:.3f}"
            for model, values in results["aggregate"]["models"].items()
            if values["forgetting"]["mean"] is not None
        )
        texts["seeds"] = (
            "Every seed's forgetting: a line is a seed, diamonds are means with 95 % intervals.",
            f"Dots of each seed's forgetting, joined across models. Means: {means}.",
        )
    return texts


def seeds_section(results: dict[str, Any], config: dict[str, Any]) -> str:
    """Means with intervals, then each pair with exact test and verdict, then the seeds."""
    models, rows = results["aggregate"]["models"], results["per_seed"]
    parts = []
    others = {name: v for name, v in results["config"].items() if v != config.get(name)}
    if others:
        changed = ", ".join(f"{flag(name)} {shown_value(v)}" for name, v in others.items())
        parts.append(paragraph(f"These seeds were run with other settings: {changed}."))
    for pair in results["aggregate"]["pairs"]:
        difference = pair["difference"]
        if difference["ci95"] is None:
            continue
        first, second = label(pair["first"]), label(pair["second"])
        parts.append(paragraph(f"{first} against {second}: {pair['verdict']}.", "verdict"))
        shown = pair["smallest_detectable"]
        cells = [
            ["complete pairs", f"{difference['n']}"],
            ["mean difference", f"{difference['mean']:+.4f}"],
            ["95 % interval", "{:+.4f} to {:+.4f}".format(*difference["ci95"])],
            [f"seeds on which {second} forgets less", f"{pair['wins']}"],
            [f"seeds on which {first} forgets less", f"{pair['losses']}"],
            ["ties", f"{pair['ties']}"],
            ["exact sign test", f"p = {pair['sign_test_p']:.3f}"],
            ["difference that would have been found", "-" if shown is None else f"{shown:.3f}"],
        ]
        caption = f"Forgetting of {first} minus {second}, seed by seed"
        parts.append(table(caption, ["what", "value"], cells))
    means = []
    for metric, name in METRIC_NAMES.items():
        for model, totals in models.items():
            values = totals[metric]
            if values["ci95"] is not None:
                middle = ["{:.4f} to {:.4f}".format(*values["ci95"])]
                middle += [f"{values[key]:.4f}" for key in ("std", "median", "iqm")]
                head = [name, label(model), f"{values['n']}", f"{values['mean']:.4f}"]
                means.append(head + middle)
    head = ["over seeds", "model", "runs", "mean", "95 % interval", "std", "median", "IQM"]
    parts.append(table("Each network by itself", head, means))
    for model, totals in models.items():
        parts += [
            paragraph(f"{label(model)}: {totals[status]} {status}, left out of every mean.")
            for status in STATUSES[1:]
            if totals[status]
        ]
    cells = {}
    for row in rows:
        number = "-" if row["forgetting"] is None else f"{row['forgetting']:.3f}"
        cells[row["seed"], row["model"]] = number if row["status"] == "ok" else row["status"]
    seeds = sorted({row["seed"] for row in rows})
    lines = [[f"{seed}", *(cells.get((seed, model), "-") for model in models)] for seed in seeds]
    head = ["seed", *map(label, models)]
    parts.append(folded("Every seed", table("Forgetting of each seed", head, lines)))
    return "\n".join(parts)


# --- The study ------------------------------------------------------------------------------------

STUDY_FIGURES = {
    "summary.png": (
        "Every condition, sorted by which network forgets less.",
        "Forgetting of ReLU minus LWTA with its 95 % interval, a row per condition: blue where "
        "LWTA forgets less, orange where ReLU does, grey where neither is shown. The tables above "
        "have every row.",
    ),
    "phase_diagram.png": (
        "Where each network forgets less, and where it stops training, over learning rate and "
        "momentum.",
        "Four grids over learning rate and momentum: forgetting of ReLU minus LWTA, Task 2 "
        "accuracy likewise, forgetting of ReLU, forgetting of LWTA, with the edges beyond which "
        "most runs fail. The table on learning rate and momentum above has every cell.",
    ),
    "matching_rule.png": (
        "What is lost on Task 1 by the time Task 2 is known equally well.",
        "Task 1 accuracy against Task 2 accuracy for every seed (above), what ReLU has lost minus "
        "what LWTA has at equal Task 2 accuracy (middle), and both accuracies against updates "
        "(below), a column per configuration.",
    ),
    "layers.png": (
        "How differently the two tasks use each layer, before and after training.",
        "Lines over hidden layers for ReLU and LWTA: information of a unit's gate about the task, "
        "mean gap, overlap of active sets; crosses are what chance gives.",
    ),
    "controls.png": (
        "What is lost on Task 1, by networks that have a part of competition.",
        "Forgetting, the loss at equal Task 2 accuracy and the loss of a refitted linear probe, "
        "each with its 95 % interval, a row for LWTA, ReLU and each control.",
    ),
    "explanations.png": (
        "Why the optimiser matters: each experiment takes one explanation away.",
        "Forgetting of ReLU minus LWTA with its 95 % interval: in the case itself, in the "
        "experiment, and the change, a group of rows per experiment.",
    ),
    "reach.png": (
        "How far Task 2 reaches into what Task 1 uses.",
        "Shares of weights that Task 2 leaves alone and of Task 1's active units that it "
        "silences, by layer, for ReLU and LWTA.",
    ),
    "paper.png": (
        "Which learning rate and momentum come close to the paper's errors.",
        "Task 1 test error after Task 2 over a grid of learning rates and momenta, for ReLU, LWTA "
        "and sigmoid, beside the paper's figures, at two and three layers.",
    ),
    "data_movement.png": (
        "How much memory traffic a forward pass and an update cost each network.",
        "ByteDMD cost of one image by phase for ReLU and LWTA, dense and with silent units or "
        "zero pixels skipped.",
    ),
}
TABLE_NAMES = {
    ("condition", "pairs"): "Forgetting in each condition",
    ("condition", "activation"): "Each activation by itself",
    ("exploratory: change", "forgetting, ReLU"): "What each condition changes, seed by seed",
}


def html_tables(report: str) -> list[str]:
    """The Markdown tables of a group's report, parted by blank lines, as HTML."""
    tables = []
    for block in report.split("\n\n"):
        head, _, *rows = [line[2:-2].split(" | ") for line in block.split("\n")]
        tables.append(table(TABLE_NAMES.get(tuple(head[:2]), head[0]), head, rows))
    return tables


def study_section() -> str | None:
    """The study's figures and tables, or None where it is not beside this script."""
    if not (STUDY.is_dir() and (HERE / "study_open_questions.py").exists()):
        return None
    from study_open_questions import group_report, outcome, saved_groups

    parts = []
    try:
        groups = saved_groups()
        answers = [[group["question"], outcome(group)] for group in groups]
        made = [f"{g['command']}, {g['core_seconds'] / 3600:.1f} core-hours" for g in groups]
        tables = [html_tables(group_report(group)) for group in groups]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{STUDY}: a file of the study is damaged ({error!r}); "
            "run study_open_questions.py --finished-only"
        ) from None
    if groups:
        parts.append(table("The questions of the study", ["question", "outcome"], answers))
        parts.append(
            paragraph(
                "Every comparison is paired, with the same batches too but for the published "
                "ones. Could show: the smallest true difference that would "
                "have been found with 80 % power. p: the exact sign test's, adjusted within its "
                "group (Holm). A verdict is unadjusted where the sign test shows a difference only "
                "before that, and by the interval alone where it shows none; whatever has no "
                "adjusted p is exploratory."
            )
        )
    parts += [
        folded(group["question"], paragraph(how), *of_group)
        for group, how, of_group in zip(groups, made, tables, strict=True)
    ]
    parts += [
        figure(STUDY / name, *texts)
        for name, texts in STUDY_FIGURES.items()
        if (STUDY / name).exists()
    ]
    return "\n".join(parts) or None


# --- The page -------------------------------------------------------------------------------------


def opening(
    snapshots: Snapshots, results: dict[str, Any] | None, records: Sequence[dict[str, Any]]
) -> str:
    """What a reader came for, before anything else: the forgetting and the verdict."""
    lost = [
        f"{label(record['model'])} forgets {record['forgetting']:.3f}"
        for record in records
        if record["status"] == "ok" and record["forgetting"] is not None
    ]
    lines = [f"At seed {snapshots.seed}, {', '.join(lost)}."] if lost else []
    if results and results["config"] == snapshots.config:
        lines += [
            f"Over all seeds, {label(pair['first'])} against {label(pair['second'])}: "
            f"{pair['verdict']}."
            for pair in results["aggregate"]["pairs"]
            if pair["verdict"]
        ]
    return "\n".join(paragraph(line, "verdict") for line in lines)


def report_page(
    snapshots: Snapshots, results: dict[str, Any] | None, figures: Sequence[Path]
) -> str:
    """The whole page."""
    records = [record_of(snapshots, model) for model in snapshots.models]
    matching = matching_rows(snapshots, results, records)
    texts = figure_texts(snapshots, records, results)
    drawn = {path.stem: figure(path, *texts[path.stem]) for path in figures}
    over_seeds = drawn.pop("seeds", "")
    sections = {
        "run": ("What was run", run_section(snapshots, results, matching is not None)),
        "seed": ("What this seed shows", headline_section(snapshots, matching or records)),
        "figures": ("The seed in figures", "\n".join(drawn.values())),
    }
    if results and len({row["seed"] for row in results["per_seed"]}) > 1:
        content = seeds_section(results, snapshots.config)
        sections["seeds"] = ("What all seeds show", f"{content}\n{over_seeds}")
    if study := study_section():
        sections["study"] = ("What the study shows", study)
    links = "".join(
        f'<li><a href="#{name}">{escape(title)}</a></li>' for name, (title, _) in sections.items()
    )
    body = "\n".join(
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}</h2>\n{content}\n'
        "</section>"
        for name, (title, content) in sections.items()
    )
    title = f"Compete to Compute, seed {snapshots.seed}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>Networks that differ in the hidden activation learn one task after another. Forgetting is the
test accuracy on the first task before the later training minus the same after it.</p>
{opening(snapshots, results, matching or records)}
</header>
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main>
{body}
</main>
<footer>Written by <code>visualize_compete_to_compute.py --html</code>.</footer>
</body>
</html>
"""


def write_report(
    path: Path, snapshots: Snapshots, results: dict[str, Any] | None, figures: Sequence[Path]
) -> None:
    """Write the page, all of it or nothing, with the figures that were just drawn."""
    write_or_stop(path, report_page(snapshots, results, figures).encode())
    print(f"Wrote {path}")


if __name__ == "__main__":
    import sys

    print("run visualize_compete_to_compute.py --html, which writes the page", file=sys.stderr)
    sys.exit(2)
