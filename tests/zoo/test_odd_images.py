"""What is odd and legal in an image file, and what is beside the picture: neither decides over what is seen."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from zoo.errors import ImageError
from zoo.images import decode as images
from zoo.images import fast_decode
from zoo.images import header as image_header
from zoo.images.inputs import encoded
from zoo.images.picture import Color
from zoo.runtime.predictor import read_headers


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(width: int = 40, height: int = 28) -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))


# --- EXIF -----------------------------------------------------------------------------------------------


def directory(*entries: tuple[int, int, int, bytes], order: str = "<", start: int = 8, after: int = 0) -> bytes:
    """One TIFF directory; an entry is (tag, type, count, 4 bytes)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", start)
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", after)


def turned(value: int = 6, kind: int = 3, count: int = 1) -> tuple[int, int, int, bytes]:
    return 0x0112, kind, count, struct.pack("<I", value)


# 6 would lay the picture on its side.
NO_ORIENTATION = {
    "cut off in its head": b"II*\0",
    "cut off behind its head": b"MM\0*\0\0\0",
    "cut off in its directory": directory(turned(), turned())[:30],
    "of another order": b"XX*\0" + directory(turned())[4:],
    "empty": b"",
    "elsewhere": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "of 0": directory(turned(0)),
    "of 9": directory(turned(9)),
    "of 65,535": directory(turned(65535)),
    "text": directory((0x0112, 2, 2, b"6\0\0\0")),
    "a long": directory(turned(kind=4)),
    "a byte": directory(turned(kind=1)),
    "two": directory(turned(count=2)),
    "endless": directory(turned(count=2**31)),
    "of an unknown type": directory(turned(kind=99)),
    "a float": directory((0x0112, 11, 1, struct.pack("<f", float("nan")))),
    "in the second directory": directory((0x0100, 3, 1, b"\0\0\0\0"), after=26) + directory(turned())[8:],
    "in a circle of directories": directory((0x0100, 3, 1, b"\0\0\0\0"), after=8),
    "a directory larger than its block": directory(turned())[:8] + b"\xff\xff" + directory(turned())[10:],
    # Each of 5,000 entries would be 60 kB more to copy.
    "one place 5,000 times": directory(*[(0x9000 + n, 7, 60_000, struct.pack("<I", 8)) for n in range(5000)]),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", NO_ORIENTATION)
def test_exif_data_that_is_not_as_it_should_be_is_as_if_there_were_none(name: str, kind: str) -> None:
    # Without a density in the JPEG's own header, Pillow would look for one in the EXIF data.
    for density in ({}, {"dpi": (72, 72)}) if kind == "JPEG" else ({},):
        plain = images.decode(file(photo(), kind, **density), "rgb")
        data = file(photo(), kind, exif=b"Exif\0\0" + NO_ORIENTATION[name], **density)
        assert np.array_equal(images.decode(data, "rgb"), plain)
        header = image_header.read(data)
        assert (header.color, header.size) == ("rgb", (28, 40))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_as_it_should_be_turns_the_picture(kind: str, order: str) -> None:
    entry = (0x0112, 3, 1, struct.pack(order + "HH", 6, 0))
    exif = b"Exif\0\0" + directory((0x010F, 2, 4, b"abc\0"), entry, order=order)
    plain = images.decode(file(photo(), kind), "rgb")
    assert np.array_equal(images.decode(file(photo(), kind, exif=exif), "rgb"), np.rot90(plain, -1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [*NO_ORIENTATION.values(), directory(turned())])
def test_an_image_that_pillow_opened_is_sent_as_its_file_is(exif: bytes, kind: str) -> None:
    density = {"dpi": (72, 72)} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = file(photo(), kind, exif=b"Exif\0\0" + exif, **density)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(images.decode(encoded(opened), "rgb"), images.decode(data, "rgb"))


def test_xmp_turns_nothing() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for kind in ("JPEG", "PNG", "WEBP"):
        plain = images.decode(file(photo(), kind), "rgb")
        assert np.array_equal(images.decode(file(photo(), kind, xmp=xmp), "rgb"), plain)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_broken_colour_profile_changes_nothing(kind: str) -> None:
    plain = images.decode(file(photo(), kind), "rgb")
    for profile in (b"\0", b"no profile" * 7, bytes(100_000)):
        assert np.array_equal(images.decode(file(photo(), kind, icc_profile=profile), "rgb"), plain)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"eXIf", b"acTL"])
@pytest.mark.parametrize("body", [b"", b"\xff" * 9, b"a\0\0" + zlib.compress(bytes(50_000_000))])
def test_chunks_beside_the_picture_change_nothing(kind: bytes, body: bytes) -> None:
    whole = file(photo(), "PNG")
    for checksum in (zlib.crc32(kind + body), 0):
        beside = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)
        assert np.array_equal(images.decode(whole[:33] + beside + whole[33:], "rgb"), np.asarray(photo()))


