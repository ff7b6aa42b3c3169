"""`usam init`: asks what it was not told on a terminal, writes a project, says what to do next."""

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

import typer

from usam_core.cli import terminal
from usam_core.cli.terminal import Contact, Json, Names, Papers, print_line
from usam_core.config import PROJECT_FILE, RecipeName, SamName, preset_names
from usam_core.errors import InputError, complaint

_FOLDER = "my-project"
_SHOWN = 4
_OF_FOLDERS = "folders"
Recipe = Literal["auto", RecipeName]
_RECIPES: tuple[str, ...] = get_args(Recipe)

_Answer = TypeVar("_Answer")


@dataclass
class Choices:
    """What a new project is made of; as the options of `usam init`."""

    folder: Path
    images: str = ""
    classes: list[str] = field(default_factory=list)
    training: Path | None = None
    source: str = "folder"
    contact: str | None = None
    sam: str | None = None
    recipe: str | None = None


def init(
    folder: Annotated[
        Path | None, typer.Argument(help=f"Folder of the new project; asked for, or {_FOLDER}.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="The images to be labelled: a folder, a URL such as s3://lab/plates, or a file "
            "that names them (.csv, .parquet, .txt, COCO .json)."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Class names, with commas between them.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"In their place a list: {', '.join(preset_names())}.")
    ] = None,
    names: Names = "cleaned",
    training: Annotated[
        Path | None, typer.Option(help="Folder with one folder of pictures per class.")
    ] = None,
    source: Annotated[
        Literal["folder", "synthetic", "web"],
        typer.Option(help="Where training pictures come from."),
    ] = "folder",
    contact: Contact = None,
    sam: Annotated[
        SamName | None, typer.Option(help="Which SAM; else the recipe's, or nano.")
    ] = None,
    recipe: Annotated[
        Recipe | None,
        typer.Option(
            help="SAM, encoders and head under one word (docs/recipes.md); auto looks at this "
            "machine and says what it chose."
        ),
    ] = None,
    papers: Papers = False,
    full: Annotated[
        bool, typer.Option("--full", help="Write every setting, explained, with its default.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite project.yaml.")] = False,
    json: Json = False,
) -> None:
    """Write a short project.yaml, and the JSON schema that editors check and explain it with.

    Without --images, --classes and --preset it asks, on a terminal.
    """
    from usam_core.config.template import check_new, write_template

    if papers and recipe not in (None, "papers"):
        raise InputError(f"--papers: got --recipe {recipe} too; expected one of them")
    told = images or classes or preset
    choices = Choices(folder or Path(_FOLDER), images or "", training=training, source=source)
    choices.contact, choices.sam = contact, sam
    choices.recipe = "papers" if papers else recipe
    choices.classes = [name.strip() for name in (classes or "").split(",") if name.strip()]
    if not told and not json and sys.stdin.isatty() and sys.stdout.isatty():
        if folder is not None:
            check_new(folder, force)
        _ask(choices, ask_folder=folder is None, force=force)
    elif not images:
        raise InputError(
            "--images: missing; expected the folder of the images to be labelled (on a terminal, "
            "`usam init` without options asks for all it needs)"
        )
    word: str | None = None
    chosen: list[str] = []
    if choices.recipe:
        from usam_core.cli.recipes import tell_choice

        word, chosen = tell_choice(choices.recipe, choices.folder)
    written = write_template(
        choices.folder,
        choices.classes,
        choices.images,
        training=choices.training,
        source=choices.source,
        contact=choices.contact,
        sam=choices.sam,
        preset={"preset": preset, "names": names} if preset else None,
        recipe=word,
        full=full,
        force=force,
    )
    todo, command = next_command(choices.folder)
    if json:
        document = {"project": str(written), "recipe": word, "told": chosen}
        terminal.print_json({**document, "todo": todo, "next": command})
        return
    for line in chosen:
        print_line(line)
    print_line(f"wrote {written}")
    for line in todo:
        print_line(line)
    print_line(f"{'then' if todo else 'next'}: {command}")


