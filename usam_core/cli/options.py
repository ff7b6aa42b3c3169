"""Arguments and options that several commands share, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ProjectFile = Annotated[Path, typer.Argument(help="The project file, project.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the log.")]

Papers = Annotated[
    bool, typer.Option("--papers", help="The papers' mode: recipe: papers, nothing of ours.")
]
Level = Annotated[
    str | None,
    typer.Option(
        help="Label with `classes`, with their `parents`, or name one parent: its classes become "
        "one, the others stay."
    ),
]
LabelsLevel = Annotated[
    str | None,
    typer.Option(help="Take the labels of `classes`, of their `parents`, or of one parent."),
]
"""Of commands that make no labels but use those that are there."""

Only = Annotated[
    list[str] | None,
    typer.Option("--class", help="This class alone; may be given several times."),
]
Contact = Annotated[str | None, typer.Option(help="For the web: your e-mail address or page.")]
Names = Annotated[
    Literal["cleaned", "raw"],
    typer.Option(help="Of a preset: words that people use, or the data set's own."),
]
SamName = Literal["nano", "vit_b", "vit_l", "vit_h"]