# --- transparency ---------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(levels: np.ndarray, depth: int, color: int, *before: bytes) -> bytes:
    """levels (height, width, channels) in the file's own depth, without filters."""
    height, width, _ = levels.shape
    bits = (levels[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    parts = chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_gray_level_is_white(depth: int) -> None:
    last = 2**depth - 1
    levels = np.array([[[0], [last], [1], [last // 2]]])
    for hidden in {0, 1, last // 2, last}:
        data = png(levels, depth, 0, chunk(b"tRNS", struct.pack(">H", hidden)))
        wanted = np.where(levels == hidden, 255, np.round(levels * 255 / last))
        assert images.decode(data, "gray").tolist() == wanted.tolist()
        assert images.decode(data, "rgb").tolist() == np.repeat(wanted, 3, axis=2).tolist()


def test_a_neighbour_of_the_transparent_16_bit_level_is_not() -> None:
    levels = np.array([[[9000], [9001], [8999], [9000 + 256]]])
    found = images.decode(png(levels, 16, 0, chunk(b"tRNS", struct.pack(">H", 9000))), "gray")
    assert found.ravel().tolist() == [255, 35, 35, 36]


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_is_white(depth: int) -> None:
    hidden = (9000 >> 16 - depth, 1, 2)
    levels = np.array([[hidden, (hidden[0] + 1, 1, 2), (hidden[0], 1, 3), (2, 1, hidden[0]), hidden]])
    data = png(levels, depth, 2, chunk(b"tRNS", struct.pack(">3H", *hidden)))
    wanted = levels >> depth - 8
    wanted[0, [0, 4]] = 255
    assert images.decode(data, "rgb").tolist() == wanted.tolist()


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparent_palette_colours_are_laid_over_white(depth: int) -> None:
    palette = chunk(b"PLTE", bytes([200, 100, 0, 10, 20, 30]))
    data = png(np.array([[[0], [1], [0]]]), depth, 3, palette, chunk(b"tRNS", bytes([51])))
    assert images.decode(data, "rgb").tolist() == [[[244, 224, 204], [10, 20, 30], [244, 224, 204]]]


@pytest.mark.parametrize(("color", "channels"), [(4, 2), (6, 4)])
def test_16_bit_alpha_is_laid_over_white(color: int, channels: int) -> None:
    levels = np.full((1, 3, channels), 100 * 257)
    levels[0, :, -1] = 0, 65535, 51 * 257
    assert images.decode(png(levels, 16, color), "gray").ravel().tolist() == [255, 100, 224]


def test_transparency_is_the_same_in_every_strip() -> None:
    """Large images are laid over white in parts."""
    alpha = np.random.default_rng(0).integers(0, 256, (700, 900), dtype=np.uint8)
    rgba = photo(900, 700).convert("RGBA")
    rgba.putalpha(Image.fromarray(alpha))
    whole = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    assert np.array_equal(images.decode(file(rgba, "PNG"), "rgb"), np.asarray(whole))


def test_a_damaged_transparent_colour_is_damage() -> None:
    for body in (b"\0", b"\0\1\0\2", b""):
        with pytest.raises(ImageError, match="tRNS chunk names no colour"):
            images.decode(png(np.zeros((1, 1, 1), int), 8, 0, chunk(b"tRNS", body)), "gray")


# --- large photos ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "shrunk"),
    [(4000, 4000, (4000, 4000)), (5712, 4284, (2142, 2856)), (4001, 4003, (2002, 2001)), (65_500, 300, (150, 32_750))],
)
@pytest.mark.parametrize("progressive", [False, True])
def test_large_jpegs_are_shrunk_while_they_are_decoded(
    width: int, height: int, shrunk: tuple[int, int], progressive: bool
) -> None:
    data = file(Image.new("L", (width, height), 77), "JPEG", progressive=progressive)
    header = image_header.read(data)
    assert (header.color, header.size) == ("gray", shrunk)
    assert fast_decode.decode(header) is None or shrunk == (height, width)
    pixels = images.decode(data, "gray")
    assert pixels.shape == (*shrunk, 1)
    assert (pixels == 77).all()
    assert images.decode(data, "gray", size=(32, 32)).shape == (32, 32, 1)


def test_a_photo_of_108_megapixels_is_read_upright() -> None:
    """Red above, blue below, lying on its side."""
    upright = Image.new("RGB", (9000, 12_000), "red")
    upright.paste("blue", (0, 6000, 9000, 12_000))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    header = image_header.read(data)
    assert (header.shrink, header.size) == (4, (3000, 2250))
    assert header.memory_bytes < 100 * 2**20
    red, blue = images.decode(data, "rgb", size=(96, 96))[[20, 76], 48].tolist()
    assert red[0] > 250 > 10 > max(red[1:])
    assert blue[2] > 250 > 10 > max(blue[:2])


def header_only(width: int, height: int, marker: int = 0xC0, sampling: int = 0x11) -> bytes:
    components = b"".join(bytes([number, sampling, 0]) for number in (1, 2, 3))
    frame = struct.pack(">HBHHB", 17, 8, height, width, 3) + components
    return b"\xff\xd8\xff" + bytes([marker]) + frame + b"\xff\xda\0\x0c\3" + bytes(9)


def test_what_cannot_be_shrunk_enough_is_refused_with_the_reason() -> None:
    with pytest.raises(ImageError, match="has 65535×65535 pixels; at most 16 megapixels are decoded, of a JPEG 256"):
        image_header.read(header_only(65_535, 65_535))
    with pytest.raises(ImageError, match=r"12000×9000 pixels in 1 scans.* 617 MiB .*save it as a baseline"):
        image_header.read(header_only(12_000, 9000, marker=0xC2))
    assert image_header.read(header_only(12_000, 9000)).shrink == 4


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_a_row_of_more_pixels_than_a_jpeg_can_have_is_refused(color: Color) -> None:
    data = file(Image.new("L", (70_000, 1)), "PNG")
    with pytest.raises(ImageError, match="of a side 65,535 pixels"):
        images.decode(data, color)


# --- formats for files of one's own ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "PPM"])
def test_other_formats_are_read_from_ones_own_files_only(kind: str) -> None:
    image = photo().quantize(16).convert("RGB")
    data = file(image, kind)
    assert np.array_equal(images.pixels(images.read(data), "rgb"), np.asarray(image))
    with pytest.raises(ImageError, match=f"no PNG, JPEG or WebP image but {kind}"):
        images.decode(data, "rgb")


def test_of_several_pictures_in_a_file_the_first_is_read() -> None:
    pictures = [photo().quantize(8), photo().rotate(180).quantize(8)]
    for kind in ("GIF", "TIFF"):
        data = file(pictures[0], kind, save_all=True, append_images=pictures[1:])
        assert np.array_equal(images.pixels(images.read(data), "rgb"), np.asarray(pictures[0].convert("RGB")))


def test_tiff_of_16_bits_and_on_its_side() -> None:
    wide = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))
    header = images.read(file(wide, "TIFF"))
    assert (header.color, images.pixels(header, "gray").ravel().tolist()) == ("gray", [0, 1, 255])
    header = images.read(file(photo(), "TIFF", tiffinfo={0x0112: 6}))
    assert header.size == (40, 28)
    assert np.array_equal(images.pixels(header, "rgb"), np.rot90(np.asarray(photo()), -1))


@pytest.mark.parametrize(
    ("data", "color", "levels"),
    [
        (b"P5\n3 1\n65535\n\0\0\1\1\xff\xff", "gray", [0, 1, 255]),
        (b"P5 # by a camera\n# of 2009\n2\t1 255\n\x07\x08", "gray", [7, 8]),
        (b"P4\n3 1\n\xa0", "gray", [0, 255, 0]),
        (b"P6\n1 1\n255\n\1\2\3", "rgb", [1, 2, 3]),
    ],
)
def test_ppm_and_its_kin(data: bytes, color: Color, levels: list[int]) -> None:
    header = images.read(data)
    assert (header.color, images.pixels(header, color).ravel().tolist()) == (color, levels)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"P3\n1 1\n255\n1 2 3\n", "no PNG.* image but PPM: save it as JPEG or PNG"),
        (b"P5\n" + b"#\n" * 10_000 + b"1 1 255\n\0", "no PNG.* image but PPM: save it as JPEG or PNG"),
        (b"P6\n1 1\n100\n\1\2\3", "neither 256 levels nor"),
        (b"P5\n9999 9999\n255\n\0", "9999×9999 pixels; at most 16 megapixels"),
    ],
)
def test_a_ppm_that_takes_long_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=why):
        images.read(data)


