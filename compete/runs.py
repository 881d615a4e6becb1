"""Runs: what is finished is kept in a file; what is missing is trained, here or on a cluster."""

from __future__ import annotations

import copyreg
import errno
import functools
import json
import os
import platform
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from compete.files import InputError, Stopped, on_terminal, one_line, require, without_nan

SCHEDULER_SECONDS = 5  # to answer

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
    wanted = {key(run.identity): run for run in planned}
    missing = {k: run for k, run in wanted.items() if run.has_snapshot or k not in rows}
    if finished and not quiet:
        print(f"{len(rows.keys() & wanted)} of {len(wanted)} runs are finished", file=sys.stderr)
    arguments = [(train, run.identity, run.arguments) for run in missing.values()]
    client = dask_client(dask) if dask is not None and missing else None
    trained = 0
    try:
        results = side_by_side(train_run, arguments, jobs, client)
        for row in with_progress(results, len(missing), quiet):
            if file:
                file.append(row)
            rows[key(row)] = row
            trained += 1
    except (KeyboardInterrupt, Stopped) as error:
        kept = f"{file.path} has them, go on with --resume" if file else "nothing is written"
        raise type(error)(
            f"{str(error) or 'stopped'}. {trained} of {len(missing)} runs finished; {kept}"
        ) from None
    finally:
        if client:
            client.close()
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


def side_by_side(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    jobs: int,
    client: Any = None,
) -> Iterator[Any]:
    """What `function` returns for each tuple of arguments, as they finish.

    `jobs` at a time here, or on the cluster of a Dask client. Threads serve up to a pair of runs,
    which starting processes would delay more than it helps; processes more, since threads share
    Python's lock. Raises `Stopped` if a worker process died or the cluster failed.
    """
    if client is not None:
        return on_cluster(function, arguments, client)
    if jobs == 1 or len(arguments) <= 1:
        return starmap(function, arguments)
    if len(arguments) == 2:
        return in_threads(function, arguments)
    return in_processes(function, arguments, min(jobs, len(arguments)))


