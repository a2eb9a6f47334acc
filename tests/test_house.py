"""The house keeps its shape: floors, templates, one door to processes, one place for a back end's name."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
PACKAGE = HOME / "portctl"

FLOORS: list[set[str]] = [
    {"problems", "command", "services", "net", "__init__"},
    {"document", "ruleset", "program", "evaluation", "listeners", "files"},
    {"backends.base", "sysctl", "policy", "expectations", "templating", "ruletext", "space"},
    {"resolve", "backends.*"},
    {"backends", "pipeline"},
    {"observe"},
    {"plan", "verify", "report", "wayin", "importing"},
    {"apply"},
    {"hosts", "inspection"},
    {"cli", "__main__", "pytest_plugin"},
]
"""ARCHITECTURE.md, "Floors". `backends.*` is any one back end."""

WITHIN_A_FLOOR = {
    ("program", "ruleset"),
    ("evaluation", "program"),
    ("evaluation", "ruleset"),
    ("pipeline", "backends"),
    ("plan", "wayin"),
    ("space", "backends.base"),
    ("__main__", "cli"),
    ("sysctl", "templating"),
}
"""(importer, imported) on one floor."""


def unit(module: str) -> str:
    """The unit of the floor plan that a module belongs to: `portctl.apply.guard` → `apply`."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    if parts[0] == "backends" and len(parts) > 1:
        return "backends.base" if parts[1] == "base" else f"backends.{parts[1]}"
    return parts[0]


def floor(name: str) -> int:
    for number, units in enumerate(FLOORS):
        if name in units:
            return number
    if name.startswith("backends."):
        return 3
    raise AssertionError(f"{name} stands on no floor: add it to the floor plan")


@cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(HOME).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> set[str]:
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    known = modules()
    return {name for name in names if name in known}


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_floors_below(module: str) -> None:
    here = unit(module)
    wrong = [
        name
        for name in imports(modules()[module])
        if unit(name) not in (here, "__init__")
        and floor(unit(name)) >= floor(here)
        and (here, unit(name)) not in WITHIN_A_FLOOR
    ]
    assert not wrong, f"{module} (floor {floor(here)}) imports {wrong}"


def test_back_ends_do_not_know_each_other() -> None:
    for module, path in modules().items():
        here = unit(module)
        if here.startswith("backends.") and here != "backends.base":
            others = {unit(name) for name in imports(path) if unit(name).startswith("backends.")}
            assert others <= {here, "backends.base"}, module


def test_only_hosts_start_processes() -> None:
    for module, path in modules().items():
        if unit(module) == "hosts":
            continue
        for node in nodes(path):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                names = [f"os.{node.attr}"] if re.match(r"system|popen|exec|spawn|fork|posix_spawn", node.attr) else []
            assert not {n for n in names if n.split(".")[0] in ("subprocess", "pty", "multiprocessing")}, module
            assert not {n for n in names if n.startswith("os.")}, f"{module}: {names}"


def test_only_the_registry_names_the_back_ends() -> None:
    from portctl import backends

    for module, path in modules().items():
        if unit(module) in ("backends", *(f"backends.{name}" for name in backends.NAMES)):
            continue
        for node in nodes(path):
            if isinstance(node, ast.Compare):
                compared = [c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)]
                assert not {value for value in compared if value in backends.NAMES}, f"{module}:{node.lineno}"


@pytest.mark.parametrize("path", sorted((HOME / "templates").rglob("*.j2")), ids=lambda p: str(p.name))
def test_templates_only_place_lines(path: Path) -> None:
    """Text, names, `for`, and a bare `if`: nothing is computed in a template."""
    name = r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*"
    allowed = re.compile(rf"(for {name}( *, *{name})* in {name}|if (not )?{name}|else|endfor|endif)")
    text = re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.S)
    for found in re.findall(r"\{%[-+]?(.*?)[-+]?%\}", text, flags=re.S):
        assert allowed.fullmatch(found.strip()), found
    for found in re.findall(r"\{\{[-+]?(.*?)[-+]?\}\}", text, flags=re.S):
        assert re.fullmatch(name, found.strip()), found


SECRETS = re.compile(
    r"/work/|/tmp/venv|\.library|farm-studio|farm-bench|pypi\.org|files\.pythonhosted|deb\.debian\.org"
)


def test_nothing_names_the_machine_it_was_written_on() -> None:
    for path in sorted(HOME.rglob("*")):
        parts = path.relative_to(HOME).parts
        if (parts[0].startswith(".") and parts[0] != ".ci") or not path.is_file() or path == Path(__file__):
            continue
        if path.suffix in {".py", ".md", ".sh", ".yaml", ".j2", ".toml", ".txt", ""}:
            found = SECRETS.search(path.read_text(errors="replace"))
            assert not found, f"{path}: {found and found.group()}"
