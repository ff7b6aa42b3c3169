"""What the pages of `usam review` and `usam crop` share: the guard, views of images, SAM's answers.

Pages are served to this machine alone, and only to who has the token in the address. What a web
page from elsewhere can make a browser send is refused: another host's name that was made to point
here, another page's origin.
"""

import hmac
import socket
import time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from usam_core.errors import InputError, UserError
from usam_core.images.read import UnusableImage
from usam_core.images.ref import Box
from usam_core.review.drawing import from_runs, grid_hw, part_of, photograph, reduced, to_runs
from usam_core.sam.prompt import Click, Prompter, Prompts

HOST = "127.0.0.1"
PAGE = "page"
_STATIC = ("page.css", "review.js", "crop.js", "canvas.js", "common.js")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Nothing from elsewhere is loaded, and the address with its token goes nowhere."""

Id = Annotated[str, StringConstraints(max_length=64)]
Label = Annotated[str, StringConstraints(max_length=200)]
Part = Annotated[list[int], Field(min_length=4, max_length=4)]
"""Left, top, right, bottom, pixels of the image."""
Runs = Annotated[list[int], Field(max_length=1_100_000)]


class Shown(Protocol):
    """The images that pages show, by their content keys."""

    def size_hw(self, image: str) -> tuple[int, int]:
        """Rows and columns of an image."""
        ...

    def part(self, image: str, box: Box) -> np.ndarray:
        """The pixels of a part, uint8, at its own size or at that of its grid."""
        ...


class Asked(BaseModel):
    """What a person shows of an object: clicks (x, y, 1 or 0) and boxes in cells of the grid."""

    model_config = ConfigDict(extra="forbid")
    image: Id
    part: Part
    clicks: Annotated[list[tuple[float, float, bool]], Field(max_length=100)] = []
    box: tuple[float, float, float, float] | None = None
    start: Runs | None = None
    size: Annotated[int, Field(ge=0, le=3)] = 0


def guarded_app(name: str, token: str, routes: APIRouter) -> FastAPI:
    """An application of `routes`, below an address that begins with the token."""
    app = FastAPI(title=name, docs_url=None, redoc_url=None, openapi_url=None)

    def known(token_given: str) -> None:
        if not hmac.compare_digest(token_given.encode(), token.encode()):
            raise HTTPException(403, f"the address lacks the token; open the one `{name}` says")

    @app.exception_handler(InputError)
    def wrong(_: Request, error: InputError) -> JSONResponse:
        gone = isinstance(error, UnusableImage)
        return JSONResponse({"detail": str(error)}, status_code=410 if gone else 422)

    @app.middleware("http")
    async def guarded(request: Request, answer: Any) -> Response:
        own = f"http://{request.headers.get('host', '')}"
        if any(origin != own for origin in request.headers.getlist("origin")):
            response: Response = JSONResponse({"detail": "expected this page's own origin"}, 403)
        else:
            response = await answer(request)
        response.headers.update(_HEADERS)
        return response

    app.include_router(routes, prefix="/{token_given}", dependencies=[Depends(known)])
    # A foreign page whose name was made to point here still says its own name.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return app


def page_routes(template: str, **values: Any) -> APIRouter:
    """Routes of a page and of what it is made of."""
    routes = APIRouter()
    pages = Environment(loader=PackageLoader(__package__, PAGE), autoescape=True)

    @routes.get("/", response_class=HTMLResponse)
    def whole_page() -> str:
        return pages.get_template(template).render(**values)

    @routes.get("/static/{name}")
    def static(name: str) -> FileResponse:
        if name not in _STATIC:
            raise HTTPException(404, f"{name!r}: expected one of {list(_STATIC)}")
        return FileResponse(Path(str(resources.files(__package__) / PAGE / "static" / name)))

    return routes


def image_routes(images: Shown, prompter: Prompter | None) -> APIRouter:
    """Routes that show parts of images, and answer prompts on them."""
    routes = APIRouter()

    def pixels(image: str, box: Box) -> np.ndarray:
        return reduced(images.part(image, box), box)

    @routes.get("/api/images/{image}/part")
    def part(image: str, box: str) -> Response:
        return Response(
            photograph(pixels(image, box_of(images, image, box))), media_type="image/jpeg"
        )

    @routes.get("/api/images/{image}/size")
    def size(image: str) -> dict[str, Any]:
        return {"size": images.size_hw(image)}

    @routes.post("/api/prepare")
    def prepare(asked: Asked) -> dict[str, Any]:
        box = part_of(asked.part, images.size_hw(asked.image))
        _needed(prompter).prepare((asked.image, box), lambda: pixels(asked.image, box))
        return {"ready": True}

    @routes.post("/api/prompt")
    def prompt(asked: Asked) -> dict[str, Any]:
        box = part_of(asked.part, images.size_hw(asked.image))
        start = None if asked.start is None else from_runs(asked.start, grid_hw(box))
        clicks = [Click(*click) for click in asked.clicks]
        prompts = Prompts(clicks, asked.box, start, asked.size)
        began = time.perf_counter()
        mask = _needed(prompter).answer(
            (asked.image, box), lambda: pixels(asked.image, box), prompts
        )
        return {"runs": to_runs(mask), "seconds": time.perf_counter() - began}

    return routes


def _needed(prompter: Prompter | None) -> Prompter:
    if prompter is None:
        raise InputError("SAM is not loaded here: expected `usam review` of a project")
    return prompter


def box_of(images: Shown, image: str, text: str) -> Box:
    """The part of an image that an address names: `left,top,right,bottom`.

    Raises:
        InputError: there is no such part.
    """
    numbers = [int(word) for word in text.split(",") if word.isascii() and word.isdigit()]
    if len(numbers) != len(text.split(",")) or len(numbers) != 4:
        raise InputError(f"box {text[:80]!r}: expected left,top,right,bottom")
    return part_of(numbers, images.size_hw(image))


def listen(port: int, command: str = "usam review") -> socket.socket:
    """A socket on 127.0.0.1; port 0 takes any free one.

    Raises:
        UserError: the port is taken.
    """
    # The protocol by its number: only then asyncio sends each answer at once (TCP_NODELAY), where
    # the kernel else waits some 40 ms for the browser's acknowledgement of the head.
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} of {HOST} cannot be had ({error.strerror}); choose another: "
            f"`{command} PROJECT --port 0` takes any free one"
        ) from None
    return listening


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serve until the process is interrupted."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])
