"""The two tables of runs that the studies resume from and publish, and their command line.

A table is append-only: a first line `# {...}` with what every row depends on, then a row a run,
which is on disk as soon as the run ends. A row has

    changes          the fields of `Config` that differ from the defaults
    seed, model
    source           hash of the activation's code: an edited activation is trained anew
    intervention     what `Config` cannot say, or None
    status, failure  as in `per_seed` of results.json, like the next four
    target_reached, kernel, epochs, accuracy_matrix
    seconds          of training and evaluation, None where nobody took the time
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compete_to_compute import (
    METRICS,
    MNIST_SHA256,
    SCHEMA,
    InputError,
    OneLineParser,
    Stopped,
    check_writable,
    dask_client,
    flag,
    load_mnist,
    sequential_metrics,
    without_nan,
)

STUDY = Path(__file__).resolve().parent
RESULTS = STUDY / "results"
FIGURES = STUDY / "figures"
PAIR = ("relu", "lwta")
ALL_THREE = ("relu", "lwta", "sigmoid")
COLUMNS = (
    *("changes", "seed", "model", "source", "intervention", "status", "failure"),
    *("target_reached", "kernel", "epochs", "accuracy_matrix", "seconds"),
)
# What a row shares with a record, a row of `per_seed` in results.json.
RECORDED = ("seed", "model", "status", "failure", "target_reached", "epochs", "accuracy_matrix")
IDENTITY = "# " + json.dumps({"schema": SCHEMA, "mnist_sha256": MNIST_SHA256})
TEXT = ("model", "source", "status", "failure", "kernel")  # plain; the other cells are JSON


# --- Tables ---------------------------------------------------------------------------------------


class Table:
    """An append-only file of runs. A last row that a crash cut short does not count.

    Comma-separated text: names as they are, numbers, lists and objects as JSON, None empty.
    """

    head = (IDENTITY, ",".join(COLUMNS))  # the lines above the rows

    def __init__(self, path: Path) -> None:
        """The table in one file; nothing is read or written yet."""
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All rows, in the order in which they were added.

        Raises `InputError` if they are of another schema or MNIST, or one within is damaged.
        """
        lines, _ = self.split(self.path.read_bytes() if self.path.exists() else b"")
        self.check_head(lines)
        rows = []
        for number, line in enumerate(lines[len(self.head) :], start=1):
            try:
                rows.append(self.row(line))
            except (ValueError, csv.Error):
                raise InputError(f"{self.path}: row {number} is damaged; remove it") from None
        return rows

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; it is on disk when this returns. Raises `Stopped` where that fails."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                file.seek(0)
                lines, sound_size = self.split(file.read())
                self.check_head(lines)
                new = [self.line(without_nan(row))]
                if len(lines) < len(self.head):
                    sound_size, new = 0, [*self.head, *new]
                file.truncate(sound_size)
                file.write(b"".join(map(self.join, new)))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise Stopped(f"{self.path} cannot be written ({error.strerror})") from None

    def check_head(self, lines: Sequence[str]) -> None:
        """Raise `InputError` unless the first lines are ours, as far as they are there."""
        for expected, line in zip(self.head, lines, strict=False):
            if line != expected:
                raise InputError(
                    f"{self.path}: its runs are of another schema or MNIST than this code's "
                    f"({line[:60]}...); move it out of the way"
                )

    def split(self, content: bytes) -> tuple[list[str], int]:
        """The complete lines in a file's bytes, and how many of the bytes they take."""
        size = content.rfind(b"\n") + 1
        return content[:size].decode(errors="replace").split("\n")[:-1], size

    def join(self, line: str) -> bytes:
        """The bytes of one line."""
        return line.encode() + b"\n"

    def line(self, row: dict[str, Any]) -> str:
        """A row as a line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(
            row[name] if name in TEXT or row[name] is None else json.dumps(row[name])
            for name in COLUMNS
        )
        return text.getvalue()

    def row(self, line: str) -> dict[str, Any]:
        """A line as a row; `ValueError` if it is none."""
        (cells,) = csv.reader([line])
        return {
            name: None if cell == "" else cell if name in TEXT else json.loads(cell)
            for name, cell in zip(COLUMNS, cells, strict=True)
        }


class GzipTable(Table):
    """The same with lines of JSON, each a gzip member of its own; `zcat` shows them all."""

    head = (IDENTITY,)

    def split(self, content: bytes) -> tuple[list[str], int]:
        lines, size, rest = [], 0, io.BytesIO(content)
        while size < len(content):
            text, member = b"", zlib.decompressobj(wbits=31)
            try:
                while not member.eof and (part := rest.read(1 << 16)):
                    text += member.decompress(part)
            except zlib.error as error:
                raise InputError(f"{self.path}: damaged after row {len(lines)} ({error})") from None
            if not member.eof:
                break
            lines.append(text.decode().rstrip("\n"))
            size = rest.seek(rest.tell() - len(member.unused_data))
        return lines, size

    def join(self, line: str) -> bytes:
        return gzip.compress(line.encode() + b"\n", mtime=0)

    def line(self, row: dict[str, Any]) -> str:
        return json.dumps(row)

    def row(self, line: str) -> dict[str, Any]:
        return json.loads(line)


CONDITIONS = Table(RESULTS / "conditions.csv")
MECHANISM = GzipTable(RESULTS / "mechanism.jsonl.gz")


# --- Rows -----------------------------------------------------------------------------------------


def make_row(
    identity: dict[str, Any], record: dict[str, Any], seconds: float | None
) -> dict[str, Any]:
    """The row of a run, from its condition's `identity` and its record, a row of `per_seed`."""
    own = {name: record[name] for name in RECORDED}
    return {**identity, **own, "kernel": record["blas_kernel"], "seconds": seconds}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """All that a run's result depends on; its last part is the BLAS kernel."""
    written = [json.dumps(row[name], sort_keys=True) for name in ("changes", "intervention")]
    return (*written, row["seed"], row["model"], row["source"], row["kernel"])


