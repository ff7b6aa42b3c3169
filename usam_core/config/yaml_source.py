"""Reads the YAML of a project: values, the line of each, and one sentence on what is no YAML."""

from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from usam_core.errors import ConfigError

Location = tuple[str | int, ...]

_REPEATED = 10_000
"""Values that aliases may repeat in all: a few lines of them can stand for billions."""
_NO_TEXT = {"\0", *map(chr, range(0xD800, 0xE000))}
_HINTS = {
    "\\t": "indent with spaces, not tabs",
    "constructor for the tag": "take the tag (!) away, or put the value in quotes",
    "undefined alias": "put a value that begins with * in quotes",
    "another document": "take out the line --- and what follows it",
    "special characters": "take out control characters, or save the file as text in UTF-8",
}
"""What to do, by a part of what PyYAML says."""


class Yaml(NamedTuple):
    """What a YAML file says.

    Attributes:
        values: the document.
        lines: the line of every key and list item.
        duplicates: complaints about keys that are given twice.
    """

    values: Any
    lines: dict[Location, int]
    duplicates: list[str]


def read_yaml(file: Path) -> Yaml:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be read or is no YAML; the message says where.
    """
    try:
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise ValueError("it is a pipe or a device")  # which may never end
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{file}:{line}: no text in UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{file}: cannot read the file ({reason}); expected YAML, as `usam init` writes"
        ) from error
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            lines, duplicates = _walk(file.name, node)
            values = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(
            f"{file.name}: not valid YAML: brackets or sections nested too deep; expected sections "
            "as `usam init` writes them"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(file.name, text, error)) from None
    return Yaml(values, lines, duplicates)


def dotted(place: Location) -> str:
    """Return a place as people write it.

    >>> dotted(("classes", 0, "name"))
    'classes[0].name'
    """
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


class _Loader(yaml.SafeLoader):
    """YAML's own constructors raise anything on a value that their tag cannot stand before."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"the value cannot be read as {kind}; put it in quotes", node.start_mark
            ) from error


def _walk(name: str, root: yaml.Node | None) -> tuple[dict[Location, int], list[str]]:
    """Return the line of every key and list item, and complaints about keys given twice."""
    lines: dict[Location, int] = {}
    duplicates: list[str] = []
    seen: set[int] = set()
    repeated = 0
    left = deque([(root, (), frozenset[int]())] if root else [])
    while left:
        node, at, above = left.popleft()
        repeated += id(node) in seen
        seen.add(id(node))
        if id(node) in above or repeated > _REPEATED:
            raise yaml.composer.ComposerError(
                None, None, "aliases (*) stand for too much; write it out", node.start_mark
            )
        above |= {id(node)} if isinstance(node, yaml.CollectionNode) else frozenset()
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                _check_text(key)
                place = (*at, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
                line = key.start_mark.line + 1
                if place in lines and isinstance(key, yaml.ScalarNode):
                    duplicates.append(
                        f"{name}:{line}: {dotted(place)}: given twice (first on line "
                        f"{lines[place]}); expected once"
                    )
                lines[place] = line
                left.append((value, place, above))
        elif isinstance(node, yaml.SequenceNode):
            for number, value in enumerate(node.value):
                lines[(*at, number)] = value.start_mark.line + 1
                left.append((value, (*at, number), above))
    return lines, duplicates


def _check_text(node: yaml.Node) -> None:
    """Refuse what escapes such as `"\\0"` and `"\\ud800"` make, and no file's name can hold."""
    if isinstance(node, yaml.ScalarNode) and not _NO_TEXT.isdisjoint(node.value):
        raise yaml.composer.ComposerError(
            None, None, "the value holds NUL or half a character; take it out", node.start_mark
        )


def _not_yaml(name: str, text: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        line, problem = mark.line + 1, error.problem
    else:  # of a character that YAML does not take
        line, problem = text.count("\n", 0, error.position) + 1, error.reason
    hint = next((hint for part, hint in _HINTS.items() if part in problem), "correct it")
    return f"{name}:{line}: not valid YAML: {problem}{'' if ';' in problem else f'; {hint}'}"
