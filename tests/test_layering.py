"""The layers of ARCHITECTURE.md and the house rules that no linter knows, by an ast walk."""

from __future__ import annotations

import ast
import graphlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"
PACKAGE = "karbor_actors"

LAYERS = (
    "errors",
    "faultpoints",
    "folders",
    "liveness",
    "arguments",
    "plain",
    "model",
    "limits",
    "graph_format",
    "graph",
    "rules",
    "findings",
    "schema",
    "plugins",
    "actors",
    "store",
    "bank",
    "schedule",
    "abort_schedule",
    "protectables",
    "provider",
    "operations",
    "service",
    "__init__",
    "testing",
    "cli",
)
"""Bottom to top: a module imports only from layers before its own, or from its own package."""

PUBLIC_TO_PLUGINS = (PACKAGE, f"{PACKAGE}.errors", f"{PACKAGE}.model", f"{PACKAGE}.plugins")

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Import:
    """One imported module, and the names taken from it."""

    module: str
    names: tuple[str, ...]
    line: int
    is_for_types: bool


@dataclass(frozen=True)
class Module:
    """A parsed module of src/ or plugins/."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def layer(self) -> str:
        return layer_of(self.name)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import, also those inside of functions and for type checkers only."""
        for_types = {
            inner
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for statement in node.body
            for inner in ast.walk(statement)
        }
        found = []
        for node in ast.walk(self.tree):
            types = node in for_types
            if isinstance(node, ast.Import):
                found += [Import(alias.name, (), node.lineno, types) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.where(node)} imports relatively"
                names = tuple(alias.name for alias in node.names)
                found.append(Import(node.module or "", names, node.lineno, types))
        return tuple(found)

    def where(self, node: ast.AST | int) -> str:
        line = node if isinstance(node, int) else getattr(node, "lineno", 1)
        return f"{self.path.relative_to(ROOT)}:{line}"


def layer_of(name: str) -> str:
    return [*name.split("."), "__init__"][1]


def load(base: Path) -> list[Module]:
    modules = []
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules.append(Module(path, name))
    return modules


ENGINE = load(SRC)
PLUGINS = load(ROOT / "plugins")
NAMES = {module.name for module in ENGINE + PLUGINS}


def imported_modules(module: Module, *, for_types: bool = True) -> list[tuple[str, int]]:
    """Return the project's modules that *module* imports; a name may be a submodule.

    Without *for_types*, what only a type checker imports is left out.
    """
    found = []
    for imported in module.imports:
        if imported.is_for_types and not for_types:
            continue
        inner = [f"{imported.module}.{name}" for name in imported.names]
        submodules = [name for name in inner if name in NAMES]
        if imported.module in NAMES and len(submodules) < max(1, len(inner)):
            found.append((imported.module, imported.line))
        found.extend((name, imported.line) for name in submodules)
    return found


def test_there_is_something_to_look_at():
    assert {"errors", "model"} <= {module.layer for module in ENGINE}
    assert PLUGINS


def test_every_folder_of_modules_is_a_package_so_that_it_ships():
    folders = {module.path.parent for module in ENGINE + PLUGINS}

    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_every_module_belongs_to_a_layer():
    found = {module.layer for module in ENGINE}
    strangers, ghosts = found - set(LAYERS), set(LAYERS) - found

    assert not strangers, f"add these to LAYERS and to ARCHITECTURE.md: {sorted(strangers)}"
    assert not ghosts, f"LAYERS names what there is not: {sorted(ghosts)}"


def test_modules_import_only_from_the_layers_below_them():
    faults = []
    for module in ENGINE:
        if module.name.split(".")[0] != PACKAGE:
            continue  # the command and the pytest plugin, which start what is below them
        allowed = LAYERS[: LAYERS.index(module.layer) + 1] if module.layer in LAYERS else LAYERS
        for name, line in imported_modules(module):
            if not name.startswith(PACKAGE) or layer_of(name) not in allowed:
                faults.append(f"{module.where(line)} imports {name}")

    assert not faults, "\n".join(faults)


