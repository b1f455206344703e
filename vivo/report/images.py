"""Pictures inside the page: JPEG data URIs, small enough that a whole gallery can be mailed."""

import base64
import io
from pathlib import Path

from PIL import Image

from vivo.errors import UserError

# (longest side, JPEG quality): the first pair whose page fits the size limit is used.
SIZES = ((480, 82), (400, 78), (336, 72), (272, 64), (208, 55))


def jpeg_data_uri(path: Path, longest: int, quality: int) -> str:
    """The picture at `path`, no side longer than `longest`, as a `data:` URI."""
    try:
        with Image.open(path) as picture:
            # Fast for JPEG files: decode at a fraction of the size. A no-op for other formats.
            picture.draft("RGB", (longest, longest))
            small = picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: the report cannot read this picture ({error}); make the world again") from error
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
