"""Pictures from strangers: what is read, and what is refused at what cost."""

import struct
import time
import zlib

import numpy as np
import pytest
from pictures import encoded, image
from PIL import Image

from dicm_kit.pixels import PictureRejected, check_picture, decode, extension


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(image(0)))
    start = data.index(b"\xff\xc0")  # start of frame: marker, length, bits, height, width
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_reads_the_three_formats(kind: str) -> None:
    data = encoded(image(1), kind)
    assert extension(data) == {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[kind]
    picture = decode(data)
    assert (picture.mode, picture.size) == ("RGB", (24, 16))
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(image(1))).mean() < 12
    assert check_picture(data) is None


@pytest.mark.parametrize("header", [png_header, jpeg_header, webp_header])
def test_fifty_thousand_pixels_square_are_refused_before_decoding(header) -> None:
    data = header(50_000, 50_000)
    start = time.process_time()
    assert check_picture(data) == "50,000 x 50,000 pixels, more than the 64,000,000 allowed"
    assert time.process_time() - start < 1  # decoding 2.5 thousand million pixels would take far longer


def test_pixels_between_pillows_own_limits_are_refused_without_its_warning() -> None:
    assert "pixels" in (check_picture(png_header(10_000, 10_000)) or "")
    assert "pixels" in (check_picture(png_header(15_000, 10_000)) or "")


def test_limits_can_be_set() -> None:
    data = encoded(image(2))
    assert check_picture(data, max_pixels=24 * 16) is None
    assert check_picture(data, max_pixels=24 * 16 - 1) == "24 x 16 pixels, more than the 383 allowed"
    assert check_picture(data, max_bytes=len(data) - 1) == f"{len(data)} bytes, more than the {len(data) - 1} allowed"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_refused(kind: str) -> None:
    data = encoded(image(3, (200, 150)), kind)
    assert check_picture(data[:5]) == (
        "broken jpg: the file is cut" if kind == "JPEG" else "not a JPEG, PNG or WebP file"
    )
    for cut in (5, 16, 40, len(data) // 4, len(data) // 2, len(data) - 60):
        assert cut == 5 or (check_picture(data[:cut]) or "").endswith(": the file is cut"), cut
        with pytest.raises(PictureRejected):
            decode(data[:cut])


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(50), b"<svg/>", b"\xff\xd8\xff", b"II*\0" + bytes(99), bytes(9)]
)
def test_other_bytes_are_refused(data: bytes) -> None:
    assert check_picture(data)


def test_garbled_bytes_never_end_in_another_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encoded(image(4), kind), dtype=np.uint8)
        for _ in range(60):
            data = whole.copy()
            places = rng.integers(0, len(data), 4)
            data[places] = rng.integers(0, 256, 4)
            reason = check_picture(data.tobytes())
            assert reason is None or reason


def test_a_broken_picture_says_what_a_person_can_read() -> None:
    png, jpeg = bytearray(png_header(8, 8)), bytearray(encoded(image(4)))
    png[20] = 99  # the width: its checksum no longer fits
    assert (
        check_picture(bytes(png)) == "broken png: cannot be decoded (broken PNG file (bad header checksum in b'IHDR'))"
    )
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 2 : start + 4] = struct.pack(">H", 3)  # the frame's length: what Python says of it helps nobody
    assert check_picture(bytes(jpeg)) == "broken jpg: cannot be decoded"


def test_every_mode_becomes_rgb() -> None:
    grey = Image.fromarray(np.full((4, 4), 200, dtype=np.uint8))
    deep = Image.fromarray(np.full((4, 4), 200 * 256 + 77, dtype=np.uint16))
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    palette = Image.new("RGB", (4, 4), (10, 20, 30)).quantize(4)
    expected = {
        "grey": (grey, {}, (200, 200, 200)),
        "16 bit": (deep, {}, (200, 200, 200)),
        "alpha": (see_through, {}, (255, 255, 255)),
        "half": (half, {}, (127, 127, 127)),
        "palette": (palette, {}, (10, 20, 30)),
        "palette with see-through entries": (palette, {"transparency": b"\0\0\0\0"}, (255, 255, 255)),
        "see-through colour": (Image.new("RGB", (4, 4), (1, 2, 3)), {"transparency": (1, 2, 3)}, (255, 255, 255)),
        "grey with alpha": (Image.new("LA", (4, 4), (9, 255)), {}, (9, 9, 9)),
        "one bit": (Image.new("1", (4, 4), 1), {}, (255, 255, 255)),
    }
    for name, (picture, options, colour) in expected.items():
        found = decode(encoded(picture, "PNG", **options))
        assert found.mode == "RGB"
        assert found.getpixel((2, 2)) == colour, name
    cmyk = decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=95))
    assert np.abs(np.array(cmyk.getpixel((1, 1))) - (255, 0, 0)).max() < 8


def test_broken_metadata_gives_no_warning() -> None:
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<HHHII", 3, 0x011A, 5, 1, 10**6) + bytes(20)
    assert check_picture(encoded(image(5), "JPEG", exif=exif)) is None
    data = png_header(1, 1)
    animation = b"acTL" + struct.pack(">II", 0, 0)
    broken = data[:33] + struct.pack(">I", 8) + animation + struct.pack(">I", zlib.crc32(animation)) + data[33:]
    assert check_picture(broken) is None
