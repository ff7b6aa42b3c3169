"""Reads the YAML of a project, and says in a sentence a line what is wrong with it."""

import difflib
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError

from usam_core.config.base import IN_QUOTES, WAS_REMOVED, PlacedError, Section
from usam_core.config.schema import Location, ProjectConfig
from usam_core.errors import ConfigError, without_secrets

_LONGEST_SHOWN = 300
_KEY = re.compile(r"[\w .-]{1,40}")
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


def read_yaml(file: Path) -> tuple[Any, dict[Location, int]]:
    """Read a YAML file: its values, and the line of every key and list item.

    Raises a `ConfigError` with the place if it cannot be read, is no YAML, or says a key twice.
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
    if duplicates:
        raise ConfigError("\n".join(duplicates))
    return values, lines


def dotted(place: Location) -> str:
    """Return a place as people write it.

    >>> dotted(("classes", 0, "name"))
    'classes[0].name'
    """
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def at_line(name: str, place: Location, lines: dict[Location, int]) -> str:
    """Return a file's name with the line of a place, or of what is above it, and the place."""
    above = next((place[:end] for end in range(len(place), 0, -1) if place[:end] in lines), ())
    return f"{name}:{lines.get(above, 1)}: {dotted(place)}"


def explain(name: str, error: ValidationError, lines: dict[Location, int]) -> Iterator[str]:
    """Yield one line a mistake; a union's many complaints about one key become one."""
    seen: dict[Location, list[Any]] = {}
    for problem in error.errors():
        place = problem["loc"]
        if problem["type"] not in ("missing", "extra_forbidden"):
            while place and place not in lines:  # what pydantic adds for the branches of a union
                place = place[:-1]
        seen.setdefault(place, []).append(problem)
    for place, problems in seen.items():
        first = problems[0]
        at = at_line(name, place, lines)
        cause = first.get("ctx", {}).get("error")
        if first["type"] == "extra_forbidden":
            section = section_at(place[:-1])
            if section is not None and place[-1] in section.removed:
                yield f"{at}: got {_shown(first['input'])}; this setting {WAS_REMOVED}"
                continue
            if not _KEY.fullmatch(str(place[-1])):
                # A line of another file may pass for a key: it is not quoted.
                at = at.removesuffix(dotted(place)) + "what stands there"
            yield f"{at}: unknown key{_suggestion(section, str(place[-1]))}"
        elif first["type"] == "missing":
            yield f"{at}: missing; expected {_expected(place)}"
        elif isinstance(cause, PlacedError):
            yield f"{at_line(name, (*place, *cause.place), lines)}: {cause}"
        else:
            wishes = dict.fromkeys(_wish(problem) for problem in problems)
            yield f"{at}: got {_shown(first['input'])}; {' or '.join(wishes)}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    text = without_secrets(text, queries=True)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} ..."


def _wish(problem: dict[str, Any]) -> str:
    message: str = problem["msg"]
    if problem["type"] == "string_type":
        return f"expected text: {IN_QUOTES}"
    for start, words in (("Input should be ", "expected "), ("Value error, ", "")):
        if message.startswith(start):
            return words + message.removeprefix(start)
    return "expected: " + message


def section_at(place: Location) -> type[Section] | None:
    """Return the model whose keys stand at a place."""
    model: type[Section] | None = ProjectConfig
    named = False
    for part in place:
        if isinstance(part, int) or named:
            named = False  # a name of the user's choice, of sections that are alike
            continue
        field = model.model_fields.get(part) if model else None
        model = next(_models(field.annotation), None) if field else None
        named = field is not None and get_origin(field.annotation) is dict
    return model


def _models(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _suggestion(section: type[Section] | None, key: str) -> str:
    if section is None:
        return ""
    known = list(section.model_fields)
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"; expected one of {', '.join(known)}{hint}"


def _expected(place: Location) -> str:
    section = section_at(place[:-1])
    field = section.model_fields.get(str(place[-1])) if section else None
    return ((field and field.description) or "a value").split(". ")[0]


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
    left: deque[tuple[yaml.Node, Location, frozenset[int]]] = deque()
    if root is not None:
        left.append((root, (), frozenset()))
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


def _not_yaml(name: str, text: str, error: Any) -> str:
    if isinstance(error, yaml.reader.ReaderError):  # of a character that YAML does not take
        line, problem = text.count("\n", 0, error.position) + 1, error.reason
    else:
        line, problem = error.problem_mark.line + 1, error.problem
    hint = next((hint for part, hint in _HINTS.items() if part in problem), "correct it")
    return f"{name}:{line}: not valid YAML: {problem}{'' if ';' in problem else f'; {hint}'}"
