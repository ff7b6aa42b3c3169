"""The page of a review: masks one at a time or in a grid, decided on or drawn anew."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from usam_core.labels.label_map import LabelMap
from usam_core.review.drawing import (
    drawn_on,
    from_runs,
    grid_hw,
    on_grid,
    part_of,
    reduced,
    rims,
    thumbnail,
    to_runs,
    window,
)
from usam_core.review.sampling import Item
from usam_core.review.session import Session
from usam_core.review.web import (
    Id,
    Label,
    Part,
    Runs,
    Shown,
    box_of,
    guarded_app,
    image_routes,
    page_routes,
)
from usam_core.sam.prompt import Prompter

_GREY = (128, 128, 128)
"""Of a class that the review does not know."""


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Decided(_Said):
    """A decision from the page: masks and their class name, null for "rejected"."""

    items: Annotated[list[Id], Field(min_length=1, max_length=10_000)]
    label: Label | None


class Drawn(_Said):
    """Outlines from the page: of a mask, whose pieces they are, or of a new object."""

    image: Id
    item: Id | None = None
    part: Part
    pieces: Annotated[list[Runs], Field(min_length=1, max_length=100)]
    label: Label


class Merged(_Said):
    """Masks of one image that are one object."""

    items: Annotated[list[Id], Field(min_length=2, max_length=100)]


def make_app(
    session: Session,
    token: str,
    title: str,
    colors: np.ndarray,
    images: Shown,
    learned: bool = False,
    prompter: Prompter | None = None,
    following: str = "usam run",
) -> FastAPI:
    """The application; every address begins with the token.

    Args:
        session: the review.
        token: requests without it are refused.
        title: the project's name.
        colors: uint8 (c + 1, 3), of background and of each class.
        images: the project's images, by their digests.
        learned: the head has learned from decisions, which the page then says.
        prompter: answers clicks; None leaves brush and eraser.
        following: the command that uses what was decided.
    """
    hexes = ["#" + bytes(color).hex() for color in colors[1:]]
    routes = APIRouter()

    def color_of(item: Item) -> tuple[int, ...]:
        name = session.shown_name(item)
        if name not in session.classes:
            return _GREY
        return tuple(colors[LabelMap.id_of(session.classes.index(name))].tolist())

    def told(items: list[Item]) -> dict[str, Any]:
        return {
            "changed": [item.to_json() for item in items if item.id in session.items],
            "gone": [item.id for item in items if item.id not in session.items],
            **session.numbers(),
        }

    @routes.get("/api/state")
    def state() -> dict[str, Any]:
        return {**session.state(), "colours": hexes}

    @routes.get("/api/items/{item_id}")
    def item(item_id: str) -> dict[str, Any]:
        return _description(session.item(item_id), session)

    @routes.get("/api/items/{item_id}/outline")
    def outline(item_id: str, box: str) -> dict[str, Any]:
        one = session.item(item_id)
        part = box_of(images, one.sha256, box)
        return {"runs": to_runs(on_grid(one.outline, part)), "grid": grid_hw(part)}

    @routes.get("/api/items/{item_id}/thumbnail")
    def small(item_id: str) -> Response:
        one = session.item(item_id)
        size_hw = images.size_hw(one.sha256)
        box = part_of(window(one.bbox, size_hw), size_hw)
        rgb = reduced(images.part(one.sha256, box), box)
        picture = thumbnail(rgb, on_grid(one.outline, box), color_of(one))
        return Response(picture, media_type="image/jpeg")

    @routes.get("/api/images/{image}/others")
    def others(image: str, box: str, but: str = "") -> Response:
        part = box_of(images, image, box)
        shown = [one for one in session.of_image(image) if one.id != but and one.stands]
        masks = [on_grid(one.outline, part) for one in shown]
        named = [color_of(one) for one in shown]
        return Response(rims(masks, named, grid_hw(part)), media_type="image/png")

    @routes.get("/api/images/{image}/at")
    def at(image: str, x: int, y: int) -> dict[str, Any]:
        found = session.at(image, x, y)
        return {"items": [one.to_json() for one in found]}

    @routes.post("/api/decisions")
    def decide(said: Decided) -> dict[str, Any]:
        return told(session.decide(said.items, said.label))

    @routes.post("/api/drawn")
    def draw(said: Drawn) -> dict[str, Any]:
        size_hw = images.size_hw(said.image)
        part = part_of(said.part, size_hw)
        grids = [from_runs(runs, grid_hw(part)) for runs in said.pieces]
        before = None if said.item is None else session.item(said.item).outline
        # What lies beyond the part belongs to the first piece.
        pieces = [
            drawn_on(None if number else before, grid, part, size_hw)
            for number, grid in enumerate(grids)
        ]
        return told(session.draw(said.image, said.item, pieces, said.label))

    @routes.post("/api/merged")
    def merge(said: Merged) -> dict[str, Any]:
        return told(session.merge(said.items))

    @routes.post("/api/undo")
    def undo() -> dict[str, Any]:
        undone = session.undo()
        return {**told(undone), "undone": [one.id for one in undone]}

    whole = page_routes("review.html", title=title, learned=learned, following=following)
    for more in (routes, image_routes(images, prompter)):
        whole.include_router(more)
    return guarded_app("usam review", token, whole)


def _description(item: Item, session: Session) -> dict[str, Any]:
    one = item.instance
    size_hw = tuple(one.rle["size"])
    return {
        **item.to_json(),
        "runner_up": None if one.runner_up is None else session.classes[one.runner_up],
        "probability": one.probability,
        "disagreement": item.doubt.get("disagreement"),
        "size": size_hw,
        "part": window(item.bbox, size_hw),
    }