def test_a_transparent_gif_is_laid_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putdata([0, 1])
    data = file(image, "GIF", transparency=1)
    assert images.pixels(images.read(data), "rgb").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_avif_is_read_upright_where_pillow_has_it() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file(photo(), "AVIF", exif=exif, quality=100, subsampling="4:4:4")
    header = images.read(data)
    assert (header.format, header.size) == ("avif", (40, 28))
    found = images.pixels(header, "rgb").astype(int)
    assert np.abs(found - np.rot90(np.asarray(photo()), -1)).max() < 12
    with pytest.raises(ImageError, match="truncated or damaged"):
        images.pixels(images.read(data[:-100]), "rgb")
    start, broken = data.index(b"mdat") + 4, bytearray(data)
    broken[start : start + 40] = b"\xff" * 40
    with pytest.raises(ImageError, match="truncated or damaged"):
        images.pixels(images.read(bytes(broken)), "rgb")
    with pytest.raises(ImageError, match="no PNG, JPEG or WebP image but AVIF"):
        images.decode(data, "rgb")


def test_heic_is_read_where_its_plugin_is() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(photo()).save(buffer, quality=90)
    header = images.read(buffer.getvalue())
    assert (header.format, header.size) == ("heic", (28, 40))
    assert np.abs(images.pixels(header, "rgb").astype(int) - np.asarray(photo())).mean() < 12