def next_command(folder: Path) -> tuple[list[str], str]:
    """Say what has to be done by hand first, one thing a line, and the command that works then.

    Makes the folders of pictures that the project names and that are not there yet.
    """
    from usam_core.config.project import load_project, needed_extras
    from usam_core.config.yaml_source import read_yaml
    from usam_core.files.fsspec_io import is_url
    from usam_core.files.text import normalize_name
    from usam_core.sources.base import class_folder

    run = f"usam run {shlex.quote(str(folder))}"
    values, _ = read_yaml(folder / PROJECT_FILE)
    if values["training"]["source"] == "folder":
        pictures = folder / values["training"]["path"]
        if not pictures.exists():
            pictures.mkdir(parents=True)
    project = load_project(folder / PROJECT_FILE)
    todo = [text for extra, by in needed_extras(project) if (text := complaint(extra, by))]
    images = project.images.root
    if project.images.names is None and not is_url(images) and not count_images(Path(images)):
        images = os.path.normpath(images)
        todo.append(f"put the images that are to be labelled into {images}: there are none yet")
    place = project.training_path
    if project.config.training.source != "folder" or place is None or not place.is_dir():
        return todo, run
    place = Path(os.path.normpath(place))
    there = {normalize_name(one.name): one for one in place.iterdir() if one.is_dir()}
    empty = []
    for spec in project.config.classes:
        words = map(normalize_name, (spec.name, *spec.synonyms))
        own = next((there[word] for word in words if word in there), None)
        if own is None and folder.absolute() in place.parents:
            own = place / class_folder(spec.name)
            own.mkdir()
        if own is None or not any(own.iterdir()):
            empty.append(spec.name)
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (" ..." if len(empty) > _SHOWN else "")
        which = f"{place}/NAME, for NAME in: {shown}" if len(empty) > 1 else place / empty[0]
        todo.append(f"put some tens of pictures, one object in each, into {which}")
    return todo, run


def _ask(choices: Choices, *, ask_folder: bool, force: bool) -> None:
    """Ask for what a project needs, and check each answer before the next question."""
    from usam_core.config.images import LIST_ENDINGS
    from usam_core.config.template import check_new
    from usam_core.files.fsspec_io import is_url

    print_line("A new project, in a few questions; Enter takes what stands in brackets.")
    if ask_folder:

        def new(text: str) -> Path:
            check_new(Path(text), force)
            return Path(text)

        choices.folder = _asked("Folder of the new project", new, _FOLDER)
    choices.classes = _asked(
        f"Class names, with commas between them, or {_OF_FOLDERS}: as those of the pictures",
        lambda text: [] if text == _OF_FOLDERS else _names(text),
        _OF_FOLDERS,
    )

    def images(text: str) -> str:
        path = Path(text).expanduser()
        if is_url(text):
            return text
        if path.is_dir():
            count = count_images(path)
            print_line(f"  {count:,} images" if count else "  no images there yet")
        elif not (path.is_file() and path.suffix.lower() in LIST_ENDINGS):
            raise InputError(
                f"{text}: expected a folder, a URL, or a list ending in {', '.join(LIST_ENDINGS)}"
            )
        return str(path)

    def pictures(text: str) -> None:
        choices.source, choices.training = "folder", None
        if text in ("web", "synthetic"):
            choices.source = text
        elif text != "none":
            folder = Path(text).expanduser()
            if not folder.is_dir():
                raise InputError(f"{text}: expected a folder that exists, web, synthetic or none")
            choices.training = folder

    choices.images = _asked("Images to be labelled (folder, URL, or a list of them)", images)
    _asked(
        "Training pictures: a folder with one folder a class, or web, synthetic, none",
        pictures,
        "none",
    )
    if choices.source == "web":
        choices.contact = _asked("Your e-mail address or page, which a crawl shows", _some)
    if not choices.classes:
        found = _class_folders(choices.training) if choices.training else []
        choices.classes = _asked("Class names, with commas between them", _names, ", ".join(found))
    gpu = shutil.which("nvidia-smi") is not None
    print_line(f"  {'a GPU' if gpu else 'no NVIDIA GPU'} and {os.cpu_count()} cores here")
    print_line("  nano: bundled, for a first look on any machine; other names are downloaded")
    print_line("  auto: the recipe, a SAM with encoders, that fits here (docs/recipes.md)")
    chosen = _asked("Which SAM or recipe", _model, "auto" if gpu else "nano")
    choices.sam, choices.recipe = ("nano", chosen) if chosen in _RECIPES else (chosen, None)


def _asked(question: str, take: Callable[[str], _Answer], default: str = "") -> _Answer:
    """Ask until `take` has no objection to an answer; return what it makes of that."""
    while True:
        text = typer.prompt(question, default=default or None).strip()
        try:
            return take(text)
        except InputError as error:
            print_line(f"  {error}")


def _some(text: str) -> str:
    if not text:
        raise InputError("expected an answer")
    return text


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise InputError("expected at least one name, such as: nucleus, debris")
    twice = {name for name in names if [n.lower() for n in names].count(name.lower()) > 1}
    if twice:
        raise InputError(f"{sorted(twice)[0]!r} stands there twice")
    return names


def _model(text: str) -> str:
    known: Sequence[str] = (*get_args(SamName), *_RECIPES)
    if text not in known:
        raise InputError(f"{text}: expected one of {', '.join(known)}")
    return text


def _class_folders(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")


def count_images(folder: Path) -> int:
    """Count the images of a folder as they will be listed; none is opened."""
    from usam_core.config.images import ImagesConfig
    from usam_core.images.listing.walk import EVERY_FILE, find_images

    config = ImagesConfig(path=str(folder))
    return sum(1 for _ in find_images(config, folder, EVERY_FILE, Counter()))
