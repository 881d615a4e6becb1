"""A user's own Python file as a module: loaded under its own name, known by its source."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from compete.files import InputError, one_line, sha256

loaded: set[str] = set()  # modules of the file that was loaded last, by name


def load_module(file: str) -> ModuleType:
    """Load a Python file as a module, once unless it or what it imports from its folder changes.

    These modules travel by value to worker processes. Raises `InputError` for whatever the file
    raises.
    """
    path = Path(file).expanduser().resolve()
    try:
        return load(path, file_hash(file))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"{file}: {one_line(error)}") from None


@functools.cache
def load(path: Path, source: str) -> ModuleType:
    """Load the file at `path` afresh; `source`, its hash, is what the result depends on."""
    import cloudpickle

    while loaded:  # helpers of two files may have one name
        sys.modules.pop(loaded.pop(), None)
    before = {*sys.modules}
    name = path.stem
    found = PathFinder.find_spec(name) if name.isidentifier() else None
    if name in before | sys.stdlib_module_names or (found and found.origin != str(path)):
        name += f"_{sha256(bytes(path))[:8]}"  # a library's keeps its own
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)
    # Its folder comes first while it is loaded, as a script's does, then last: it hides no library.
    sys.path.insert(0, str(path.parent))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        # Never from bytecode, which takes an edit within the same second for the old file.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(path.parent))
        files = {str(own) for own in own_sources(path)}
        for new in sys.modules.keys() - before:
            if vars(sys.modules[new]).get("__file__") in files:
                cloudpickle.register_pickle_by_value(sys.modules[new])
                loaded.add(new)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return module


def own_sources(path: Path) -> list[Path]:
    """A file, and the files of its own folder that it imports, directly or through others."""
    sources = [path]
    for source in sources:  # grows meanwhile
        for node in ast.walk(ast.parse(source.read_bytes(), source)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                module = path.parent / name.partition(".")[0]
                for found in (module.with_suffix(".py"), *sorted(module.glob("**/*.py"))):
                    if found.is_file() and found not in sources:
                        sources.append(found)
    return sources


def file_hash(file: str) -> str:
    """`source_hash` of a file with what it imports from its own folder."""
    paths = own_sources(Path(file).expanduser().resolve())
    return source_hash(path.read_bytes() for path in paths)


def function_hash(function: Callable[..., Any]) -> str | None:
    """`source_hash` of a function alone; None where it has no source, as in an interpreter."""
    return code_hash(function.__code__) if hasattr(function, "__code__") else None


@functools.cache
def code_hash(code: CodeType) -> str | None:
    """Hash a function's source once, which takes as long as planning all the rest of a run."""
    try:
        return source_hash([textwrap.dedent(inspect.getsource(code)).encode()])
    except (OSError, SyntaxError):  # lines cut out of a longer expression may be no code
        return None


def source_hash(sources: Iterable[bytes]) -> str:
    """Twelve hexadecimal digits of some code; docstrings, comments and layout do not count."""
    texts = []
    for source in sources:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            is_block = isinstance(node, ast.Module | ast.FunctionDef)
            if is_block and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        texts.append(ast.unparse(tree))
    return sha256("\n".join(texts).encode())[:12]
