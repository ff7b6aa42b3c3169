"""MkDocs hook: pages from outside docs/ join the site; links between all pages hold there."""

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deployments/README.md": "deployments.md",
    "usam_core/sam/weights/MODEL_CARD.md": "nano-sam.md",
}
"""Path in the repository -> path in the site."""

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List notebooks and decisions: a new one needs no line in mkdocs.yml."""
    notebooks = [f"notebooks/{path.stem}.md" for path in NOTEBOOKS]
    config.nav.insert(1, {"Notebooks": notebooks})
    decisions = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    config.nav.append({"Decisions": [f"decisions/{name}" for name in ["README.md", *decisions]]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, and one for each notebook."""
    for path in NOTEBOOKS:
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=_notebook_page(path)))
    for source, page in OUTSIDE.items():
        text = _moved(ROOT.joinpath(source).read_text("utf-8"), source, page)
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    """Lead the links of a page in docs/ that leave it to where their targets are in the site."""
    if page.file.src_uri in OUTSIDE.values():
        return markdown
    return _moved(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _notebook_page(path: Path) -> str:
    """Return a notebook's text and code; its outputs are made where it is run."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    parts.append(f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts)


def _moved(text: str, source: str, page: str) -> str:
    """Rewrite links of the repository's file `source` for the site's `page`.

    A link to a file of the repository that is no part of the site becomes its text.
    """

    def link(match: re.Match[str]) -> str:
        image, words, target, anchor = match.groups()
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not ROOT.joinpath(path).exists():
            return match[0]  # mkdocs tells of it
        if path == "docs/decisions":
            path += "/README.md"
        if path not in OUTSIDE and not path.startswith("docs/"):
            return words
        there = OUTSIDE.get(path, path.removeprefix("docs/"))
        relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
        return f"{image}[{words}]({relative}{anchor or ''})"

    return LINK.sub(link, text)
