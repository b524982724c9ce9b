"""Changes of image files: sizes in their headers, chunks with right sums, other types."""

import struct
import zlib
from random import Random

from hostile.damage import damaged

SIZES = (0, 1, 2, 40, 65_535, 65_536, 13_300, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


def picture_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """An image with other fields in its header."""
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(content, rng)
    if content[:2] == b"\xff\xd8":
        return _jpeg(bytearray(content), rng)
    if content[:2] in (b"P6", b"P5"):
        return _ppm(content, rng)
    if content[:4] == b"II*\0" and rng.random() < 0.4:
        return _tiff_directories(content, rng)
    if content[:3] == b"GIF" and rng.random() < 0.3:
        blocks = content[13 + (3 << (content[10] & 7) + 1) * (content[10] >> 7) : -1]
        return content[:-1] + blocks * rng.choice((100, 5000)) + b";", "frames"
    fields = {b"BM": 54, b"GI": 13, b"II": 8, b"MM": 8, b"RI": 40}
    end = fields.get(content[:2], 64)
    changed = bytearray(content)
    at = rng.randrange(2, end) if rng.random() < 0.7 else max(0, len(content) - rng.randrange(2, 300))
    number = rng.choice(SIZES)
    changed[at : at + 4] = struct.pack("<I", number)
    return bytes(changed), f"4 bytes at {at} set to {number}"


def _tiff_directories(content, rng):
    """Directories after the first: itself again, many, or one that lies nowhere; or one as its own EXIF directory."""
    (first,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[first : first + 2])
    after = first + 2 + 12 * count
    kind, changed = rng.choice(("itself", "many", "nowhere", "exif")), bytearray(content)
    if kind == "exif":
        changed[after - 12 : after] = struct.pack("<HHII", 0x8769, 4, 1, first)
        return bytes(changed), "directories: exif"
    place = {"itself": first, "many": len(changed) + len(changed) % 2, "nowhere": 2**31}[kind]
    changed[after : after + 4] = struct.pack("<I", place)
    if kind == "many":
        changed += bytes(len(changed) % 2)
        for _ in range(50_000):
            changed += struct.pack("<H", 0) + struct.pack("<I", len(changed) + 6)
    return bytes(changed), f"directories: {kind}"


def _chunks(content):
    at = 8
    while at + 12 <= len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        yield content[at + 4 : at + 8], content[at + 8 : at + 8 + size]
        at += 12 + size


def _png(content, rng):
    chunks = list(_chunks(content))
    kind = rng.choice(
        ("size", "size", "type", "bomb", "text", "profile", "palette", "order", "frames", "data", "idat", "exif")
    )
    head = bytearray(chunks[0][1])
    if kind == "size":
        head[0:8] = struct.pack(">II", rng.choice(SIZES), rng.choice(SIZES))
    elif kind == "type":
        head[8 + rng.randrange(5)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    elif kind == "bomb":
        side = rng.choice((5000, 9000, 14_000))
        head[0:10] = struct.pack(">IIBB", side, side, rng.choice((1, 8, 16)), rng.choice((0, 2, 6)))
        packer = zlib.compressobj(1)
        data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
        chunks = [chunks[0], (b"IDAT", data), (b"IEND", b"")]
    elif kind in ("text", "profile", "exif"):
        packed = zlib.compress(bytes(rng.choice((1 << 10, 80 << 20))))
        added = {
            "text": (b"zTXt", b"k\0\0" + packed),
            "profile": (b"iCCP", b"p\0\0" + packed),
            "exif": (b"eXIf", rng.randbytes(60)),
        }[kind]
        chunks[1:1] = [added] * rng.choice((1, 1, 50))
    elif kind == "palette":
        chunks.insert(1, (b"PLTE", rng.randbytes(rng.choice((0, 1, 3, 768, 3000)))))
        head[9] = 3
    elif kind == "order":
        rng.shuffle(chunks)
    elif kind == "frames":
        chunks.insert(1, (b"acTL", struct.pack(">II", rng.choice((0, 1, 2**31, 2**32 - 1)), 0)))
        chunks.insert(2, (b"fcTL", struct.pack(">IIIIIHHBB", 0, *(rng.choice(SIZES) for _ in range(4)), 1, 1, 0, 0)))
    elif kind == "data":
        at = rng.randrange(len(chunks))
        chunks[at] = chunks[at][0], damaged(chunks[at][1], rng)[0]
    else:
        chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    chunks = [(name, bytes(head) if name == b"IHDR" and kind != "data" else data) for name, data in chunks]
    made = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return content[:8] + b"".join(made), kind


def _jpeg(content, rng):
    kind = rng.choice(("size", "size", "scans", "segment", "components", "exif", "restart"))
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    if kind == "size" and frame > 0:
        content[frame + 5 : frame + 9] = struct.pack(">HH", *(min(65_535, rng.choice(SIZES)) for _ in range(2)))
    elif kind == "scans":
        start = content.find(b"\xff\xda")
        content = content[:-2] + content[start:-2] * rng.choice((50, 500, 3000)) + b"\xff\xd9"
    elif kind == "components" and frame > 0:
        content[frame + 9] = rng.choice((0, 1, 2, 4, 255))
    elif kind == "exif":
        data = b"Exif\0\0II*\0\x08\0\0\0" + rng.randbytes(rng.choice((20, 60_000)))
        content[2:2] = b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data
    elif kind == "restart":
        content[2:2] = b"\xff\xdd\x00\x04" + struct.pack(">H", rng.randrange(65_536))
    else:
        data = rng.randbytes(40)
        content[2:2] = (
            bytes([0xFF, rng.choice((0xE2, 0xED, 0xEE, 0xFE, 0xDB, 0xC4, 0xCC))])
            + struct.pack(">H", rng.choice((0, 2, 42, 65_535)))
            + data
        )
    return bytes(content), kind


def _ppm(content, rng):
    parts = content.split(maxsplit=4)
    values = ("0", "-1", "1", "65535", "100000000", "99999999999999999999", "x", "1" * 5000, "#" + "c" * 300_000)
    at = rng.randrange(1, 4)
    text = rng.choice(values)
    parts[at] = text.encode()
    return b"\n".join(parts), f"field {at} is {text[:20]}"
