"""A chain as Markdown: a Mermaid diagram, and a table for where diagrams are not drawn.

Names of files and classes are the user's: whatever could mean something to Mermaid, Markdown or
HTML is written as a character's number.
"""

from collections.abc import Iterator

from usam_core.files.text import markdown as escaped
from usam_core.lineage.chain import Chain, Link, facts, made_by, short

_PLAIN = frozenset(" ._-/,:+=")
"""Beside letters and digits, what means nothing inside a quoted label or a table's cell."""

_DRAWN = ("images", "truth", "pictures", "checkpoint")
"""Facts that stand as boxes of their own: where a chain begins."""

_LONGEST = 100
"""Letters of a box; the table has all of them."""


def markdown(chain: Chain) -> str:
    """Return the chain as Markdown; documents are read, outputs are not checked."""
    return "\n".join(["```mermaid", "flowchart LR", *_diagram(chain), "```", "", *_table(chain)])


def label(text: str) -> str:
    """Return text for a quoted label of Mermaid.

    >>> label('my "best" rows')
    'my #34;best#34; rows'
    """
    return "".join(c if _is_plain(c) else f"#{ord(c)};" for c in text)


def _is_plain(letter: str) -> bool:
    return letter.isalnum() or letter in _PLAIN


def _diagram(chain: Chain) -> Iterator[str]:
    boxes = {key: f"step{number}" for number, key in enumerate(chain.links)}
    origins: dict[str, str] = {}
    for key, link in chain.links.items():
        yield f'    {boxes[key]}["{_title(link)}"]'
        for text in _origins(link):
            if text not in origins:
                # A checkpoint that several steps read is one box.
                origins[text] = f"origin{len(origins)}"
                yield f'    {origins[text]}(["{text}"])'
            yield f"    {origins[text]} --> {boxes[key]}"
        for parent in link.parents:
            yield f"    {boxes[parent]} --> {boxes[key]}"


def _title(link: Link) -> str:
    when = link.document["finished"] if link.document else "no document"
    return f"{label(link.step)}<br/>{label(when)}<br/>{short(link.sha256)}"


def _origins(link: Link) -> Iterator[str]:
    for fact in facts(link.document) if link.document else []:
        # Later steps read the pictures from `collect`.
        if fact.name in _DRAWN and (fact.name != "pictures" or link.step == "collect"):
            # The name first: Mermaid would take a path such as "- x" for a list.
            text = f"{fact.name}: {fact.text}"
            cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
            yield f"{label(cut)}<br/>{short(fact.sha256)}"


def _table(chain: Chain) -> Iterator[str]:
    yield from ("| step | what | SHA-256 |", "| --- | --- | --- |")
    for link in chain.links.values():
        yield f"| {escaped(link.step)} | {escaped(link.path)} | {short(link.sha256)} |"
        if link.document is None:
            continue
        yield f"| | {escaped(made_by(link.document))}, {escaped(link.document['finished'])} | |"
        for fact in facts(link.document):
            digest = short(fact.sha256) if fact.sha256 else ""
            yield f"| | {escaped(f'{fact.name}: {fact.text}')} | {digest} |"
