"""The house keeps its rules: imports run one way, rooms stay small, the public is described."""

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

import mslt
from mslt.config import TRACKERS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "mslt"

# A module may import from its own row and from the rows above it. A name covers what is in it.
ROWS = (
    (
        *("files", "background", "foreign", "records", "phases", "guard", "signals"),
        *("launcher", "watchdog", "children"),
    ),
    (
        *("schedule", "plan", "shape", "config", "layout", "options", "recipes", "cost", "room"),
        "words",
    ),
    ("data",),
    ("initial", "dropout", "norm", "machine", "world", "forecast", "status", "screen"),
    ("trackers", "watching"),
    ("attention", "linear", "graphs", "devices", "kernels"),
    ("masked_loss", "fused", "update"),
    ("model", "optim"),
    ("growth", "objective", "checkpoint", "weights"),
    ("packed", "layers"),
    ("twin", "prefix", "reducer", "huggingface", "replicas"),
    ("cache", "pretrained"),
    ("start",),
    ("trainer", "run"),
    ("console", "job", "pretrain", "turns", "resume", "rehearsal", "launch"),
    ("analysis",),
    ("card", "export"),
    ("finetune",),
    ("budget",),
    ("demo", "compare"),
    ("judged",),
    ("commands",),
    ("cli", "__main__"),
    ("reference",),
)
HEAVY = {"torch", "transformers", "matplotlib", "pyarrow", "datasets", "sklearn", *TRACKERS}

FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    .removesuffix("__init__")
    .strip("."): path
    for path in sorted(SOURCE.rglob("*.py"))
}
PACKAGES = ("data", "analysis", "commands", "finetune")
MODULES = [name for name in FILES if name not in ("", *PACKAGES)]
WRITTEN = sorted(
    p for room in ("src", "tests", "benchmarks", "torture") for p in (ROOT / room).rglob("*.py")
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes) -> set[str]:
    """Dotted names that import statements among the nodes bring in."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def ours(names: set[str]) -> set[str]:
    """Modules of this package among dotted names."""
    inside = {name.removeprefix("mslt.") for name in names if name.startswith("mslt.")}
    return inside & set(MODULES)


def at_import(module: str) -> set[str]:
    """Packages of others that importing a module brings in, by way of our own modules too."""
    seen: set[str] = set()
    others: set[str] = set()
    left = {module}
    while left:
        name = left.pop()
        seen.add(name)
        names = imported(tree(FILES[name]).body)
        others |= {found.partition(".")[0] for found in names}
        packages = {"", *(part for part in PACKAGES if name.startswith(f"{part}."))}
        left |= (ours(names) | packages) - seen
    return others


def row(module: str) -> int:
    found = [i for i, names in enumerate(ROWS) if module.partition(".")[0] in names]
    assert found, f"{module} has no place in ROWS of {Path(__file__).name}"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    above = {
        name for name in ours(imported(ast.walk(tree(FILES[module])))) if row(name) > row(module)
    }
    assert not above, f"{module} imports {above}, which stand above it"


def test_no_import_goes_in_a_circle():
    left = {name: ours(imported(tree(FILES[name]).body)) for name in MODULES}
    while free := [name for name, needs in left.items() if not needs & set(left)]:
        for name in free:
            del left[name]
    assert not left


def test_the_model_knows_nothing_of_stages_data_or_processes():
    assert ours(imported(ast.walk(tree(FILES["model"])))) == {
        "dropout",
        "fused",
        "initial",
        "kernels",
        "linear",
        "masked_loss",
        "norm",
        "shape",
    }


@pytest.mark.parametrize("module", [name for name in MODULES if row(name) < 2])
def test_what_describes_a_run_or_its_data_imports_no_torch(module):
    assert not at_import(module) & {"torch", "transformers"}


@pytest.mark.parametrize("module", ["", "cli", "data.store", "data.prepare"])
def test_what_answers_a_command_line_imports_nothing_heavy(module):
    assert not at_import(module) & HEAVY


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("module", FILES)
def test_what_is_public_is_described(module):
    assert ast.get_docstring(tree(FILES[module])), "the module"
    rooms = [tree(FILES[module])]
    while rooms:
        for node in rooms.pop().body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), node.name
                rooms += [node] if isinstance(node, ast.ClassDef) else []


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == mslt.__version__
    assert f"\nversion: {mslt.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    names = {dependency.partition(">")[0].lower().replace("_", "-") for dependency in wanted}
    assert names <= pinned


def test_no_two_test_files_have_one_name():
    """pytest would collect the first of them alone, and fail at the second."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert len(set(names)) == len(names)
