"""Runs: what is finished is kept in a file, what is missing is trained; see `finish`."""

from __future__ import annotations

import errno
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compete.files import Stopped, on_terminal, without_nan
from compete.machine import blas
from compete.workers import side_by_side

# A run is a row from its training to the page: the fields that its result depends on, what training
# gave, and the software that trained it. `snapshot`, of the rows that have one, holds arrays.
Row = dict[str, Any]
IDENTITY = ("schema", "data", "changes", "besides", "model", "source", "seed")


def key(row: Row) -> str:
    """All that a run's result depends on; where the file of a user's own model lies does not."""
    own_name = row["model"].rpartition("/")[2]
    return json.dumps([{**row, "model": own_name}[name] for name in IDENTITY], sort_keys=True)


@dataclass(frozen=True)
class Planned:
    """A run that is wanted: its identity, and the arguments that train it.

    What has a snapshot is trained even if its row is in a file, which holds no arrays.
    """

    identity: Row
    arguments: tuple[Any, ...]
    has_snapshot: bool = False


# --- The file of finished runs --------------------------------------------------------------------


class RunFile:
    """Finished runs, a row a line of JSON, each on disk as soon as it is finished.

    A line begins with a checksum of the rest, so that one which was cut short or damaged is
    nobody's. Of several rows of one identity the first counts. Several processes may append to one
    file on any file system: each line is one write, and a line that was torn is trained again.
    """

    def __init__(self, path: Path) -> None:
        """The file at `path`; nothing is read or written yet."""
        self.path = path

    def rows(self) -> list[Row]:
        """Every whole row, in the order in which they were added."""
        rows = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else []:
            with suppress(ValueError):
                if line == with_checksum(b"{" + line[len(with_checksum(b"{")) :]):
                    rows.append(json.loads(line))
                    del rows[-1]["check"]
        return rows

    def append(self, row: Row) -> None:
        """Add a row, without its snapshot; on disk when this returns. `Stopped` if it cannot be."""
        kept = {name: value for name, value in row.items() if name != "snapshot"}
        text = json.dumps(without_nan(kept), separators=(",", ":"))
        line = with_checksum(text.encode()) + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a line was cut short; it stays alone
                        line = b"\n" + line
                if file.write(line) != len(line):  # what the last free bytes of a disk took
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
        except OSError as error:
            raise Stopped(f"{self.path} cannot be written ({error.strerror})") from None


def with_checksum(text: bytes) -> bytes:
    """A JSON object with the CRC-32 of its text as the first member, "check"."""
    return b'{"check":"%08x",' % zlib.crc32(text) + text[1:]


def first_of_each(rows: Iterable[Row]) -> dict[str, Row]:
    """The first row of each identity, by its key."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(key(row), row)
    return found


# --- Training what is missing ---------------------------------------------------------------------


def finish(
    train: Callable[..., Row],
    planned: Sequence[Planned],
    file: RunFile | None = None,
    jobs: int = 1,
    dask: str | None = None,
    *,
    finished: Iterable[Row] = (),
    quiet: bool = False,
) -> list[Row]:
    """The rows of all planned runs, in the order of the plan; those not `finished` are trained.

    `train(*arguments)` gives what a run's row has beside its identity and its software; a trained
    row goes into `file` at once. Up to `jobs` runs are trained side by side, or as many as the
    cluster at the address `dask` has workers. Raises `Stopped` and `KeyboardInterrupt` with what
    was finished until then, and whatever training raises.
    """
    rows = first_of_each(finished)
    kept = {*rows}
    wanted = {key(run.identity): run for run in planned}
    missing = [run for k, run in wanted.items() if run.has_snapshot or k not in kept]
    if finished and not quiet:
        print(f"{len(kept & {*wanted})} of {len(wanted)} runs are finished", file=sys.stderr)
    arguments = [(train, run.identity, run.arguments) for run in missing]
    trained = 0
    try:
        # Closed whatever comes, since workers would go on, and Python wait for them as it exits.
        with closing(side_by_side(train_run, arguments, jobs, dask)) as results:
            for row in with_progress(results, len(missing), quiet):
                if row["numpy"] != np.__version__:  # a cluster was checked before it joined
                    raise Stopped(f"a worker joined with numpy {row['numpy']}, not as here")
                if file and key(row) not in kept:
                    file.append(row)
                rows[key(row)] = row
                trained += 1
    except (KeyboardInterrupt, Stopped) as error:
        advice = f"{file.path} has them, go on with --resume" if file else "nothing is written"
        raise type(error)(
            f"{str(error) or 'stopped'}. {trained} of {len(missing)} runs finished; {advice}"
        ) from None
    return [{**rows[key(run.identity)], **run.identity} for run in planned]


def train_run(train: Callable[..., Row], identity: Row, arguments: tuple[Any, ...]) -> Row:
    """The row of one run, in whatever process it is trained."""
    software = {"blas_kernel": blas()["blas_kernel"], "numpy": np.__version__}
    return {**identity, **train(*arguments), **software}


def with_progress(results: Iterator[Any], total: int, quiet: bool = False) -> Iterable[Any]:
    """The same results, with a bar where a person is watching."""
    if quiet or total <= 2 or not on_terminal():
        return results
    from tqdm import tqdm

    return tqdm(results, total=total, unit="run", dynamic_ncols=True)
