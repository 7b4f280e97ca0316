"""The map of docs/layout.md as a rule: which room may import which, read from the source of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# room -> rooms that it may import besides itself. Scripts, which nobody may import, may import everything.
RULE = {
    "networks": set(),
    "diffusion": set(),
    "common": set(),
    "ddpm": {"diffusion", "networks"},
    "datasets": {"common"},
    "sheets": {"ddpm", "datasets", "networks", "diffusion"},
    "ToyData": set(),
    "reporting": {"common"},
}
RULE["figures"] = {"ddpm", "datasets", "networks", "diffusion", "common", "reporting"}
RULE["training"] = RULE["figures"] | {"figures"}
RULE["utils"] = {"figures"}
RULE["evaluation"] = RULE["training"] | {"training"}
FILES = [
    *(file for room in RULE for file in (ROOT / room).rglob("*.py")),
    *(file for file in ROOT.glob("*.py") if file.stem in RULE),
]
SCRIPTS = sorted(file.stem for file in ROOT.glob("*.py") if file.stem not in RULE)


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


OURS = {name_of(file) for file in FILES} | set(SCRIPTS)


def imports(file: Path) -> set[str]:
    """The modules of the suite that a file imports, wherever the import stands, also for annotations alone."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            modules = {f"{node.module}.{name.name}" for name in node.names}
            found |= (modules & OURS) or {node.module}
    return found & OURS


GRAPH = {name_of(file): imports(file) for file in FILES}


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_module_imports_only_from_rooms_that_the_rule_names(module):
    room = module.split(".")[0]
    used = {other.split(".")[0] for other in GRAPH[module]} - {room}
    assert used <= RULE[room], f"{module} imports {sorted(used - RULE[room])}"


def test_reporting_uses_only_files_and_limits_of_common():
    used = {other for module, others in GRAPH.items() if module.startswith("reporting") for other in others}
    assert {other for other in used if other.startswith("common")} <= {"common.files", "common.limits"}


def test_there_is_no_circle():
    left = dict(GRAPH)
    while left:
        free = [module for module, others in left.items() if not others & left.keys() - {module}]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for module in free:
            del left[module]


def test_every_folder_with_code_is_a_room():
    folders = {file.relative_to(ROOT).parts[0] for file in ROOT.glob("*/*.py")}
    assert folders <= {*RULE, "tests", "notebooks", "data"} | {name for name in folders if name.startswith(".")}


def test_files_and_functions_are_short():
    """No file over 400 lines, no function over 60."""
    for file in [*FILES, *(ROOT / f"{name}.py" for name in SCRIPTS), *(ROOT / "notebooks").glob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                assert node.body[-1].end_lineno - first < 60, f"{file}: {node.name}"


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that a fresh Python has loaded after a statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_the_equations_load_nothing_but_their_annexes_and_torch():
    loaded = loaded_by("import ddpm")
    assert {name.split(".")[0] for name in loaded & OURS} == {"ddpm", "diffusion", "networks"}
    assert not loaded & {"matplotlib", "torchvision", "imageio"}


def test_checking_folders_loads_no_torch():
    assert "torch" not in loaded_by("import reporting.checks, reporting.page, reporting.index")
    assert "torch" not in loaded_by("import check_log, report")
