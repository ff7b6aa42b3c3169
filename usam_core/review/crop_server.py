"""The page of `usam crop`: a person clicks objects in their own images and names them."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from usam_core.labels.label_map import LabelMap
from usam_core.review.crops import Crop, Crops
from usam_core.review.drawing import drawn_on, from_runs, grid_hw, on_grid, part_of, rims
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


class Cut(BaseModel):
    """An object from the page: its outline on the grid of a part, and its class name."""

    model_config = ConfigDict(extra="forbid")
    image: Id
    part: Part
    pieces: Annotated[list[Runs], Field(min_length=1, max_length=100)]
    label: Label


class Back(BaseModel):
    """A picture that is to go; null for the last one."""

    model_config = ConfigDict(extra="forbid")
    crop: Id | None = None


def make_app(
    crops: Crops,
    token: str,
    title: str,
    colors: np.ndarray,
    names: Mapping[str, str],
    images: Shown,
    prompter: Prompter,
    following: str,
    needed: int,
    more_images: int = 0,
) -> FastAPI:
    """The application; every address begins with the token.

    Args:
        crops: cuts the pictures.
        token: requests without it are refused.
        title: the project's name.
        colors: uint8 (c + 1, 3), of background and of each class.
        names: of the images that are offered, by their digests.
        images: those images, as they are shown.
        prompter: answers clicks.
        following: the command that uses the pictures.
        needed: pictures that a class needs at least.
        more_images: how many images are not offered.
    """
    routes = APIRouter()
    hexes = ["#" + bytes(color).hex() for color in colors[1:]]

    def told() -> dict[str, Any]:
        there = crops.crops()
        counts = Counter(one.label for one in there)
        return {
            "counts": {name: counts[name] for name in crops.classes},
            "crops": [_of_crop(one) for one in reversed(there[-200:])],
        }

    @routes.get("/api/state")
    def state() -> dict[str, Any]:
        listed = [{"image": key, "file_name": name} for key, name in names.items()]
        known = {"classes": crops.classes, "colours": hexes, "images": listed}
        return {**known, "needed": needed, "more_images": more_images, **told()}

    @routes.post("/api/crops")
    def cut(said: Cut) -> dict[str, Any]:
        size_hw = images.size_hw(said.image)
        part = part_of(said.part, size_hw)
        notes = []
        for runs in said.pieces:
            mask = drawn_on(None, from_runs(runs, grid_hw(part)), part, size_hw)
            _, note = crops.cut(
                said.image, said.label, mask, lambda box: images.part(said.image, box)
            )
            notes += [note] if note else []
        return {**told(), "note": " ".join(notes)}

    @routes.post("/api/back")
    def back(said: Back) -> dict[str, Any]:
        return {"gone": _of_crop(crops.take_back(said.crop)), **told()}

    @routes.get("/api/crops/{crop_id}")
    def picture(crop_id: str) -> FileResponse:
        found = next((one for one in crops.crops() if one.id == crop_id), None)
        if found is None:
            raise HTTPException(404, f"picture {crop_id!r}: not one of those that are there")
        return FileResponse(crops.file(found), media_type="image/png")

    @routes.get("/api/images/{image}/others")
    def others(image: str, box: str, but: str = "") -> Response:
        part = box_of(images, image, box)
        here = [one for one in crops.crops() if one.sha256 == image and one.label in crops.classes]
        masks = [on_grid(one.mask, part) for one in here]
        ids = [LabelMap.id_of(crops.classes.index(one.label)) for one in here]
        shown = [tuple(colors[one].tolist()) for one in ids]
        return Response(rims(masks, shown, grid_hw(part)), media_type="image/png")

    whole = page_routes("crop.html", title=title, following=following, needed=needed)
    for more in (routes, image_routes(images, prompter)):
        whole.include_router(more)
    return guarded_app("usam crop", token, whole)


def _of_crop(crop: Crop) -> dict[str, Any]:
    return {"id": crop.id, "image": crop.sha256, "label": crop.label, "file_name": crop.file_name}
