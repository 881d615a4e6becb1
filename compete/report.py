"""What a command says on the terminal: from its results alone, in 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from compete.inference import STATUSES

Labels = dict[str, str]  # how each model is called in print


def print_report(results: dict[str, Any]) -> None:
    """Print epochs and headline of the first seed; for several seeds, what they show together.

    `results` is the contents of results.json. Of several settings only a line each is printed.
    """
    labels = {model: named["label"] for model, named in results["activations"].items()}
    if isinstance(results["aggregate"], list):
        print_grid(results["aggregate"], labels)
        return
    seed = results["headline"]["seed"]
    print_schedule(results["schedule"], len(results["config"]["tasks"]), labels)
    records = [row for row in results["per_seed"] if row["seed"] == seed]
    print_headline(records, results["config"], labels)
    print_caveats(records, labels)
    if len({row["seed"] for row in results["per_seed"]}) > 1:
        print_aggregate(results["aggregate"], labels)
    else:
        print("\nOne seed cannot tell which network forgets less; --n-seeds 20 can tell more.")
    kernels = {row["blas_kernel"] for row in results["per_seed"]}
    if len(kernels) > 1:
        print(f"\nRun on {len(kernels)} BLAS kernels ({', '.join(map(str, sorted(kernels)))}):")
        print("the last bits differ between them; per_seed says which had which.")


def print_schedule(rows: Sequence[dict[str, Any]], tasks: int, labels: Labels) -> None:
    """Print a line a model and epoch; test accuracies in columns T1, T2, ..."""
    columns = min(tasks, 5)  # as many as 80 columns hold
    width = max([8, *(len(labels[row["model"]]) for row in rows)])
    heads = "".join(f"{f'T{j + 1}':>6}" for j in range(columns))
    print(
        f"{'model':{width}}{'task':>5}{'epoch':>6}{'train loss':>12}{'train acc':>11}   test{heads}"
    )
    for row in rows:
        tests = "".join(f"{accuracy:6.3f}" for accuracy in row["test_accuracy"][:columns])
        print(
            f"{labels[row['model']]:{width}}{row['task']:5}{row['epoch']:6}"
            f"{row['train_loss']:12.4f}{row['train_accuracy']:11.3f}       {tests}"
        )


def print_headline(
    records: Sequence[dict[str, Any]], config: dict[str, Any], labels: Labels
) -> None:
    """Print what one seed shows, a column for each model: with two tasks, the published table."""
    tasks = len(config["tasks"])
    last = f"after Task {tasks}"
    names = [labels[record["model"]] for record in records]
    width = max(10, *(len(name) + 2 for name in names))

    def line(text: str, figure: Callable[[dict[str, Any]], float], digits: str = ".1%") -> None:
        cells = ["-" if r["status"] == "diverged" else format(figure(r), digits) for r in records]
        print(f"{text:36}" + "".join(f"{cell:>{width}}" for cell in cells))

    seed = f"Seed {records[0]['seed']}"
    print(f"\n{seed:36}" + "".join(f"{name:>{width}}" for name in names))
    if config["joint"] and tasks > 1:
        line("Average accuracy, all tasks at once", lambda r: r["average_accuracy"])
        return
    line("Task 1 accuracy after Task 1", lambda r: r["accuracy_matrix"][1][0])
    if tasks > 1:
        line(f"Task 1 accuracy {last}", lambda r: r["accuracy_matrix"][-1][0])
        line("Forgetting" + " (mean over tasks)" * (tasks > 2), lambda r: r["forgetting"], ".3f")
        line(f"Task {tasks} accuracy {last}", lambda r: r["accuracy_matrix"][-1][-1])
    if tasks > 2:
        line("Average accuracy", lambda r: r["average_accuracy"])


def print_caveats(records: Iterable[dict[str, Any]], labels: Labels) -> None:
    """Print which of one seed's runs failed, or ended a task short of its target loss."""
    for record in records:
        model = labels[record["model"]]
        if record["status"] != "ok":
            print(f"{model} {record['status']}: {record['failure']}.")
            print("  What it forgets means nothing.")
        for task, is_reached in enumerate(record["target_reached"] or [], start=1):
            if not is_reached:
                print(f"{model} did not reach --target-loss on task {task}.")