def test_no_modules_import_each_other_in_a_circle():
    # A package's __init__ gathers its modules, so it is no part of their order; and two parts of
    # one package may speak of each other in their types.
    packages = {module.name for module in ENGINE + PLUGINS if module.path.stem == "__init__"}
    order = {
        module.name: {name for name, _ in imported_modules(module, for_types=False)} - packages
        for module in ENGINE + PLUGINS
        if module.name not in packages
    }

    try:
        graphlib.TopologicalSorter(order).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_package_takes_its_own_parts_from_their_modules():
    faults = []
    for module in ENGINE:
        package = module.name.rpartition(".")[0]
        faults += [
            f"{module.where(line)} imports {name}, the package that it is in"
            for name, line in imported_modules(module)
            if name == package and package != PACKAGE
        ]

    assert not faults, "\n".join(faults)


def test_plugins_import_only_public_modules_of_the_engine():
    faults = []
    for module in PLUGINS:
        own = module.name.split(".")[0]
        for imported in module.imports:
            top = imported.module.split(".")[0]
            if top == own or not top.startswith("karbor_"):
                continue
            private = [name for name in imported.names if name.startswith("_")]
            if imported.module not in PUBLIC_TO_PLUGINS or private:
                faults.append(f"{module.where(imported.line)} imports {imported.module} {private}")

    assert not faults, "\n".join(faults)


def test_nothing_but_the_command_line_prints():
    faults = [
        module.where(node)
        for module in ENGINE + PLUGINS
        if module.layer != "cli"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]

    assert not faults


def test_the_main_thread_waits_for_nothing_that_a_signal_leaves_locked():
    """See actors/waiting.py."""
    made = {"Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier"}
    forbidden = {f"threading.{name}" for name in made} | {"queue.Queue", "Queue"}
    faults = [
        module.where(node)
        for module in ENGINE
        if module.layer not in ("testing", "cli")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden | made - {"Event"}
    ]

    assert not faults, "use Bell or Flag:\n" + "\n".join(faults)


def test_modules_are_short_enough_to_read():
    long = [
        f"{module.where(1)} has {lines} lines"
        for module in ENGINE + PLUGINS
        if (lines := len(module.text.splitlines())) >= MAX_MODULE_LINES
    ]

    assert not long, "\n".join(long)


def test_functions_are_short_enough_to_read():
    long = []
    for module in ENGINE + PLUGINS:
        for node in ast.walk(module.tree):
            if isinstance(node, FUNCTIONS):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines >= MAX_FUNCTION_LINES:
                    long.append(f"{module.where(node)} {node.name} has {lines} lines")

    assert not long, "\n".join(long)


def undocumented(module: Module, node: ast.Module | ast.ClassDef, prefix: str = "") -> list[str]:
    """Return the public names in *node* that have no docstring.

    What overrides a documented method, and what a protocol or a property setter repeats,
    inherits its docstring; only plain functions, classes and methods are asked.
    """
    faults = []
    for child in node.body:
        if not isinstance(child, (ast.ClassDef, *FUNCTIONS)) or child.name[0] == "_":
            continue
        repeats = {ast.unparse(decorator) for decorator in child.decorator_list}
        if repeats & {"override", "overload", f"{child.name}.setter"}:
            continue
        if ast.get_docstring(child) is None and not (prefix and inherits(node)):
            faults.append(f"{module.where(child)} {prefix}{child.name} has no docstring")
        if isinstance(child, ast.ClassDef):
            faults += undocumented(module, child, f"{prefix}{child.name}.")
    return faults


def inherits(node: ast.AST) -> bool:
    """Tell whether a class has bases that may document its methods."""
    return isinstance(node, ast.ClassDef) and bool(node.bases)


def test_every_public_name_has_a_docstring():
    faults = []
    for module in ENGINE + PLUGINS:
        if any(part.startswith("_") and part != "__init__" for part in module.name.split(".")):
            continue
        if ast.get_docstring(module.tree) is None:
            faults.append(f"{module.where(1)} has no docstring")
        faults += undocumented(module, module.tree)

    assert not faults, "\n".join(faults)
