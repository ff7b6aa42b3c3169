"""The names to be found: their colors, their training pictures, and scenes made of these.

Values that the papers give carry their section (docs/method.md); what the defaults rest on stands
in decisions 0006 (training pictures) and 0010 (composed scenes).
"""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from usam_core.config.base import (
    IN_QUOTES,
    Float,
    Fraction,
    Int,
    PlacedError,
    Section,
    TextForm,
    naming_class,
)
from usam_core.files.text import normalize_name

BACKGROUND = "background"
CLASSES, PARENTS = "classes", "parents"
_LEVEL_WORDS = (CLASSES, PARENTS, "file")  # the last is the flows', for what the file says
ClassName = Annotated[
    str,
    Field(min_length=1, max_length=80),
    TextForm(
        "a name without slashes and control characters: names are folders too",
        r"^[^/\\\x00-\x1f]*$",
    ),
]
Color = Annotated[str, TextForm("a colour as #rrggbb, in quotes", r"^#[0-9a-fA-F]{6}$")]


class ClassSpec(Section):
    """One class the user wants found."""

    name: ClassName
    """The name, as it appears in outputs. Also the folder name of its training pictures."""
    prompts: list[str] = []
    """Prompts for synthetic pictures; empty means "a photo of a {name}" (U-SAM, section 3.4)."""
    queries: list[str] = []
    """Search queries for web pictures; empty means the name itself."""
    text_prompts: list[str] = []
    """Sentences that stand for the class where names are compared with masks (`head.text`), `{c}`
    for its name and synonyms; empty takes `head.text_prompts`."""
    synonyms: list[str] = []
    """Other words for the same class: folders with these names count as this class too, and texts
    (`head.text`) use them."""
    color: Color | None = None
    """Colour in overlays, as "#rrggbb"; empty takes the VOC palette's next colour."""
    parent: ClassName | None = None
    """Name of the coarser class that this one belongs to; see `level`."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_text(cls, value: object) -> object:
        if not isinstance(value, dict | ClassSpec):
            raise ValueError(f"expected a name as text: {IN_QUOTES}")
        return value

    @field_validator("name", "parent")
    @classmethod
    def _name_can_be_used(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if value != value.strip():
            raise ValueError("expected a name without spaces at its ends")
        if value in (".", ".."):
            raise ValueError("expected another name: this one is a folder's")
        if normalize_name(value) == BACKGROUND:
            raise ValueError("expected another name: the background is what no class claims")
        if info.field_name == "parent" and value in _LEVEL_WORDS:
            raise ValueError(f"expected another name: as a level, {value!r} means something else")
        return unicodedata.normalize("NFC", value)


MAX_CLASSES = 2**15 - 1
"""Labels of truth have 16 bit and a sign: what is void there is no class's number."""


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds the labels 0 to c and, as its largest value, void."""
    return np.uint8 if classes < 255 else np.uint16


def voc_palette(colors: int = 256) -> np.ndarray:
    """Return the VOC palette, uint8 (colours, 3).

    The bits of an index are dealt in turn to red, green and blue, highest bit of the colour first.

    >>> voc_palette()[:3].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    index = np.arange(colors)
    palette = np.zeros((colors, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (index >> (3 * place + channel)) & 1
            palette[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return palette


def class_colors(classes: Sequence[str], chosen: Mapping[str, str | None]) -> np.ndarray:
    """Return the colour of background and of each class, uint8 (c + 1, 3): the user's `chosen` one
    as "#rrggbb", else the VOC palette's.
    """
    colors = voc_palette(len(classes) + 1)
    for color, name in zip(colors[1:], classes, strict=True):
        text = chosen.get(name)
        if text:
            color[:] = np.frombuffer(bytes.fromhex(text[1:]), np.uint8)
    return colors


Engine = Literal["bing", "google", "baidu", "urls", "sites"]
Bits = Annotated[Int, Field(ge=0, le=32)]


class RenderConfig(Section):
    """Drawn training pictures (the demo's source)."""

    per_class: Annotated[Int, Field(ge=1, le=10_000)] = 16
    """Pictures to draw for each class."""
    size: Annotated[Int, Field(ge=64, le=2048)] = 256
    """Side of a picture, pixels."""


class SyntheticConfig(Section):
    """Pictures generated from the names by a text-to-image model, through `diffusers`."""

    model: Annotated[str, Field(min_length=1)] = "CompVis/stable-diffusion-v1-4"
    """Hub id or local folder of any diffusers text-to-image pipeline (GranSAM, section 4.2)."""
    revision: str | None = None
    """Branch, tag or commit of the hub model; empty means its main branch."""
    per_class: Annotated[Int, Field(ge=1, le=100_000)] = 200
    """Pictures to make for each class (GranSAM, section 4.2)."""
    prompts: Annotated[
        list[str],
        Field(min_length=1),
        naming_class(
            "all classes would get the same pictures",
            "where the class name belongs, as in 'a photo of a {c}'",
        ),
    ] = ["a photo of a {c}"]
    """Templates used in turn; `{c}` is the class name. A class's own prompts replace them."""
    negative_prompt: str = ""
    """What the pictures should not show."""
    scheduler: str | None = None
    """Name of a diffusers scheduler class, such as DPMSolverMultistepScheduler; empty means the
    model's own."""
    steps: Annotated[Int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    guidance: Annotated[Float, Field(ge=0, le=50)] = 7.5
    """Classifier-free guidance scale."""
    size: Annotated[Int, Field(ge=8, le=4096, multiple_of=8)] = 512
    """Side of a picture, pixels."""
    batch_size: Annotated[Int, Field(ge=1, le=256)] = 4
    """Pictures made at a time; halves by itself when memory runs out."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision; `auto` is float16 on a GPU and float32 on the CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the model runs."""
    low_memory: Literal["auto", "off", "slicing", "offload"] = "auto"
    """`slicing` computes attention in slices, `offload` also keeps idle parts of the model in main
    memory; `auto` chooses by the GPU's free memory."""
    redraws: Annotated[Int, Field(ge=0, le=100)] = 3
    """How often a black or filtered picture is drawn again, each time with a next seed."""


class WebConfig(Section):
    """Pictures found on the web, through `icrawler`, politely."""

    contact: Annotated[str, Field(min_length=3)]
    """E-mail address or page that site owners can turn to; it becomes a part of the user agent."""
    engines: Annotated[list[Engine], Field(min_length=1)] = ["bing", "google", "baidu"]
    """Asked in this order until a class has enough pictures."""
    urls: Path | None = None
    """For `urls`: a CSV file with the columns class and url."""
    sites: dict[str, list[str]] = {}
    """For `sites`: pages to crawl from, by class name. Stays on their hosts, honours robots.txt."""
    engine_urls: dict[Literal["bing", "google", "baidu"], str] = {}
    """Other addresses of engines, such as a mirror inside an institute."""
    per_class: Annotated[Int, Field(ge=1, le=10_000)] = 45
    """Pictures wanted for each class (docs/method.md, step 1)."""
    max_pages: Annotated[Int, Field(ge=1)] = 200
    """Pages read of each site, and results asked of each engine and query in steps of a page."""
    requests_per_second: Annotated[Float, Field(gt=0, le=100)] = 2.0
    """Most requests a second to one host."""
    concurrency: Annotated[Int, Field(ge=1, le=64)] = 8
    """Most downloads at a time."""
    timeout: Annotated[Float, Field(gt=0)] = 20.0
    """Seconds for one answer, from the request to its last byte."""
    retries: Annotated[Int, Field(ge=0, le=10)] = 3
    """Further tries after 429, 5xx and broken connections, after growing, jittered waits."""
    max_file_mb: Annotated[Float, Field(gt=0)] = 20.0
    """A larger file is given up as soon as it is seen to be larger."""
    max_megapixels: Annotated[Float, Field(gt=0, le=1000)] = 50.0
    """A larger picture is dropped before it is decoded."""
    max_total_mb: Annotated[Float, Field(gt=0)] = 2000.0
    """Most bytes fetched for one class."""
    max_minutes: Annotated[Float, Field(gt=0)] = 30.0
    """Most time for one class."""
    allow_hosts: list[str] = []
    """Hosts that may be fetched from although their address is private, loopback or link-local;
    `name` or `name:port`."""


class FilterConfig(Section):
    """Which collected pictures teach; `null` switches a filter off. Drawn ones are all kept."""

    min_side: Annotated[Int, Field(ge=1)] | None = 64
    """Least length of the shorter side, pixels."""
    max_aspect: Annotated[Float, Field(ge=1)] | None = 4.0
    """Largest ratio of the longer side to the shorter."""
    min_contrast: Annotated[Float, Field(ge=0)] | None = 4.0
    """Least standard deviation of the grey values, of 255: black and near-uniform pictures go."""
    duplicate_bits: Bits | None = 4
    """Of two pictures of a class whose 64-bit perceptual hashes differ in at most so many bits,
    the first stays."""
    leak_bits: Bits | None = 4
    """The same against the images to be labelled, so that a crawl cannot bring the test set in."""
    outlier_deviations: Annotated[Float, Field(gt=0)] | None = None
    """A picture that looks less like its five most similar companions than the class's median by
    so many robust deviations shows something else."""


class TrainingConfig(Section):
    """Where single-object pictures of each class come from."""

    source: Literal["folder", "render", "synthetic", "web", "none"] = "folder"
    """`folder`: the user's own pictures; `synthetic`: made by Stable Diffusion; `web`: found by
    search engines; `render`: drawn simple shapes; `none`: no pictures, for `head.text: alone`."""
    path: Path | None = None
    """For `folder`: a folder with one sub-folder per class, or a CSV file with the columns class
    and path."""
    render: RenderConfig = RenderConfig()
    """Settings of `source: render`."""
    synthetic: SyntheticConfig = SyntheticConfig()
    """Settings of `source: synthetic`."""
    web: WebConfig | None = None
    """Settings of `source: web`."""
    filters: FilterConfig = FilterConfig()
    """Which pictures are kept."""
    min_per_class: Annotated[Int, Field(ge=1)] = 3
    """A class with fewer usable pictures stops the run."""


Backdrop = Literal["crop", "blurred", "texture", "negative"]


class ComposeConfig(Section):
    """Scenes with known truth: objects cut out by SAM's own masks, put on other backgrounds."""

    scenes: Annotated[Int, Field(ge=0, le=100_000)] = 0
    """Scenes that the head may learn from, for `head.composed` and `head.background`; 0 makes
    none. They cost SAM as much as so many images."""
    held_out_scenes: Annotated[Int, Field(ge=0, le=100_000)] | None = None
    """Scenes for calibration, made of pictures that the head never sees; 0 makes none, and holds
    no picture out. Empty: 60, but with fewer than 240 images and pictures only as many as
    calibration needs: 36 for two classes, 24 for four or more."""
    held_out: Annotated[Float, Field(gt=0, lt=1)] = 0.15
    """Share of each class's pictures that is held out; at least one of four or more."""
    objects: tuple[Annotated[Int, Field(ge=1)], Annotated[Int, Field(le=12)]] = (2, 4)
    """Fewest and most objects of a scene, all of different classes."""
    size: Annotated[Int, Field(ge=64, le=2048)] = 448
    """Longer side of a scene, pixels."""
    object_sides: tuple[Fraction, Fraction] = (0.3, 0.8)
    """Smallest and largest longer side of an object, as shares of the scene's shorter side."""
    min_visible: Annotated[Float, Field(gt=0, le=1)] = 0.5
    """So much of an object stays visible at least, whatever lies on top."""
    backgrounds: Annotated[list[Backdrop], Field(min_length=1)] = [
        "crop",
        "blurred",
        "texture",
        "negative",
    ]
    """What lies behind: a part of another training picture without its object, a whole one blurred,
    a drawn texture, a picture of one of the `negatives`. Chosen at random among those there are."""
    min_area: Fraction = 0.05
    """A cut-out object covers at least this share of its picture."""
    max_area: Fraction = 0.8
    """And at most this one."""
    min_center: Fraction = 0.2
    """It covers at least this share of the middle ninth of its picture."""
    max_border: Fraction = 0.25
    """And at most this share of the picture's border."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> "ComposeConfig":
        for key, (low, high) in {
            "objects": self.objects,
            "object_sides": self.object_sides,
            "min_area": (self.min_area, self.max_area),
        }.items():
            if low > high:
                raise PlacedError((key,), f"got {low:g}; expected at most {high:g}")
        return self
