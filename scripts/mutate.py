"""Plant one small fault after another in a module and show those that its tests do not see.

    pip install cosmic-ray
    python scripts/mutate.py usam_core/head/losses.py -- tests/head/test_mil.py

What follows `--` goes to pytest. The faults are cosmic-ray's, less those that change annotations
alone or mean what an earlier one means. Nothing on disk is changed: a fault lives in a child of
this process, which has imported torch and its like already. A child that computes ten times as long
as with the sound module is stopped, and the fault counts as seen.
"""

import argparse
import ast
import difflib
import gc
import importlib
import os
import random
import resource
import sys
import tempfile
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain"]


def mutants(source: str) -> Iterator[str]:
    """Yield the source with one fault each, no two of one meaning."""
    seen = {_meaning(source)}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = [operator().mutation_positions(node) for node in ast_nodes(get_ast(source))]
        for number in range(sum(len(list(each)) for each in places)):
            mutant = mutate_code(source, operator(), number)
            try:
                meaning = _meaning(mutant)
            except SyntaxError:
                continue
            if meaning not in seen:
                seen.add(meaning)
                yield mutant


def _meaning(source: str) -> str:
    """Return the source as a tree without annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name in {"annotation", "returns"} & set(node._fields):
            if getattr(node, name) is not None:
                setattr(node, name, ast.Constant(None))
    return ast.dump(tree)


def passes(file: Path, source: str, tests: list[str], seconds: int, imported: Path) -> bool:
    """Return whether the tests pass, in a child, with this source in the place of the file's."""
    child = os.fork()
    if not child:
        # Of computing, not of the clock: another's load shall not decide.
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        _run(file, source, tests, imported)
    return os.waitpid(child, 0)[1] == 0


def _run(file: Path, source: str, tests: list[str], imported: Path) -> None:
    status = 1
    try:
        whole = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, name: str):
            is_file = Path(loader.path).resolve() == file
            return compile(source, loader.path, "exec") if is_file else whole(loader, name)

        SourceFileLoader.get_code = get_code
        # One run's examples are the next one's; the smallest that fails is not asked for.
        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        status = int(pytest.main([*PYTEST, *tests]))
        imported.write_text("\n".join(sys.modules))
    finally:
        os._exit(status)


def _import_others(names: list[str]) -> None:
    """Import what the tests need and is not ours, once for all children."""
    for name in names:
        if not (ROOT / name.partition(".")[0]).exists():
            try:
                importlib.import_module(name)
            except Exception:  # some are made while others are imported, and are not files
                continue
    gc.freeze()


def survivors(module: Path, share: float, tests: list[str], imported: Path) -> None:
    """Print the faults of one module that its tests do not see, and how many there were."""
    file, source = module.resolve(), module.read_text(encoding="utf-8")
    for _ in range(2):  # only the second knows how long the tests themselves take
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        if not passes(file, source, tests, 3600, imported):
            sys.exit(f"{module}: the tests fail without a fault; run them by pytest")
        took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        _import_others(imported.read_text().split())
    every = list(mutants(source))
    some = random.Random(0).sample(every, round(share * len(every)))
    alive = 0
    for mutant in some:
        if passes(file, mutant, tests, 10 + int(10 * took), imported):
            alive += 1
            lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm="")
            print(f"{module} survivor {alive}", *list(lines)[2:], sep="\n", flush=True)
    tool = f"cosmic-ray {version('cosmic-ray')}"
    print(f"{module}: {tool}, {len(every)} faults, {len(some)} tried, {alive} survive", flush=True)


def main() -> None:
    """Read the command line, and look at one module after another."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="+", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the faults, drawn by seed 0")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options, tests = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    with tempfile.TemporaryDirectory() as folder:
        for module in options.modules:
            survivors(module, options.share, tests, Path(folder) / "imported")


if __name__ == "__main__":
    main()
    os._exit(0)  # at an orderly end, torch's parts would tell of what they leak
