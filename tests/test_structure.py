"""Which of our modules imports which, and how long files and functions are, from the source."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("", "study")
    for path in sorted((ROOT / folder).glob("*.py"))
}
MODULES = {
    ".".join(path.with_suffix("").parts).removesuffix(".__init__"): tree
    for path, tree in TREES.items()
}


def imports(module: str) -> set[str]:
    """The other modules of ours that one imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import, which this test cannot follow"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    # With --dask the experiment imports itself, as a module that workers can import too.
    return names & {*MODULES} - {module}


GRAPH = {module: imports(module) for module in MODULES}


def test_imports_run_one_way() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError
    assert GRAPH["fetch_mnist"] == set()
    assert GRAPH["compete_to_compute"] == {"fetch_mnist"}
    assert "compete_to_compute" in GRAPH["visualize_compete_to_compute"] & GRAPH["study.conditions"]
    root = {module: GRAPH[module] for module in GRAPH if module.split(".")[0] != "study"}
    assert {name for name in root if root[name] & {*GRAPH} - {*root}} == set()


def test_no_file_and_no_function_is_too_long() -> None:
    long = {}
    for path, tree in TREES.items():
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if lines > 650 and path.name != "compete_to_compute.py":
            long[str(path)] = lines
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60:
                long[f"{path}: {node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}
