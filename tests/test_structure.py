"""Which module imports which, what requirements name, and how long files and functions are."""

from __future__ import annotations

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TREES = {
    path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("", "compete", "study", "tests")
    for path in sorted((ROOT / folder).glob("*.py"))
}
MODULES = {
    ".".join(path.with_suffix("").parts).removesuffix(".__init__"): tree
    for path, tree in TREES.items()
}
# A module imports those of lower numbers, and the study also itself.
LAYERS = {
    **{"compete.files": 0, "compete": 1, "compete.report": 2, "compete.runs": 2},
    "compete_to_compute": 3,
    **{"visualize_compete_to_compute": 4, "make_compete_to_compute_gif": 5, "study": 5, "tests": 6},
}
LINES = {
    **{"compete_to_compute.py": 1300, "visualize_compete_to_compute.py": 520},
    **{"make_compete_to_compute_gif.py": 95, "compete": 1520, "study": 3700, "tests": 3120},
}
PACKAGES = {"PIL": "pillow", "dask": "distributed"}  # where a module's name is another
OPTIONAL = {"distributed", "markdown"}


def imported(module: str) -> set[str]:
    """The names of all that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import, which this test cannot follow"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


GRAPH = {module: imported(module) & {*MODULES} - {module} for module in MODULES}


def packages(module: str) -> set[str]:
    """What a module imports that neither we nor Python bring, as requirements call it."""
    roots = {name.partition(".")[0] for name in imported(module)} - sys.stdlib_module_names
    ours = {name.partition(".")[0] for name in MODULES} | {path.stem for path in TREES}
    return {PACKAGES.get(name, name) for name in roots - ours}


def listed(text: str) -> dict[str, str]:
    """Requirements by the names of their packages."""
    return {re.split("[<>=~! ]", line)[0]: line for line in text.split("\n") if line[:1].isalpha()}


def test_imports_run_one_way() -> None:
    TopologicalSorter(GRAPH).prepare()  # raises CycleError

    def layer(module: str) -> int:
        return LAYERS.get(module, LAYERS[module.partition(".")[0]])

    for module, others in GRAPH.items():
        for other in others:
            is_within = {module[:5], other[:5]} in ({"study"}, {"tests"})
            assert is_within or layer(module) > layer(other), f"{module} imports {other}"


def test_every_import_stands_in_a_requirements_file_and_in_a_scripts_own_block() -> None:
    files = {path.name: listed(path.read_text()) for path in ROOT.glob("requirements*.txt")}
    required = {name: line for file in files.values() for name, line in file.items()}
    needed = {module: packages(module) for module in MODULES}
    assert {m: missing for m, names in needed.items() if (missing := names - {*required})} == {}
    for script in [path for path in TREES if path.parent == Path()]:
        reached = [script.stem]
        for module in reached:
            reached += sorted(GRAPH[module] - {*reached})
        needs = set().union(*(needed[module] for module in reached)) - OPTIONAL
        assert needs <= {*files["requirements.txt"]}
        # PEP 723, by which uv runs it; with the same versions.
        source = (ROOT / script).read_text(encoding="utf-8")
        (block,) = re.findall(r"^# /// script\n(.*?)^# ///$", source, re.MULTILINE | re.DOTALL)
        given = listed("\n".join(re.findall('"([^"]*)"', block)))
        assert given.items() <= required.items()
        assert (script, {*given} - OPTIONAL) == (script, needs)


def test_no_file_and_no_function_is_too_long() -> None:
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in TREES}
    places = {place: sum(lines[p] for p in lines if p.parts[0] == place) for place in LINES}
    assert {place: n for place, n in places.items() if n > 1.05 * LINES[place]} == {}
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
