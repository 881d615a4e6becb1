"""Calls of one function side by side: in threads, in worker processes, on a Dask cluster."""

from __future__ import annotations

import functools
import operator
import os
import pickle
import queue
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, starmap
from typing import Any

from compete.files import InputError, Stopped, one_line, require

SCHEDULER_SECONDS = 5  # to answer
OURS = ("compete", "compete_to_compute", "study")  # modules that workers of a cluster lack


def side_by_side(
    function: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    jobs: int,
    dask: str | None = None,
) -> Iterator[Any]:
    """What `function` returns for each tuple of arguments, as they finish.

    `jobs` at a time here, or on the cluster of the Dask scheduler at this address. Threads serve a
    pair of runs, which starting processes would delay more than it helps; processes more, since
    threads share Python's lock. Raises `Stopped` if a worker process died or the cluster failed.
    """
    if dask is not None and arguments:
        yield from on_cluster(function, arguments, dask)
    elif jobs == 1 or len(arguments) <= 1:
        yield from starmap(function, arguments)
    elif len(arguments) == 2:
        yield from in_threads(function, arguments)
    else:
        yield from in_processes(function, arguments, min(jobs, len(arguments)))


def in_threads(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """A thread each."""
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work(values: tuple[Any, ...]) -> None:
        try:
            results.put((function(*values), None))
        except BaseException as error:
            results.put((None, error))

    for values in arguments:
        # A daemon, for which Python does not wait when it is interrupted.
        thread = threading.Thread(target=work, args=(values,), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are allowed
            work(values)
    for _ in arguments:
        result, error = results.get()
        if error:
            raise error
        yield result


# --- Worker processes and clusters ----------------------------------------------------------------


def pickled(value: Any, modules: Iterable[str] = ()) -> bytes:
    """Pickle by value what another process cannot import, and all that is in these modules.

    That is what is defined in a script, a notebook's cell, a function or a user's own file. Raises
    `InputError` for what cannot be pickled.
    """
    import io

    import cloudpickle

    cached = type(functools.cache(len))

    class Pickler(cloudpickle.Pickler):
        def reducer_override(self, obj: Any) -> Any:
            """Let cached functions go by value where others do, each with an empty cache."""
            if not isinstance(obj, cached) or is_importable(obj):
                return super().reducer_override(obj)
            return functools.lru_cache(**obj.cache_parameters()), (obj.__wrapped__,)

    def is_importable(function: Any) -> bool:
        with suppress(AttributeError):
            module = sys.modules.get(function.__module__)
            is_there = operator.attrgetter(function.__qualname__)(module) is function
            parts = function.__module__.split(".")
            return is_there and by_value.isdisjoint(accumulate(parts, "{}.{}".format))
        return False

    ours = [sys.modules[name] for name in modules if name in sys.modules]
    for module in ours:
        cloudpickle.register_pickle_by_value(module)
    by_value = {"__main__", *cloudpickle.list_registry_pickle_by_value()}
    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump(value)
    except Exception as error:  # of many kinds; an own class may raise any
        reason = one_line(error)
        raise InputError(
            f"this cannot travel to other processes ({reason}); give one job"
        ) from None
    finally:
        for module in ours:
            cloudpickle.unregister_pickle_by_value(module)
    return buffer.getvalue()


def in_processes(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[Any]:
    """Worker processes, to which functions travel by value: closures and notebooks' cells too."""
    from concurrent.futures.process import BrokenProcessPool

    # Small enough to wait in a pipe while its reader starts: then all workers start at once.
    content = zlib.compress(pickled((function, arguments)))
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with interrupts_deferred() as get, worker_processes(jobs, content, get) as executor:
        if executor:
            try:
                for number in range(len(arguments)):
                    executor.submit(call, number).add_done_callback(results.put)
                for _ in arguments:
                    yield get(results).result()
                return
            except BrokenProcessPool:
                raise Stopped("a worker process died (out of memory? try fewer --jobs)") from None
    yield from starmap(function, arguments)


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[queue.SimpleQueue[Any]], Any]]:
    """Give a function that waits for what comes to a queue; it alone heeds Ctrl-C meanwhile.

    Anywhere else that would leave behind locks, half-started workers, a pool that trains on.
    """
    pressed = threading.Event()

    def get(results: queue.SimpleQueue[Any]) -> Any:
        while not pressed.is_set():
            with suppress(queue.Empty):
                return results.get(timeout=0.1)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # no other has Ctrl-C
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield get
        return
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield get
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def worker_processes(
    jobs: int, content: bytes, get: Callable[[queue.SimpleQueue[Any]], Any]
) -> Iterator[Any]:
    """So many worker processes, one of which answered; None, and a line, where none can start.

    Each has `content`, see `call`. They end with the context, whatever they are doing.
    """
    import logging
    import multiprocessing
    import warnings

    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threads, children = {*threading.enumerate()}, {*multiprocessing.active_children()}
    executor = answered = None
    try:
        try:
            from loky import ProcessPoolExecutor, process_executor

            process_executor.kill_process_tree = end_worker
            warnings.filterwarnings("ignore", module="loky")  # the one line is ours
            logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL + 1)
            given = (os.getpid(), content)
            executor = ProcessPoolExecutor(jobs, initializer=start_worker, initargs=given)
            with no_interrupts_in_what_starts():
                executor.submit(os.getpid).add_done_callback(answers.put)
            get(answers).result()
            answered = executor
        except Exception as error:  # no semaphores, memory, processes, files: many kinds
            reason = one_line(error)
            print(f"worker processes cannot start ({reason}); one job trains", file=sys.stderr)
            for child in {*multiprocessing.active_children()} - children:
                child.terminate()
        yield answered
    finally:
        if executor:
            with suppress(RuntimeError):  # where its own thread could not start
                executor.shutdown(kill_workers=True)
        for thread in {*threading.enumerate()} - threads:
            thread.join(1)  # one that holds a semaphore as Python exits leaves it behind