def test_what_ones_own_files_cannot_be() -> None:
    with pytest.raises(ImageError, match=r"no PNG, JPEG, WebP, BMP, GIF.* image but JPEG XL"):
        images.read(b"\xff\x0a")
    with pytest.raises(ImageError, match="floating point pixels"):
        images.read(file(Image.new("F", (2, 2)), "TIFF"))
    with pytest.raises(ImageError, match="has 5000×4000 pixels; at most 16 megapixels"):
        images.read(file(Image.new("1", (5000, 4000)), "TIFF"))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_damaged_tiff_is_told_of_once(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff has lines of its own for standard error, which name no file."""
    whole = file(photo(), "TIFF", compression=compression)
    with pytest.raises(ImageError, match="damaged: it ends too early"):
        images.read(whole[: len(whole) // 2])
    damaged = whole[:8] + bytes(byte ^ 255 for byte in whole[8:40]) + whole[40:]
    with pytest.raises(ImageError, match="damaged: its pixels cannot be decoded"):
        images.pixels(images.read(damaged), "rgb")
    assert capfd.readouterr().err == ""


def tiff(*more: tuple[int, int, int, int], tile: int = 16, size: int = 16) -> bytes:
    """A gray square in one tile; further tags as tag, type, count and value."""
    data = zlib.compress(bytes(min(tile, 256) ** 2))
    tags = [(256, 4, 1, size), (257, 4, 1, size), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(322, 4, 1, tile), (323, 4, 1, tile), (325, 4, 1, len(data)), *more]
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted([*tags, (324, 4, 1, place)]))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags) + 1) + entries + bytes(4) + data


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (tiff(tile=16_000), "it has 256 pixels, in tiles of 256,000,000"),
        (tiff((322, 3, 1, 16), tile=16_000), "its tag 322 is there twice, or no whole number"),
        (tiff((65_000, 7, 2**20, 0)), "its tags have 1,048,[0-9]{3} bytes"),
        (tiff(*((tag, 7, 100, 0) for tag in range(1000, 1100))), "its tags have 10,[0-9]{3} bytes"),
        (tiff(*((tag, 7, 1, 0) for tag in range(1000, 1600))), "has 610 tags; at most 512 are read"),
        (tiff((279, 4, 70_000, 0)), "is in 70,000 parts; at most 65,535"),
    ],
)
def test_a_tiff_takes_no_more_than_its_size_says(data: bytes, why: str) -> None:
    """A file of 250 kB took 7 s and 250 MB to become 16×16 pixels; thousands of tags may all be the same megabytes."""
    with pytest.raises(ImageError, match=why):
        images.read(data)


def test_a_tile_may_be_larger_than_a_small_picture() -> None:
    assert images.pixels(images.read(tiff(tile=256)), "gray").shape == (16, 16, 1)


def test_strangers_files_are_of_formats_whose_headers_say_what_they_take() -> None:
    kinds = {kind: file(photo(), kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "PPM")}
    assert all(images.is_read(data, of_strangers=True) for data in kinds.values())
    for data in (b"\0\0\0\x24ftypavif", b"\0\0\0\x24ftypheic"):
        assert not images.is_read(data, of_strangers=True)
        with pytest.raises(ImageError, match="no PNG, JPEG or WebP image but"):
            read_headers([data], of_strangers=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(data=st.data(), kind=st.sampled_from(["GIF", "BMP", "TIFF", "PPM"]))
def test_damage_to_ones_own_files_is_an_image_error(data: st.DataObject, kind: str) -> None:
    damaged = bytearray(file(photo(9, 6), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from([0, 1, 127, 255]))
    del damaged[data.draw(st.integers(4, len(damaged))) :]
    try:
        assert images.pixels(images.read(bytes(damaged)), "rgb", (4, 4)).shape == (4, 4, 3)
    except ImageError as error:
        assert "image" in str(error)
