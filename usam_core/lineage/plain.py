"""Text of users, such that it cannot pass for anything else."""

import re

_MARKS = re.compile(r"(?<=[^\W_])[._-](?=[^\W_])|(?<=\S) (?=\S)|[^\W_]|[,/:]")
"""What Markdown takes for text: letters and digits, and some signs, partly only between them."""


def plain(text: str) -> str:
    r"""Return text with what a terminal or a browser would obey spelled out.

    >>> plain("a\nb\x1b[2J")
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
    said = "".join(c if c == "\n" else plain(c) for c in str(text))
    plain_at = {found.start() for found in _MARKS.finditer(said)}
    return "".join(c if at in plain_at else f"&#{ord(c)};" for at, c in enumerate(said))