def record_from(row: dict[str, Any]) -> dict[str, Any]:
    """The record that `make_row` was given: a row of `per_seed`, its metrics recomputed."""
    matrix = row["accuracy_matrix"]
    metrics: dict[str, float | None] = dict.fromkeys(METRICS)
    if row["status"] != "diverged":
        metrics["average_accuracy"] = float(np.mean(matrix[-1]))
        metrics.update(sequential_metrics(np.array(matrix)))
    recorded = {name: row[name] for name in RECORDED}
    return {**recorded, **metrics, "blas_kernel": row["kernel"]}


# --- Command line ---------------------------------------------------------------------------------


def study_parser(description: str, names: Iterable[str]) -> OneLineParser:
    """What the studies have in common on their command lines; `names` can be asked for."""
    parser = OneLineParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(names))
    parser.add_argument(
        "--n-seeds", type=int, help="train at most so many seeds (default: as planned)"
    )
    parser.add_argument("--jobs", type=int, help="runs side by side (default: the cores)")
    parser.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler (default: none)")
    parser.add_argument(
        "--data-dir", help="the four MNIST files (default: $MNIST_DIR, else the cache)"
    )
    parser.add_argument(
        "--finished-only", action="store_true", help="train nothing: show what is there"
    )
    return parser


def check_study(options: argparse.Namespace, names: Sequence[str], table: Table) -> Any:
    """What must hold before a study begins; the Dask client, or None.

    Raises `InputError` for unknown names, counts that make no study, and files that cannot be
    read or written. Fetches MNIST if anything is to be trained.
    """
    for name in options.names:
        if name not in names:
            raise InputError(f"{name}: not there; there are {'; '.join(names)}")
    for name in ("n_seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"{flag(name)} must be 1 or more, not {value}")
    if options.finished_only:
        return None
    check_writable(table.path)
    load_mnist(options.data_dir)
    return dask_client(options.dask) if options.dask else None
