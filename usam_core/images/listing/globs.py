"""Which of the files that are found count: patterns as in a `.gitignore`."""

from collections.abc import Sequence

from pathspec import GitIgnoreSpec


class Globs:
    """Patterns that say which paths are wanted.

    Args:
        include: a path counts if these select it; None lets every path count.
        exclude: a path that these select does not count, nor does what lies in such a folder.

    Raises:
        ValueError: a pattern cannot be read.

    >>> Globs(["plates/**/*.tif"], ["*_thumb.*"]).wants("plates/a/b/w1.tif")
    True
    """

    def __init__(self, include: Sequence[str] | None = None, exclude: Sequence[str] = ()) -> None:
        self._include = None if include is None else GitIgnoreSpec.from_lines(include)
        self._exclude = GitIgnoreSpec.from_lines(exclude) if exclude else None

    def wants(self, path: str) -> bool:
        """Return whether a file counts; `path` counts from the images' folder, with `/`."""
        if self._exclude is not None and self._exclude.match_file(path):
            return False
        return self._include is None or self._include.match_file(path)

    def enters(self, folder: str) -> bool:
        """Return whether anything in a folder may count, so that it has to be looked into."""
        return self._exclude is None or not self._exclude.match_file(f"{folder}/")


EVERY_FILE = Globs()