def in_threads(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """A thread each. They are daemons, for which Python does not wait when it is interrupted."""
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work(values: tuple[Any, ...]) -> None:
        try:
            results.put((function(*values), None))
        except BaseException as error:
            results.put((None, error))

    for values in arguments:
        threading.Thread(target=work, args=(values,), daemon=True).start()
    for _ in arguments:
        result, error = results.get()
        if error:
            raise error
        yield result


def in_processes(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Any]:
    """Worker processes, to which functions travel by value: closures and notebooks' cells too."""
    import pickle
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    executor = start_workers(jobs)
    if executor is None:
        yield from starmap(function, arguments)
        return
    try:
        futures = [executor.submit(function, *values) for values in arguments]
        for future in as_completed(futures):
            yield future.result()
    except pickle.PicklingError as error:
        reason = one_line(error.__cause__ or error)
        raise InputError(
            f"a run cannot travel to worker processes ({reason}); give one job"
        ) from None
    except BrokenProcessPool:
        raise Stopped("a worker process died (out of memory? try fewer --jobs)") from None
    finally:
        executor.shutdown(kill_workers=True)  # Ctrl-C ends at once, runs under way are dropped


def start_workers(jobs: int) -> Any:
    """So many worker processes, one of which answered; None, and a line, where none can start."""
    executor = None
    try:
        from loky import ProcessPoolExecutor

        executor = ProcessPoolExecutor(jobs, initializer=follow_parent, initargs=(os.getpid(),))
        copyreg.pickle(type(blas), reduce_cached)
        executor.submit(os.getpid).result()
    except Exception as error:  # no semaphores, no memory, no more processes or files: many kinds
        print(f"worker processes cannot start ({one_line(error)}); one job trains", file=sys.stderr)
        if executor is not None:
            executor.shutdown(kill_workers=True)
        return None
    return executor


def follow_parent(parent: int) -> None:
    """In each worker: end with the main process, however it ends, and leave Ctrl-C to it.

    Windows tells no process that its parent has ended: there a worker ends after the run under way,
    when it finds nobody to give it to.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    if sys.platform != "win32":
        threading.Thread(target=watch, daemon=True).start()


def reduce_cached(function: Any) -> tuple[Any, ...]:
    """How a `functools.cache`d function that travels by value is pickled: with an empty cache."""
    return functools.lru_cache(**function.cache_parameters()), (function.__wrapped__,)


# --- Clusters -------------------------------------------------------------------------------------

OURS = ("compete", "compete_to_compute", "study")  # workers of a cluster have none of these


def on_cluster(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], client: Any
) -> Iterator[Any]:
    """The workers of a Dask cluster, to which our modules travel by value; see `side_by_side`."""
    from concurrent.futures import as_completed

    import cloudpickle

    modules = [sys.modules[name] for name in OURS if name in sys.modules]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    copyreg.pickle(type(blas), reduce_cached)
    executor = client.get_executor(pure=False, retries=3)  # a lost run goes to another worker
    try:
        # What is pickled here is a lambda, since Dask looks for others in the workers' modules.
        futures = [executor.submit(lambda *own: function(*own), *values) for values in arguments]
        for future in as_completed(futures):
            yield future.result()
    except (InputError, Stopped):
        raise
    except Exception as error:
        raise Stopped(f"the cluster failed ({one_line(error)})") from None
    finally:
        executor.shutdown(wait=False)
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def dask_client(address: str) -> Any:
    """A client of the Dask cluster whose scheduler is at `address`.

    Raises `InputError` where no scheduler answers, no worker is there, or a worker would compute
    something else, having another version of Python or numpy.
    """
    try:
        import distributed
    except ImportError:
        raise InputError(
            "--dask needs: python3 -m pip install -r requirements-cluster.txt"
        ) from None
    import asyncio
    import logging

    async def knock() -> None:
        """Ask who is there; a client would wait for minutes for a port that is no scheduler."""
        async with distributed.rpc(address) as scheduler:
            await scheduler.identity()

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the one line is ours
    try:
        asyncio.run(asyncio.wait_for(knock(), SCHEDULER_SECONDS))
        client = distributed.Client(address, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError, asyncio.TimeoutError):
        raise InputError(
            f"--dask {address!r}: no scheduler answers there; start one: dask scheduler"
        ) from None
    versions = client.get_versions()
    workers = versions["workers"]
    require(bool(workers), f"--dask {address}: no worker there; start one: dask worker {address}")
    for worker, there in workers.items():
        for name in ("python", "numpy"):
            here, other = versions["client"]["packages"][name], there["packages"][name]
            require(
                here == other,
                f"worker {worker} has {name} {other}, not {here} as here; give it the same and "
                "start it again",
            )
    return client


# --- Software and machine -------------------------------------------------------------------------


@functools.cache
def blas() -> dict[str, Any]:
    """Give numpy's BLAS one thread, and tell its name, kernel and threads.

    More threads would change the last bits, and models side by side with one each are quicker. The
    kernel decides the last bits too.
    """
    import threadpoolctl

    controller = threadpoolctl.ThreadpoolController()
    controller.limit(limits=1, user_api="blas")
    pool = next((p for p in controller.info() if p["user_api"] == "blas"), {})
    return {
        "blas": f"{pool.get('internal_api', 'unknown')} {pool.get('version')}",
        "blas_kernel": pool.get("architecture"),
        "blas_threads": pool.get("num_threads"),
    }


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(script: Path) -> dict[str, Any]:
    """Software and machine that figures come from, and the commit of the script's repository."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        **blas(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "git_commit": git_commit(script),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(script: Path) -> str | None:
    """The commit of the repository whose top folder has the script, "-dirty" if one was changed.

    None for a script that is installed, or copied into a repository of something else.
    """
    import subprocess

    folder = script.resolve().parent
    # A hook or a worktree's shell may name another repository by such variables.
    variables = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}

    def git(*arguments: str) -> list[str]:
        command = ["git", "-C", str(folder), *arguments]
        answer = subprocess.check_output(
            command, stderr=subprocess.DEVNULL, timeout=5, env=variables, text=True
        )
        return answer.splitlines()

    try:
        top, commit = git("rev-parse", "--show-toplevel", "--short=12", "HEAD")
        if Path(top).resolve() != folder or not git("ls-files", script.name):
            return None
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return commit + ("-dirty" if changed else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
