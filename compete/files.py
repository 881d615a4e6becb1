"""Errors of one line, and files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


class InputError(Exception):
    """Something the user gave cannot be used; the message says what is wrong and what to do."""


class Stopped(Exception):
    """Work could not go on; the message says why. Finished runs are in their file."""


def require(condition: bool, message: str) -> None:
    """Raise `InputError` with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


def one_line(error: BaseException) -> str:
    """An error's type and text, for a message of one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


# --- Files ----------------------------------------------------------------------------------------


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    import hashlib  # 5 ms, and a single run from the cache hashes nothing

    return hashlib.sha256(content).hexdigest()


def temporary_beside(path: Path) -> Path:
    """A name in the same folder that no other process has, on whatever machine it runs."""
    return path.with_name(f"{path.name[:100]}.{uuid.uuid4().hex}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then move into place: all or nothing.

    A link stays one, and a file keeps its permissions, so that a private one stays private.
    """
    path = Path(os.path.realpath(path))
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as file:
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_or_stop(path: Path, content: bytes) -> None:
    """`write_atomically` for what was computed; `Stopped` where the disk is full."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise Stopped(f"{path} cannot be written ({error.strerror})") from None


def check_writable(path: Path) -> None:
    """Raise `InputError` now, and not after training, if a file cannot be written."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a folder or a device; give a file name")
        if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
            raise InputError(f"{path}: is write-protected; choose another place")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = temporary_beside(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from None


def without_nan(value: Any) -> Any:
    """The same, ready for JSON: not-a-number is None, a tuple a list, numpy's scalars Python's."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def to_json(data: dict[str, Any]) -> bytes:
    """JSON with a line for each row of a table; not-a-number becomes null."""
    parts = []
    for key, value in without_nan(data).items():
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        else:
            text = json.dumps(value, indent=1).replace("\n", "\n ")
        parts.append(f" {json.dumps(key)}: {text}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


# --- Scripts --------------------------------------------------------------------------------------


def on_terminal() -> bool:
    """Whether standard error is there (a service may have none) and is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


class Output:
    """Standard output that may fail: the files are what counts, and are finished.

    Its reader may have gone (`| head -1`), which is no error, or its disk may be full.
    """

    def __init__(self, stream: Any) -> None:
        """Instead of a text stream."""
        self.stream = stream

    def write(self, text: str) -> int:
        """Write and flush, or from the first failure on drop what is written."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not isinstance(error, BrokenPipeError):
                print(f"standard output cannot be written ({error.strerror})", file=sys.stderr)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        """Anything else is the stream's."""
        return getattr(self.stream, name)


def folder_exists() -> bool:
    """Whether the working folder is still there."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


EXIT_STATUS = {
    InputError: 2,
    ModuleNotFoundError: 2,
    Stopped: 1,
    MemoryError: 1,
    KeyboardInterrupt: 130,
}


def run_script(script: Callable[[], int]) -> None:
    """Run a script's main function and exit with its status; what stops it is one line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names may have letters that a terminal does not know
            stream.reconfigure(errors="replace")
    if sys.stdout is not None:  # a service may have none
        sys.stdout = Output(sys.stdout)
    try:
        require(folder_exists(), "the working folder was deleted; change to another one")
        sys.exit(script())
    except tuple(EXIT_STATUS) as error:
        message = str(error) or "stopped"
        if isinstance(error, MemoryError):
            message = "not enough memory; try a smaller --hidden or fewer --jobs"
        if isinstance(error, ModuleNotFoundError):
            message = f"{error.name} is missing: python3 -m pip install -r requirements.txt"
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(next(s for kind, s in EXIT_STATUS.items() if isinstance(error, kind)))
