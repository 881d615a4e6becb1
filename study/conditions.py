"""Train the families of conditions.

    python3 -m study conditions                      every family, every seed planned
    python3 -m study conditions --n-seeds 20 block   one family, no more than 20 seeds trained
    python3 -m study conditions --finished-only      what is there, no training
    python3 -m study conditions --file mine.py --out-dir mine
                                                     your own FAMILIES; what is here is left alone

A run is in study/results/conditions.jsonl as soon as it ends, so a stopped study goes on where it
was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

from compete.files import check_writable, require
from compete.inference import adjust, aggregate, verdict
from compete.machine import available_cores, blas
from compete.options import POSITIVE_COUNT, OneLineParser, add_options, check_options, option
from compete.own import load_module
from compete.report import print_aggregate, print_pair
from compete.runs import Planned, Row, RunFile, finish
from compete_to_compute import (
    Activation,
    Config,
    chance,
    check_models,
    label,
    load_mnist,
    train_model,
)
from study.families import FAMILIES, Condition, Family, activation_of, finished_in
from study.networks import start
from study.runs import CONDITIONS

Groups = Mapping[str, Sequence[Condition]]  # conditions by the name that one can ask for


@dataclass(frozen=True)
class StudyOptions:
    """What the command lines of both studies have in common."""

    n_seeds: int | None = option(
        None, "train so many seeds of a condition at most", POSITIVE_COUNT, type=int, metavar="N"
    )
    jobs: int = option(available_cores(), "runs side by side", POSITIVE_COUNT)
    dask: str | None = option(None, "address of a Dask scheduler to train on", metavar="ADDRESS")
    data_dir: str | None = option(
        None, "the four MNIST files (default: $MNIST_DIR, else the cache)", metavar="DIR"
    )
    finished_only: bool = option(False, "train nothing: show what is there")


def study_parser(description: str, names: str) -> OneLineParser:
    """Make a parser of names that can be asked for, and of `StudyOptions`."""
    parser = OneLineParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    add_options(parser, StudyOptions)
    return parser


def train_missing(
    train: Callable[..., Row], groups: Groups, file: RunFile, given: dict[str, Any]
) -> Groups:
    """Train what the groups that are named, or all, are short of; print how far each is.

    `given` are the arguments of the command line. Returns the groups that were asked for. Raises
    `InputError` for a name that is not there, and whatever training raises.
    """
    options = StudyOptions(**{item.name: given[item.name] for item in fields(StudyOptions)})
    check_options(options)
    for name in given["names"]:
        require(name in groups, f"{name}: not there; there are {'; '.join(groups)}")
    groups = {name: groups[name] for name in given["names"] or groups}
    if not options.finished_only:
        check_writable(file.path)
        load_mnist(options.data_dir)  # fetched once, and not by each worker
        conditions = [condition for group in groups.values() for condition in group]
        for kernel in {condition.kernel: None for condition in conditions}:
            if kernel in (None, blas()["blas_kernel"]):
                alike = [condition for condition in conditions if condition.kernel == kernel]
                train_alike(train, alike, file, options)
    rows = finished_in(file.rows())
    for name, group in groups.items():
        found = [row for condition in group for row in condition.all_finished(rows)]
        planned = sum(condition.seeds * len(condition.activations) for condition in group)
        failed = sum(row["status"] != "ok" for row in found)
        hours = sum(row["seconds"] or 0 for row in found) / 3600
        print(f"{name}: {len(found)} of {planned} runs, {failed} failed, {hours:.1f} core-hours")
    return groups


def train_alike(
    train: Callable[..., Row], conditions: Sequence[Condition], file: RunFile, options: StudyOptions
) -> None:
    """Train what conditions are short of for which runs of the same BLAS kernels count."""
    data_dir = options.data_dir and os.path.abspath(options.data_dir)
    planned: list[Planned] = []
    for condition in conditions:
        by_model = [condition.plan(model, data_dir).values() for model in condition.activations]
        by_seed = list(zip(*by_model, strict=True))[: options.n_seeds]
        planned += chain(*by_seed)
    there = finished_in(file.rows())(conditions[0].kernel).values()
    finish(train, planned, file, options.jobs, options.dask, finished=there)


def train_condition(
    config: Config,
    activation: Activation,
    seed: int,
    besides: dict[str, Any] | None,
    data_dir: str | None,
) -> Row:
    """Train one run in any process: what its row has beside its identity."""
    first = start(config, seed, besides["layer_scales"]) if besides else None
    run = train_model(config, activation, seed, load_mnist(data_dir), first)
    return {**run.record, "seconds": run.seconds}


# --- Conditions of a user's own -------------------------------------------------------------------


def own_families(file: Path) -> dict[str, Family]:
    """The `FAMILIES` of a user's file, made with `ask`; their activations must keep the contract.

    A file of activations is looked for from the folder of this one. Raises `InputError` with
    whatever is wrong in it.
    """
    given = getattr(load_module(str(file)), "FAMILIES", None)
    is_right = isinstance(given, dict) and all(isinstance(f, Family) for f in given.values())
    require(is_right, f"--file {file}: needs FAMILIES = {{NAME: ask(...)}}")
    families = {}
    for name, family in given.items():
        conditions = [beside(condition, file.resolve().parent) for condition in family.conditions]
        for condition in conditions:
            is_known = condition.besides.keys() <= {"layer_scales"}
            require(is_known, f"--file {file}: besides must be layer_scales alone")
            for model in condition.activations:
                check_models(condition.config(model), [activation_of(model)])
        families[name] = replace(family, conditions=tuple(conditions))
    return families


def beside(condition: Condition, folder: Path) -> Condition:
    """The same condition, whose FILE.py:FUNCTION lies in this folder if its path is not whole."""

    def found(model: str) -> str:
        return str(folder / Path(model).expanduser()) if ":" in model else model

    of_model = {found(model): changed for model, changed in condition.of_model.items()}
    return replace(
        condition, activations=tuple(map(found, condition.activations)), of_model=of_model
    )


def show(conditions: Sequence[Condition], file: RunFile) -> None:
    """Print what each model of a family forgets, and each pair's verdict, adjusted over all."""
    rows, shown = finished_in(file.rows()), []
    for condition in conditions:
        models = [activation_of(model).name for model in condition.activations]
        guessing = chance(condition.config(condition.activations[0]))
        totals = aggregate(condition.all_finished(rows), models, guessing, label)
        shown.append((condition.label, totals))
    pairs = [pair for _, totals in shown for pair in totals["pairs"]]
    adjust(pairs)
    for name, totals in shown:
        labels = {model: label(model) for model in totals["models"]}
        print(f"\n{name}")
        print_aggregate({**totals, "pairs": []}, labels)
        for pair in totals["pairs"]:
            if pair["difference"]["n"] > 1:
                pair["verdict"] = verdict(labels[pair["first"]], labels[pair["second"]], pair)
                print_pair(pair, labels, is_alone=len(pairs) == 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the families named, or all, are short of; the exit status."""
    description = "Answer the open questions, each over many paired seeds."
    parser = study_parser(description, "; ".join(FAMILIES))
    parser.add_argument("--file", type=Path, help="your own FAMILIES, a Python file")
    parser.add_argument("--out-dir", type=Path, help="folder of their runs, conditions.jsonl")
    given = vars(parser.parse_args(arguments))
    own, folder = given["file"], given["out_dir"]
    require(bool(own) == bool(folder), "--file and --out-dir go together")
    families = own_families(own) if own else FAMILIES
    file = RunFile(folder / "conditions.jsonl") if own else CONDITIONS
    groups = {name: family.conditions for name, family in families.items()}
    for conditions in train_missing(train_condition, groups, file, given).values():
        if own:
            show(conditions, file)
    return 0
