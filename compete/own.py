"""A user's own Python file as a module: loaded under its own name, known by its source."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from compete.files import InputError, one_line, sha256


def load_module(file: str) -> ModuleType:
    """The module of a Python file, which is run once; its folder becomes importable.

    It travels by value to worker processes, with what it imports from its own folder. Raises
    `InputError` for whatever the file raises.
    """
    path = Path(file).expanduser().resolve()
    for name, module in sys.modules.items():
        if name != "__main__" and getattr(module, "__file__", None) == str(path):
            return module
    name = path.stem
    if name in sys.modules:  # that of another file, or a library's
        name = f"{name}_{sha256(bytes(path))[:8]}"
    spec = spec_from_file_location(name, path)
    module = sys.modules[name] = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(1, str(path.parent))
    try:
        # Not by the spec's loader: it takes bytecode of an edit within the same second for new.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        travel_by_value({str(source) for source in own_sources(path)})
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, OSError):
            raise InputError(f"{file}: cannot be read ({error.strerror})") from None
        if isinstance(error, Exception | SystemExit):
            raise InputError(f"{file}: {one_line(error)}") from None
        raise
    return module


def travel_by_value(files: set[str]) -> None:
    """Have the loaded modules of these files sent to workers whole, and not by their names."""
    import cloudpickle

    for module in [*sys.modules.values()]:
        if getattr(module, "__file__", None) in files:
            cloudpickle.register_pickle_by_value(module)


def own_sources(path: Path) -> list[Path]:
    """A file, and the files of its own folder that it imports, directly or through others."""
    sources = [path]
    for source in sources:  # grows meanwhile
        for node in ast.walk(ast.parse(source.read_bytes())):
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
    try:
        return source_hash([textwrap.dedent(inspect.getsource(function)).encode()])
    except (OSError, TypeError):
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
