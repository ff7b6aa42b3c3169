"""Text of users: names as they are compared, and text that cannot pass for anything else."""

import re
import unicodedata

_MARKS = re.compile(r"(?<=[^\W_])[._-](?=[^\W_])|(?<=\S) (?=\S)|[^\W_]|[,/:]")
"""Plain text to Markdown: letters and digits, and some signs, partly only between them."""


def escape_control(text: str) -> str:
    r"""Return text with what a terminal or a browser would obey spelled out.

    >>> escape_control("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def markdown(text: object) -> str:
    """Return text for Markdown, in a line or in a table's cell: it is shown as it is.

    >>> markdown("a|b `c` <img>, min_miou")
    'a&#124;b &#96;c&#96; &#60;img&#62;, min_miou'
    """
    printable = "".join(c if c == "\n" else escape_control(c) for c in str(text))
    plain_at = {match.start() for match in _MARKS.finditer(printable)}
    return "".join(c if at in plain_at else f"&#{ord(c)};" for at, c in enumerate(printable))


def normalize_name(word: str) -> str:
    """Return a word as names are compared: composed, without case, without spaces at its ends."""
    return unicodedata.normalize("NFC", word).casefold().strip()
