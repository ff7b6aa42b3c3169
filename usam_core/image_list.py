"""The text file that names the images to be labelled, where not all of a folder are meant."""

from pathlib import Path, PurePosixPath

from usam_core.errors import InputError


def read_image_list(file: Path) -> list[str]:
    """Return the paths that a list names, one a line, each once, in the order of their names.

    Empty lines and lines that begin with `#` are left out.

    Raises:
        InputError: the file cannot be read, names no image, or leads out of the images' folder.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read ({error}); expected one image path a line"
        ) from error
    names = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        path = PurePosixPath(text)
        # Outputs take the images' names: they must stay in the outputs' folder.
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{file}:{number}: got {text!r}; expected a path that counts from images.path and "
                "stays below it"
            )
        names.add(path.as_posix())
    if not names:
        raise InputError(f"{file}: names no image; expected one path a line, from images.path")
    return sorted(names)