def end_worker(process: Any) -> None:
    """End a worker process in place of loky's function, which needs psutil or pgrep for it."""
    process.terminate()
    process.join()


@contextmanager
def no_interrupts_in_what_starts() -> Iterator[None]:
    """Start processes that leave Ctrl-C to the main one, from their first moment."""
    from multiprocessing import resource_tracker

    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # in Python 3.11 its start ends with letting the signal in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(parent: int, content: bytes) -> None:
    """Begin in a worker process: leave Ctrl-C to the main one, and end with it, however it ends."""
    import multiprocessing

    global calls
    calls = content
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if sys.platform == "win32":
            multiprocessing.parent_process().join()  # loky tells it on Windows alone
        else:
            while os.getppid() == parent:
                time.sleep(0.2)
        os._exit(1)

    with suppress(RuntimeError):  # no more threads are allowed
        threading.Thread(target=watch, daemon=True).start()


calls = b""  # in a worker process


@functools.cache
def unpacked() -> Any:
    """The function and its arguments, in a worker process."""
    return pickle.loads(zlib.decompress(calls))


def call(number: int) -> Any:
    """Make the call of this number, in a worker process."""
    function, arguments = unpacked()
    return function(*arguments[number])


def on_cluster(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], address: str
) -> Iterator[Any]:
    """The workers of a Dask cluster, to which our modules travel by value.

    All calls travel once to each worker, as bytes.
    """
    client = dask_client(address)
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def call(content: bytes, number: int) -> Any:
        """Make the call of this number; workers know no module of ours."""
        function, arguments = pickle.loads(content)
        return function(*arguments[number])

    try:
        # A task, and no scattered data: it is done again where the worker that has it is lost.
        content = client.submit(bytes, pickled((function, arguments), OURS), pure=False)
        numbers = range(len(arguments))
        with interrupts_deferred() as get:
            futures = client.map(call, [content] * len(numbers), numbers, pure=False)
            for future in futures:
                future.add_done_callback(results.put)
            for _ in futures:
                yield get(results).result()
    except (InputError, Stopped):
        raise
    except Exception as error:
        raise Stopped(f"the cluster failed ({one_line(error)})") from None
    finally:
        client.close()


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
    import warnings

    async def knock() -> None:
        """Ask who is there; a client would wait for minutes for a port that is no scheduler."""
        secrets = distributed.Security().get_connection_args("client")  # as configured, for tls://
        async with distributed.rpc(address, connection_args=secrets) as scheduler:
            await scheduler.identity()

    warnings.filterwarnings("ignore", module="distributed")  # the one line is ours
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
