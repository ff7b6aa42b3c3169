"""Which code a result was made with: a digest of what decides it, not of how it is written down."""

import ast
import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from usam_core.files.digest import value_digest

PACKAGE = "usam_core"

WITHOUT_INFLUENCE = (
    "usam_core.cli",
    "usam_core.config",  # settings enter every key by their values
    "usam_core.errors",
    "usam_core.files.atomic",
    "usam_core.interrupt",
    "usam_core.progress",
    "usam_core.steps.base",  # what steps read enters their keys by its values
)
"""Modules, with those whose names begin likewise, that decide no result."""


@functools.cache
def code_digest(stage: str, calculations: tuple[str, ...]) -> str:
    """Return a digest of a step's own module and of all that its calculations are made of.

    Comments, docstrings and layout do not count. Other Python versions may give other digests: then
    a step is done again, never wrongly kept.

    Args:
        stage: the step's module; only its own file counts.
        calculations: modules that decide the step's results, with what they import of usam_core.
    """
    modules = {stage, *closure(calculations)}
    return value_digest({name: _meaning(_file(name).read_text("utf-8")) for name in modules})


def closure(modules: Iterable[str]) -> set[str]:
    """Return the modules and everything of usam_core that they import, directly or not."""
    closed: set[str] = set()
    remaining = list(modules)
    while remaining:
        name = remaining.pop()
        if name not in closed and not name.startswith(WITHOUT_INFLUENCE):
            closed.add(name)
            remaining += _imports(_file(name).read_text("utf-8"))
    return closed


def _file(module: str) -> Path:
    if module.split(".")[0] != PACKAGE:
        spec = importlib.util.find_spec(module)  # of a step from elsewhere
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{module}: expected a module with a source file")
        return Path(spec.origin)
    # Not by `importlib`, which imports the packages above, and with them a second of libraries.
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise ModuleNotFoundError(f"{module}: expected its source in {file}")
    return file


@functools.cache
def _imports(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` and `from module import name` look alike. The first
            # does not count the package, which may import much that the module does not.
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                names.add(name if _is_module(name) else node.module)
    return {name for name in names if _is_module(name)}


def _is_module(name: str) -> bool:
    if name.split(".")[0] != PACKAGE:
        return False
    try:
        _file(name)
    except ModuleNotFoundError:
        return False
    return True


@functools.cache
def _meaning(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [part for part in body if not _is_docstring(part)]
    return ast.dump(tree)


def _is_docstring(node: ast.AST) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
