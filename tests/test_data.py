"""MNIST from every source, with each source made to fail."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from compete import data
from compete.data import InputError, load_mnist

TESTS = Path(__file__).resolve().parent
REAL_SHA256, from_package_index = data.MNIST_SHA256, data.from_package_index
FILES = TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (*REAL_SHA256,)
posix = pytest.mark.skipif(os.name == "nt", reason="signals, shell scripts and limits of POSIX")

# A small data set that stands in for MNIST: 30 + 10 images.
HEADERS = dict(zip(FILES, [(2051, 30, 28, 28), (2049, 30), (2051, 10, 28, 28), (2049, 10)]))
BODIES = [np.random.default_rng(0).integers(0, 256, head[1:], np.uint8) for head in HEADERS.values()]
SMALL = {
    file: np.array(head, ">u4").tobytes() + body.tobytes()
    for (file, head), body in zip(HEADERS.items(), BODIES, strict=True)
}


def no_index(files: list[str]) -> Any:
    raise ValueError("no index\nin this test")


def shrink(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Put the small data set in MNIST's place, and take the sources away."""
    patch(data, "IDX_HEADERS", HEADERS)
    patch(data, "MNIST_SHA256", {file: sha256(content) for file, content in SMALL.items()})
    patch(data, "MIRRORS", ())
    patch(data, "from_package_index", no_index)


def sha256(content: bytes) -> str:
    """By hashlib itself, so that an error in ours cannot hide."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty cache of the small data set, which nobody has made yet."""
    shrink(monkeypatch.setattr)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MNIST_DIR", raising=False)
    data._load.cache_clear()
    yield data.cache_directory()
    data._load.cache_clear()


def fill(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True)
    for file, content in SMALL.items():
        (folder / (file + suffix)).write_bytes(gzip.compress(content) if suffix else content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_loads(data_dir: str | None = None) -> None:
    for array, body in zip(vars(load_mnist(data_dir)).values(), BODIES, strict=True):
        assert np.array_equal(array, body.reshape(len(body), -1).squeeze())
        assert not array.flags.writeable


# --- Files and folders ----------------------------------------------------------------------------


def test_what_this_machine_has_is_mnist(mnist: data.Mnist) -> None:
    for (file, head), array in zip(data.IDX_HEADERS.items(), vars(mnist).values(), strict=True):
        assert sha256(np.array(head, ">u4").tobytes() + array.tobytes()) == REAL_SHA256[file]
        assert isinstance(array, np.memmap) or "MNIST_DIR" in os.environ  # which may hold .gz
    assert (mnist.train_images.shape, mnist.test_images.shape) == ((60000, 784), (10000, 784))
    assert data.data_id() == "c65580678af9"  # which every finished run holds


def test_a_named_folder_goes_first_in_every_layout(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "raw" / "MNIST" / "raw")
    fill(tmp_path / "compressed", ".gz")
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "raw"))
    assert_loads()
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert_loads(str(tmp_path / "compressed"))
    fill(cache)
    with pytest.raises(InputError, match="nowhere"):
        load_mnist()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_LABELS, b"", "empty"),
        (TRAIN_LABELS, SMALL[TRAIN_LABELS][:-1], "SHA-256 differs"),
        (TRAIN_LABELS, bytes(len(SMALL[TRAIN_LABELS])), "SHA-256 differs"),
        (f"{TRAIN_LABELS}.gz", gzip.compress(b"pi"), "SHA-256 differs"),
        (f"{TRAIN_LABELS}.gz", gzip.compress(SMALL[TRAIN_LABELS])[:-9], "truncated"),
        (f"{TRAIN_LABELS}.gz", b"<html>", "incorrect header"),
        ("another", b"", "No such file.*folder"),
    ],
)
def test_a_damaged_file_of_a_named_folder_is_one_clear_line_and_the_cache_is_not_used(
    name: str, content: bytes, message: str, tmp_path: Path, cache: Path
) -> None:
    fill(cache)
    fill(tmp_path / "data")
    (tmp_path / "data" / TRAIN_LABELS).unlink()
    (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^[^\n]*data.{TRAIN_LABELS}[^\n]*{message}[^\n]*$"):
        load_mnist(str(tmp_path / "data"))


# The empty name is what --data-dir "$UNSET" gives.
@pytest.mark.parametrize("name", ["nowhere", "file", "", "d" * 300, "~no-such-user/mnist", "\0"])
def test_a_data_dir_that_is_no_folder_is_an_error_and_not_the_cache(
    name: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        load_mnist(name)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="set XDG_CACHE_HOME"):
        data.cache_directory()


# --- The cache ------------------------------------------------------------------------------------


def run_python(code: str, cache: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(cache.parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_warm_run_writes_nothing_and_needs_no_network_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MNIST_DIR", raising=False)
    folder = tmp_path / "compete-to-compute" / "mnist"
    folder.mkdir(parents=True)
    for file, (_, *sizes) in data.IDX_HEADERS.items():
        (folder / file).touch()
        os.truncate(folder / file, 4 + 4 * len(sizes) + int(np.prod(sizes)))  # holes, no bytes
    folder.chmod(0o555)
    code = (
        "import sys; from compete.data import load_mnist; print(load_mnist().test_images.shape);"
        "print({'urllib.request', 'ssl', 'gzip', 'tqdm', 'hashlib'} & {*sys.modules})"
    )
    process = run_python(code, folder)
    assert process.communicate() == ("(10000, 784)\nset()\n", "")
    assert {path.name for path in folder.iterdir()} == {*FILES}


@pytest.mark.parametrize("content", [None, b"", SMALL[TEST_IMAGES][:-1], SMALL[TEST_IMAGES] * 2])
def test_a_file_of_the_cache_that_is_not_whole_is_fetched_anew_and_no_other(
    content: bytes | None, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)
    (cache / TEST_IMAGES).unlink()
    if content is not None:
        (cache / TEST_IMAGES).write_bytes(content)
    monkeypatch.setattr(data, "MIRRORS", [mirror.url("good")])
    assert_loads()
    assert mirror.requests == [f"/good/{TEST_IMAGES}.gz"]
    assert contents(cache) == SMALL


def a_folder_has_its_name(cache: Path) -> None:
    (cache / TRAIN_IMAGES / "x").mkdir(parents=True)


def a_file_is_in_the_way(cache: Path) -> None:
    cache.parents[1].mkdir()
    cache.parent.touch()


def the_disk_is_full(cache: Path) -> None:
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("spoil", [a_folder_has_its_name, a_file_is_in_the_way, the_disk_is_full])
def test_a_cache_that_cannot_be_written_is_one_line_and_nothing_is_left(
    spoil: Callable[[Path], None], cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "MIRRORS", [mirror.url("good")] * 2)
    ...


@pytest.mark.parametrize("another_run_was_first", [True, False])
def test_windows_refuses_to_replace_a_mapped_file_and_that_will_do(
    another_run_was_first: bool, cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        if another_run_was_first:
            Path(target).write_bytes(SMALL[Path(target).name])
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(data, "MIRRORS", [mirror.url("good")])
    ...