def interval(summary: dict[str, Any], sign: str = "") -> str:
    """The 95 % interval of a summary in words."""
    low, high = summary["ci95"]
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def print_aggregate(totals: dict[str, Any], labels: Labels) -> None:
    """Print each model's forgetting, then each pair with its verdict."""
    width = max([12, *(len(labels[model]) for model in totals["models"])])
    print(f"\n{'Forgetting':{width}}  runs     mean      std   95 % interval       median")
    for model, values in totals["models"].items():
        forgetting = values["forgetting"]
        if forgetting["ci95"] is not None:
            print(
                f"{labels[model]:{width}}{forgetting['n']:6}{forgetting['mean']:9.4f}"
                f"{forgetting['std']:9.4f}   {interval(forgetting):18}{forgetting['median']:8.4f}"
            )
        for status in STATUSES[1:]:
            if values[status]:
                print(f"  {labels[model]}: {values[status]} {status}, left out of every mean")
    for pair in totals["pairs"]:
        if pair["difference"]["ci95"] is not None:
            print_pair(pair, labels, is_alone=len(totals["pairs"]) == 1)


def print_grid(settings: Sequence[dict[str, Any]], labels: Labels) -> None:
    """Print a line a setting: each model's forgetting, and of two models what they show."""
    names = [setting_name(setting["setting"]) for setting in settings]
    first_column = max(map(len, names))
    widths = [max(6, len(labels[model]) + 1) for model in settings[0]["models"]]
    heads = [f"{labels[m]:>{w}}" for m, w in zip(settings[0]["models"], widths, strict=True)]
    is_pair = len(settings[0]["pairs"]) == 1
    head = f"\n{'':{first_column}}{''.join(heads)}"
    print(head + "  difference, 95 % interval" * is_pair)
    for name, setting in zip(names, settings, strict=True):
        means = [model["forgetting"]["mean"] for model in setting["models"].values()]
        cells = "".join(f"{short(m):>{w}}" for m, w in zip(means, widths, strict=True))
        pairs = [pair_in_short(pair) for pair in setting["pairs"]]
        print(f"{name:{first_column}}{cells}" + f"  {pairs[0]}" * is_pair)
        for pair, text in zip(setting["pairs"], pairs, strict=True):
            if not is_pair:
                print(f"  {labels[pair['first']]} minus {labels[pair['second']]}: {text}")
    print("Forgetting, means over seeds; all comparisons are one family of tests.")


def setting_name(setting: dict[str, Any]) -> str:
    """A setting of a grid in words: init scale 0.1, lr 0.01."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in setting.items())


def short(value: float | None, sign: str = "") -> str:
    """A number below one with three decimals and no zero before them."""
    return "-" if value is None else f"{value:{sign}.3f}".replace("0.", ".", 1)


def pair_in_short(pair: dict[str, Any]) -> str:
    """Difference, interval and verdict of a comparison, for a line."""
    difference, text = pair["difference"], short(pair["difference"]["mean"], "+")
    if difference["ci95"]:
        text += " ({} to {})".format(*(short(end, "+") for end in difference["ci95"]))
    words = (pair["verdict"] or "too few pairs").partition(":")[0].partition(",")[0]
    failed = sum(pair["failed"].values())
    return f"{text:24}{words}" + (f"; {failed} runs failed" if failed else "")


def print_pair(pair: dict[str, Any], labels: Labels, is_alone: bool) -> None:
    """Print a comparison of two models; its adjusted p unless it is alone in its family."""
    difference, first, second = pair["difference"], labels[pair["first"]], labels[pair["second"]]
    adjusted = "" if is_alone else f", adjusted {pair['p_adjusted']:.2g}"
    print(f"\n{first} minus {second}, seed by seed ({difference['n']} complete pairs)")
    print(f"  mean {difference['mean']:+.4f}, 95 % interval {interval(difference, '+')}")
    print(f"  median {difference['median']:+.4f}; permutation test p = {pair['p']:.2g}{adjusted}")
    wins = f"{second} forgets less on {pair['wins']} seeds, {first} on {pair['losses']}"
    print(f"  {wins}, ties {pair['ties']}")
    if pair["at_chance"] and pair["at_chance"]["ci95"]:
        print("  average accuracy, with failed runs counted as guessing:")
        mean = pair["at_chance"]["mean"]
        print(f"    difference {mean:+.4f}, 95 % interval {interval(pair['at_chance'], '+')}")
    print(f"  Verdict: {pair['verdict']}.")
