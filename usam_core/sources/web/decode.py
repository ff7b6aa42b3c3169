"""From bytes of a stranger to a plain picture file of our own."""

import hashlib
import io
import threading
from pathlib import Path

from PIL import Image

from usam_core.files.atomic import scratch_file, whole_file
from usam_core.images.read import UnusableImage, check_image, read_image
from usam_core.sources.web.failures import FetchFailed
from usam_core.sources.web.journal import Verdict
from usam_core.sources.web.session import Answer

JPEG_QUALITY = 95

_PNG = b"\x89PNG\r\n\x1a\n"
_UNNAMED_TYPES = {"", "application/octet-stream", "binary/octet-stream", "application/binary"}

_one_at_a_time = threading.Lock()


def check_type(content_type: str) -> None:
    """Refuse an answer that calls itself something else than a picture.

    Its bytes could be one all the same, but such a server shows another thing to people than to
    programs, most often an error page.

    Raises:
        FetchFailed: the content type is given and is not that of a picture.
    """
    if not content_type.startswith("image/") and content_type not in _UNNAMED_TYPES:
        raise FetchFailed(
            "wrong_type", f"the server calls it {content_type!r}; expected a picture (image/...)"
        )


def keep(answer: Answer, folder: Path, max_megapixels: float) -> Verdict:
    """Write the picture that an answer holds as an RGB file of its own, named by content.

    Only pixels go over: metadata, and whatever else the bytes may also be, stay behind.

    Args:
        answer: what came.
        folder: where the file goes.
        max_megapixels: a larger picture is refused from its header.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The bytes as they came never have an ending that anything would open.
    with scratch_file(folder / "original") as original:
        original.write_bytes(answer.body)
        try:
            # One picture at a time: the memory for pixels does not grow with the threads.
            with _one_at_a_time:
                check_image(original, max_megapixels)
                picture = Image.fromarray(read_image(original, max_megapixels=max_megapixels).rgb)
        except UnusableImage as error:
            said = str(error).replace("images.max_megapixels", "training.web.max_megapixels")
            return Verdict(error.quarantined.code, said.replace(str(original), answer.url))
    content = io.BytesIO()
    if answer.body.startswith(_PNG):
        ending = "png"
        picture.save(content, format="PNG")
    else:
        ending = "jpg"
        picture.save(content, format="JPEG", quality=JPEG_QUALITY)
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    file = folder / f"{sha256[:16]}.{ending}"
    with whole_file(file) as path:
        path.write_bytes(content.getvalue())
    return Verdict(
        picture={
            "file": file.name,
            "sha256": sha256,
            "bytes": len(content.getvalue()),
            "final_url": answer.url,
            "content_type": answer.content_type or None,
            "original_sha256": hashlib.sha256(answer.body).hexdigest(),
            "original_bytes": len(answer.body),
        }
    )
