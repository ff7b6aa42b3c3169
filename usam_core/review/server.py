"""The page of a review, served to this machine alone."""

import hmac
import io
import socket
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader
from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints
from scipy import ndimage

from usam_core.errors import InputError, UserError
from usam_core.images.read import UnusableImage
from usam_core.labels.label_map import LabelMap
from usam_core.review.session import Item, Session

HOST = "127.0.0.1"
PAGE = "page"
_STATIC = ("review.css", "review.js")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Nothing from elsewhere is loaded, and the address with its token goes nowhere."""

LONGEST = 1024
"""Longest side of a picture that is sent, pixels."""
_MARGIN = 0.75
"""Surroundings shown on each side of a mask, as a share of its longer side; but at least `_MIN`."""
_MIN = 32
_OPACITY = 90


class Said(BaseModel):
    """A decision from the page: a mask and its class name, null for "rejected"."""

    model_config = ConfigDict(extra="forbid")
    item: Annotated[str, StringConstraints(max_length=64)]
    label: Annotated[str, StringConstraints(max_length=200)] | None


def make_app(
    session: Session,
    token: str,
    title: str,
    colors: np.ndarray,
    picture: Callable[[Item], np.ndarray],
    learned: bool = False,
) -> FastAPI:
    """The application; every address begins with the token.

    Args:
        session: the review.
        token: requests without it are refused.
        title: the project's name.
        colors: uint8 (c + 1, 3), of background and of each class.
        picture: gives a mask's image, uint8 (h, w, 3).
        learned: the head has learned from decisions, which the page then says.
    """
    seen = lru_cache(maxsize=2)(lambda item_id: picture(session.item(item_id)))
    hexes = ["#" + bytes(color).hex() for color in colors[1:]]
    page = Environment(loader=PackageLoader(__package__, PAGE), autoescape=True)

    def known(token_given: str) -> None:
        if not hmac.compare_digest(token_given.encode(), token.encode()):
            raise HTTPException(403, "the address lacks the token; open the one `usam review` says")

    app = FastAPI(title="usam review", docs_url=None, redoc_url=None, openapi_url=None)
    routes = APIRouter(prefix="/{token_given}", dependencies=[Depends(known)])

    @routes.get("/", response_class=HTMLResponse)
    def whole_page() -> str:
        return page.get_template("page.html").render(title=title, learned=learned)

    @routes.get("/static/{name}")
    def static(name: str) -> FileResponse:
        if name not in _STATIC:
            raise HTTPException(404, f"{name!r}: expected one of {list(_STATIC)}")
        return FileResponse(Path(str(resources.files(__package__) / PAGE / "static" / name)))

    @routes.get("/api/state")
    def state() -> dict[str, Any]:
        return {**session.state(), "colours": hexes}

    @routes.get("/api/items/{item_id}")
    def item(item_id: str) -> dict[str, Any]:
        return _description(session.item(item_id), session)

    @routes.get("/api/items/{item_id}/image")
    def image(item_id: str, whole: bool = False) -> Response:
        rgb = seen(item_id)
        part = _part(session.item(item_id), whole)
        return Response(photograph(rgb, part), media_type="image/jpeg")

    @routes.get("/api/items/{item_id}/mask")
    def mask(item_id: str, whole: bool = False) -> Response:
        one = session.item(item_id)
        color = colors[LabelMap.id_of(session.classes.index(one.name))]
        layer = veil(one.instance.mask(), _part(one, whole), tuple(color.tolist()))
        return Response(layer, media_type="image/png")

    @routes.post("/api/decisions")
    def decide(said: Said) -> dict[str, Any]:
        session.decide(said.item, said.label)
        return state()

    @routes.post("/api/undo")
    def undo() -> dict[str, Any]:
        undone = session.undo()
        return {**state(), "undone": undone and undone.id}

    @app.exception_handler(InputError)
    def wrong(_: Request, error: InputError) -> JSONResponse:
        gone = isinstance(error, UnusableImage)
        return JSONResponse({"detail": str(error)}, status_code=410 if gone else 422)

    @app.middleware("http")
    async def guarded(request: Request, answer: Any) -> Response:
        response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    app.include_router(routes)
    # A foreign page whose name was made to point here still says its own name.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return app


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; port 0 takes any free one.

    Raises:
        UserError: the port is taken.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} of {HOST} cannot be had ({error.strerror}); choose another: "
            "`usam review PROJECT --port 0` takes any free one"
        ) from None
    return listening


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serve until the process is interrupted."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])


def _part(item: Item, whole: bool) -> tuple[int, int, int, int]:
    h, w = item.instance.rle["size"]
    return (0, 0, w, h) if whole else window(item.instance.bbox, (h, w))


def _description(item: Item, session: Session) -> dict[str, Any]:
    one, decision = item.instance, item.decision
    return {
        "id": item.id,
        "file_name": item.file_name,
        "name": item.name,
        "runner_up": None if one.runner_up is None else session.classes[one.runner_up],
        "score": one.score,
        "probability": one.probability,
        "entropy": one.entropy,
        "disagreement": item.doubt.get("disagreement"),
        "area": one.area,
        "verdict": decision and decision.verdict,
        "label": decision and decision.label,
    }


def window(box_xywh: tuple[float, ...], size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of an image that is shown around a mask.

    >>> window((10, 10, 40, 20), (100, 200))
    (0, 0, 82, 62)
    """
    left, top, width, height = box_xywh
    margin = max(_MIN, _MARGIN * max(width, height))
    bounds = (left - margin, top - margin, left + width + margin, top + height + margin)
    limits = (size_hw[1], size_hw[0]) * 2
    x0, y0, x1, y1 = (int(np.clip(b, 0, m)) for b, m in zip(bounds, limits, strict=True))
    return x0, y0, x1, y1


def photograph(rgb: np.ndarray, part: tuple[int, int, int, int]) -> bytes:
    """A part of an image, uint8 (h, w, 3), as JPEG, its longer side `LONGEST` pixels."""
    return _encoded(_sized(Image.fromarray(rgb).crop(part), Image.Resampling.LANCZOS), "JPEG")


def veil(mask: np.ndarray, part: tuple[int, int, int, int], color: tuple[int, ...]) -> bytes:
    """A mask, bool (h, w), in its class's color with a white and black rim; PNG, clear elsewhere.

    As large as the `photograph` of the same part.
    """
    grey = Image.fromarray(mask.astype(np.uint8) * 255).crop(part)
    inside = np.asarray(_sized(grey, Image.Resampling.BILINEAR)) >= 128
    layer = np.zeros((*inside.shape, 4), np.uint8)
    layer[inside] = (*color, _OPACITY)
    outer = ndimage.binary_dilation(inside, iterations=3) & ~inside
    layer[outer] = (0, 0, 0, 255)
    layer[ndimage.binary_dilation(inside, iterations=2) & ~inside] = (255, 255, 255, 255)
    return _encoded(Image.fromarray(layer), "PNG")


def _sized(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    scale = LONGEST / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), resampling)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind)
    return file.getvalue()
