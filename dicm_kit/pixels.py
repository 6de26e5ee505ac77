"""Picture bytes from strangers -> RGB pixels, or a reason why not. Only JPEG, PNG and WebP are ever opened."""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 32 * 2**20
"""Largest picture file that is looked at."""
MAX_PIXELS = 64 * 10**6
"""Most pixels (width x height) that are decoded: 192 MB as RGB."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_CUT = "the file is cut"
_ENDS = {"jpg": b"\xff\xd9", "png": b"IEND"}
"""What a whole file of the kind has; compressed pixels cannot hold it, but by chance in a PNG."""
_PNG_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


class PictureRejected(ImageError):  # noqa: N818 - it says what became of the picture
    """A picture that cannot be used; `reason` is what `images/rejected.parquet` lists."""

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(f"picture refused: {reason}")


def extension(data: bytes) -> str | None:
    """Returns "jpg", "png" or "webp" by the first bytes; None for anything else, whatever its name said."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == _PNG_MAGIC:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def check_picture(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> str | None:
    """Returns why a picture cannot be used, or None when it decodes to the last row."""
    try:
        decode(data, max_bytes=max_bytes, max_pixels=max_pixels)
    except PictureRejected as error:
        return error.reason
    return None


def decode(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> "Image":
    """Returns the picture as RGB: alpha on white, the first frame of an animation, 16 bits cut to 8.

    Raises PictureRejected. The size is read from the header: a picture of 50,000 x 50,000 pixels costs nothing.
    """
    if not data:
        raise PictureRejected("empty file")
    if len(data) > max_bytes:
        raise PictureRejected(f"{len(data):,} bytes, more than the {max_bytes:,} allowed")
    kind = extension(data)
    if kind is None:
        raise PictureRejected("not a JPEG, PNG or WebP file")
    try:
        return _decode(data, kind, max_pixels)
    except PictureRejected:
        raise
    except Exception as error:  # a decoder fed with hostile bytes may raise whatever it likes; none may stop a run
        raise PictureRejected(f"broken {kind}: {_what_is_wrong(data, kind, error)}") from error


def _decode(data: bytes, kind: str, max_pixels: int) -> "Image":
    if kind == "webp":
        _check_size(_webp_size(data), max_pixels)  # before the decoder, which takes memory for its canvas at once
    image = _open(data, kind)
    _check_size(image.size, max_pixels)
    image.load()
    return _rgb(image)


def _open(data: bytes, kind: str) -> "Image":
    # The plugins' classes and not Image.open: that tries more formats, and warns of big pictures in its own way.
    if kind == "jpg":
        from PIL.JpegImagePlugin import JpegImageFile

        class Jpeg(JpegImageFile):
            def getexif(self):  # type: ignore[no-untyped-def]
                raise KeyError("not wanted: it is only read for its dpi, and warns of broken tags")

        return Jpeg(BytesIO(data))
    if kind == "png":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(BytesIO(_bare_png(data)))
    from PIL.WebPImagePlugin import WebPImageFile

    return WebPImageFile(BytesIO(data))


def _what_is_wrong(data: bytes, kind: str, error: Exception) -> str:
    if int.from_bytes(data[4:8], "little") + 8 > len(data) if kind == "webp" else _ENDS[kind] not in data:
        return _CUT
    is_pillows = isinstance(error, OSError | SyntaxError) and error.__cause__ is None
    # else Python met bytes that Pillow did not expect; its words say nothing of the picture
    return f"cannot be decoded ({error})" if is_pillows and str(error) else "cannot be decoded"


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureRejected(f"{width:,} x {height:,} pixels, more than the {max_pixels:,} allowed")


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if len(data) < 30:
        raise PictureRejected(f"broken webp: {_CUT}")
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise PictureRejected("broken webp: unknown kind of file")


def _bare_png(data: bytes) -> bytes:
    """Returns the PNG without comments, profiles and animation: less to go wrong, and nothing to warn of."""
    kept, position = [_PNG_MAGIC], len(_PNG_MAGIC)
    while position + 8 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in _PNG_CHUNKS:
            kept.append(data[position:end])
        position = end
    if position > len(data):
        raise PictureRejected(f"broken png: {_CUT}")
    return b"".join(kept)


def _rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16 bit grey, which Pillow's convert would clip at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
