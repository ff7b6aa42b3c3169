"""`usam lineage`: the chain behind one output, checked on the way."""

from pathlib import Path

from usam_core.cli import terminal
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import broken_links, to_json, tree
from usam_core.steps.lineage_checks import check_chain


def print_lineage(file: Path, as_json: bool) -> bool:
    """Print the chain of an output; return whether it is whole."""
    chain = read_chain(file)
    findings = check_chain(chain, terminal.progress_for_terminal())
    if as_json:
        terminal.print_json(to_json(chain, findings))
    else:
        for line in tree(chain, findings):
            terminal.screen.print(line, soft_wrap=True, highlight=False, markup=False)
    return not broken_links(findings)
