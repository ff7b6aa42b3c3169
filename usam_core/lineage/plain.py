"""Text of users, such that it cannot pass for anything else."""


def plain(text: str) -> str:
    r"""Return text with what a terminal or a browser would obey spelled out.

    >>> plain("a\nb\x1b[2J")
    'a\\nb\\x1b[2J'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )
