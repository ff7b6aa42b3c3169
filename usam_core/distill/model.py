"""The student: torchvision's LR-ASPP on a MobileNetV3, its files, and its ONNX form."""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from usam_core.errors import InputError, StoreError
from usam_core.files.atomic import whole_file

ARCHITECTURE = "torchvision lraspp_mobilenet_v3_large"
INPUT, OUTPUT = "rgb", "scores"
"""Names in the ONNX file."""
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torchvision's weights expect; with random ones any would do."""
_OPSET = 18
_MOMENTUM = 0.1
"""Of batch statistics; torchvision's 0.01 is for ImageNet's hundreds of thousands of steps."""


class Student(nn.Module):
    """Pictures to the probability of each label, pixel by pixel.

    Args:
        labels: number of outputs: background and the classes.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.net = lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=labels
        )
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = _MOMENTUM
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1), persistent=False)

    def logits(self, rgb: Tensor) -> Tensor:
        """Logits, float (n, c + 1, h, w), of pictures, float (n, 3, h, w), 0 to 1."""
        mean, deviation = cast(Tensor, self.mean), cast(Tensor, self.deviation)
        return cast(Tensor, self.net((rgb - mean) / deviation)["out"])

    def forward(self, rgb: Tensor) -> Tensor:
        """Probabilities, float (n, c + 1, h, w), that are 1 in sum; as `logits` for the rest."""
        return self.logits(rgb).softmax(1)


def begin_with(student: Student, file: Path) -> None:
    """Begin with weights of a file: the whole model's, or a backbone's; other outputs stay random.

    Args:
        file: `.safetensors`, or what `torch.save` wrote of a state dict, such as torchvision's own
            `lraspp_mobilenet_v3_large-*.pth` or `mobilenet_v3_large-*.pth`.

    Raises:
        InputError: it cannot be read, or fits neither.
    """
    try:
        read = load_file if file.suffix == ".safetensors" else _load_pickle
        given: dict[str, Tensor] = read(file)
        given = {name.removeprefix("net."): value for name, value in given.items()}
    except Exception as error:  # readers raise anything on damaged bytes
        raise InputError(
            f"distill.weights: {file} cannot be read ({error!r}); expected a state dict, "
            ".safetensors or .pth"
        ) from error
    own = student.net.state_dict()
    # A classifier of ImageNet has its layers under `features`.
    named = {name.replace("features.", "backbone.", 1): value for name, value in given.items()}
    fitting = {
        name: value
        for name, value in named.items()
        if name in own and own[name].shape == value.shape
    }
    lacking = [n for n in own if n.startswith("backbone.") and n not in fitting]
    if lacking:
        raise InputError(
            f"distill.weights: {file} lacks {len(lacking)} of the backbone's parts, such as "
            f"{lacking[0]}; expected weights of {ARCHITECTURE} or of mobilenet_v3_large"
        )
    student.net.load_state_dict({**own, **fitting})


def _load_pickle(file: Path) -> dict[str, Tensor]:
    return cast(dict[str, Tensor], torch.load(file, map_location="cpu", weights_only=True))


def save_student(path: Path, student: Student) -> Path:
    """Write the weights as safetensors."""
    with whole_file(path) as temporary:
        state = {name: value.contiguous() for name, value in student.state_dict().items()}
        temporary.write_bytes(save(state))
    return path


def load_student(path: Path) -> tuple[Student, dict[str, Any]]:
    """Read a student in evaluation mode, and its card, `student.json` beside it.

    Raises:
        StoreError: one of them is missing or damaged, or they do not belong together.
    """
    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        student = Student(len(card["labels"]))
        student.load_state_dict(load_file(path))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{path}: cannot read the student or its card ({error!r}); run `usam distill` again"
        ) from error
    return student.eval(), card


def fit_side(rgb: np.ndarray, side: int) -> Tensor:
    """A picture as the student sees it: float (3, h, w), 0 to 1, its longer side of `side` pixels.

    `rgb` is uint8 (h, w, 3).
    """
    picture = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float() / 255
    h, w = (max(1, round(n * side / max(rgb.shape[:2]))) for n in rgb.shape[:2])
    seen = functional.interpolate(
        picture, size=(h, w), mode="bilinear", align_corners=False, antialias=True
    )
    return seen[0]


def predict(student: Student, rgb: np.ndarray, side: int) -> np.ndarray:
    """Label map, uint8 or uint16 (h, w), of a picture, uint8 (h, w, 3)."""
    device = next(student.parameters()).device
    with torch.inference_mode():
        scores = student(fit_side(rgb, side)[None].to(device))
        full = functional.interpolate(
            scores, size=rgb.shape[:2], mode="bilinear", align_corners=False
        )
        labels = full[0].argmax(0).cpu().numpy()
    return labels.astype(np.uint8 if full.shape[1] <= 256 else np.uint16)


def export_onnx(path: Path, student: Student, side: int) -> float:
    """Write the student as ONNX and compare; return the largest difference of a probability.

    Any number of pictures of any size go in; normalization is inside.

    Raises:
        StoreError: ONNX Runtime computes something else.
    """
    import onnxruntime

    free = torch.export.Dim.DYNAMIC
    student = student.cpu().eval()
    example = torch.zeros(2, 3, 96, 128)
    with whole_file(path) as temporary, _quietly():
        torch.onnx.export(
            student,
            (example,),
            temporary,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: free, 2: free, 3: free},),
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(temporary), options, providers=["CPUExecutionProvider"]
        )
        largest = 0.0
        for h, w in ((side, side), (side * 3 // 4 + 1, side)):
            rgb = torch.linspace(0, 1, 3 * h * w).view(1, 3, h, w)
            with torch.inference_mode():
                expected = student(rgb).numpy()
            (got,) = session.run(None, {INPUT: rgb.numpy()})
            largest = max(largest, float(np.abs(got - expected).max()))
        if not largest < 1e-3:
            raise StoreError(
                f"{path}: ONNX Runtime differs from torch by {largest:.3g} in a probability; "
                "expected below 0.001. Try other versions of torch and onnxruntime"
            )
    return largest


@contextlib.contextmanager
def _quietly() -> Any:
    """The exporter prints its stages, and warns of its own old parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
