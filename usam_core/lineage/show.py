"""A chain for people and for machines: a tree of lines, and one JSON document."""

from collections.abc import Iterator, Sequence
from typing import Any

from usam_core.files.text import escape_control
from usam_core.files.text import markdown as escaped
from usam_core.lineage.chain import Chain, Finding, Key, Link, facts, made_by, short
from usam_core.lineage.document import portable
from usam_core.lineage.picture import data_uri, in_words

_MARKS = {"ok": "ok", "broken": "BROKEN", "unknown": "not checked"}


def tree(chain: Chain, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of a chain, from the output back to pictures, images and checkpoint."""
    subject = chain.subject
    yield escape_control(f"{portable(subject.file, chain.root)}: {subject.kind}")
    for finding in findings:
        if finding.link is None:
            yield escape_control(f"│  {finding.name}: {_verdict(finding)}")
    yield from _branch(chain, next(iter(chain.links)), findings, "", last=True, seen=set())
    broken = broken_links(findings)
    yield ""
    if broken:
        yield f"{len(broken)} of {len(findings)} checks failed:"
        yield from dict.fromkeys(escape_control(f"* {finding.text}") for finding in broken)
    else:
        yield f"all {len(findings)} checks passed: the chain is whole"


def to_json(chain: Chain, findings: Sequence[Finding]) -> dict[str, Any]:
    """The chain with its findings, JSON-like; documents as they are on disk."""
    image = chain.subject.image
    return {
        "file": portable(chain.subject.file, chain.root),
        "kind": chain.subject.kind,
        "image": image and image.to_coco()["image"],
        "whole": not broken_links(findings),
        "output": [_finding(finding) for finding in findings if finding.link is None],
        "steps": [
            {
                "step": link.step,
                "path": link.path,
                "sha256": link.sha256,
                "current": link.current,
                "findings": [_finding(finding) for finding in findings if finding.link == key],
                "document": link.document,
            }
            for key, link in chain.links.items()
        ],
    }


def broken_links(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that say the chain is broken."""
    return [finding for finding in findings if finding.verdict == "broken"]


def _branch(
    chain: Chain, key: Key, findings: Sequence[Finding], indent: str, *, last: bool, seen: set[Key]
) -> Iterator[str]:
    link = chain.links[key]
    title = f"{link.step}: no document {short(link.sha256)}"
    if link.document is not None:
        again = "" if link.current else " (has run again since)"
        title = f"{link.step}, {link.document['finished']}{again}: {link.path} {short(link.sha256)}"
    yield escape_control(f"{indent}{'└─' if last else '├─'} {title}")
    inner = indent + ("   " if last else "│  ")
    if key in seen:
        yield f"{inner}   (as above)"
        return
    seen.add(key)
    bar = "│  " if link.parents else "   "
    for line in _lines(link, [finding for finding in findings if finding.link == key]):
        yield escape_control(f"{inner}{bar}{line}")
    for number, parent in enumerate(link.parents, start=1):
        end = number == len(link.parents)
        yield from _branch(chain, parent, findings, inner, last=end, seen=seen)


def _lines(link: Link, findings: Sequence[Finding]) -> Iterator[str]:
    if link.document is None:
        yield from (_verdict(finding) for finding in findings)
        return
    yield f"by {made_by(link.document)}; seed {link.document['seed']}"
    by_name = {finding.name: finding for finding in findings}
    for fact in facts(link.document):
        finding = by_name.pop(fact.name, None)
        mark = f" [{_MARKS[finding.verdict]}]" if finding else ""
        digest = f" {short(fact.sha256)}" if fact.sha256 else ""
        yield f"{fact.name}: {fact.text}{digest}{mark}"
    yield from (f"{finding.name}: {_verdict(finding)}" for finding in by_name.values())


def _verdict(finding: Finding) -> str:
    # What is broken follows at the end, in a sentence.
    text = "" if finding.verdict == "broken" else f"{finding.text} "
    return f"{text}[{_MARKS[finding.verdict]}]"


def _finding(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "verdict": finding.verdict, "text": finding.text}


def markdown(chain: Chain) -> str:
    """The chain as Markdown, a picture and a table; outputs are not checked."""
    return "\n".join([f"![{escaped(in_words(chain))}]({data_uri(chain)[0]})", "", *_table(chain)])


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
