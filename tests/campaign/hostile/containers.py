"""Changes of zip archives, npy arrays, safetensors files and tar archives, with headers that agree or contradict."""

import io
import json
import struct
import tarfile
import zipfile
from random import Random

import numpy as np
from hostile.damage import damaged
from hostile.values import NUMBERS, OUTSIDE, TEXTS, value


def zip_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """An archive written again with changed parts, or with changed fields in its list of parts."""
    if rng.random() < 0.4:
        return _zip_field(bytearray(content), rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(part.filename, archive.read(part)) for part in archive.infolist()]
    at = rng.randrange(len(parts))
    name, data = parts[at]
    kind = rng.choice(("remove", "rename", "twice", "deflate", "bytes", "empty", "inflate", "add", "many", "order"))
    if kind == "remove":
        del parts[at]
    elif kind == "rename":
        parts[at] = (
            rng.choice((OUTSIDE, "/etc/x", "archive/data.pkl", "x.npy", "a\x00b", "..\\x", "\x1b[31m", "")),
            data,
        )
    elif kind == "twice":
        parts.insert(rng.randrange(len(parts)), (name, rng.choice((data, b"", parts[0][1]))))
    elif kind == "bytes":
        parts[at] = name, damaged(data, rng)[0]
    elif kind == "empty":
        parts[at] = name, b""
    elif kind == "inflate":
        parts[at] = name, data + bytes(50 << 20)
    elif kind == "add":
        parts.append((rng.choice(TEXTS).replace("\ud800", ""), data))
    elif kind == "many":
        parts += [(f"archive/data/x{i}", b"") for i in range(5000)]
    elif kind == "order":
        rng.shuffle(parts)
    method = zipfile.ZIP_DEFLATED if kind in ("deflate", "inflate") else zipfile.ZIP_STORED
    file = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name twice
        for part, data in parts:
            archive.writestr(zipfile.ZipInfo(part), data, compress_type=method)
    return file.getvalue(), f"{kind} {name}"


_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_FIELDS = {
    _LOCAL: (4, 6, 8, 14, 18, 22, 26, 28),
    _CENTRAL: (4, 6, 8, 10, 16, 20, 24, 28, 30, 32, 34, 38, 42),
    _END: (4, 6, 8, 10, 12, 16, 20),
}


def _zip_field(content, rng):
    magic = rng.choice((_LOCAL, _CENTRAL, _CENTRAL, _END))
    found, at = [], content.find(magic)
    while at >= 0:
        found.append(at)
        at = content.find(magic, at + 4)
    start, field = rng.choice(found), rng.choice(_FIELDS[magic])
    number = rng.choice((0, 1, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 10**6, 99))
    content[start + field : start + field + 4] = struct.pack("<I", number)
    return content, f"field {field} of {magic!r} at {start} set to {number}"


def npz_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """An .npz with other arrays, or with another header on one of them."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    name = rng.choice(list(parts))
    array = np.load(io.BytesIO(parts[name]))
    kind = rng.choice(("header", "header", "values", "values", "version", "remove", "rename", "header bytes"))
    if kind == "header":
        parts[name] = _npy(*_npy_header(array, rng), array.tobytes())
    elif kind == "values":
        file = io.BytesIO()
        np.save(file, _other_values(array, rng), allow_pickle=False)
        parts[name] = file.getvalue()
    elif kind == "version":
        parts[name] = parts[name][:6] + bytes([rng.choice((0, 2, 3, 9)), 0]) + parts[name][8:]
    elif kind == "remove":
        del parts[name]
    elif kind == "rename":
        parts[
            rng.choice(("logits_99999999999999999999.npy", "logits_-1.npy", "logits_٣.npy", "scores.npy", "x.npy"))
        ] = parts.pop(name)
    else:
        text = rng.choice((b"{" * 3000, b"__import__('os').system('true')", b"{'descr': '<f4'}", b"(" * 60 + b")" * 60))
        parts[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part, data in parts.items():
            archive.writestr(zipfile.ZipInfo(part), data)
    return file.getvalue(), f"{kind} of {name}"


def _npy_header(array, rng):
    shape = list(array.shape)
    at = rng.randrange(max(1, len(shape)))
    shapes = [
        shape[::-1],
        [*shape, 1],
        [0, *shape[1:]],
        [10**12, *shape[1:]],
        [-1, *shape[1:]],
        [2**62, 4],
        [array.size],
        [],
        [1] * 64 + shape,
        [1] * 31 + shape,
        [2**32, 2**32],
        [*shape[:at], shape[at] + 1 if shape else 1, *shape[at + 1 :]],
    ]
    types = (
        "<f4",
        ">f4",
        "<f8",
        "<i4",
        "<u1",
        "|O",
        "|S4",
        "<U9",
        "<c8",
        "<f2",
        "[('a','<f4')]",
        "|V4",
        "<M8[s]",
        "x" * 99,
    )
    descr = rng.choice(types) if rng.random() < 0.5 else array.dtype.str
    return descr, rng.random() < 0.2, rng.choice(shapes) if rng.random() < 0.7 else shape


def _npy(descr, fortran, shape, data):
    sides = ", ".join(map(str, shape)) + ("," if shape else "")
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': ({sides})}}\n"
    header = text.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _other_values(array, rng):
    kind = rng.randrange(9)
    if kind == 0:
        return array[..., ::-1].copy()
    if kind == 1:
        return np.zeros_like(array)
    if kind == 2:
        return array.astype(rng.choice(("f8", "f2", "i8", "u1", "c8", "bool")))
    if kind == 3 and array.dtype.kind == "f":
        changed = array.copy()
        changed.flat[rng.randrange(changed.size)] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45))
        return changed
    if kind == 4:
        return array[:-1] if len(array) > 1 else array[:0]
    if kind == 5:
        return array[:0]
    if kind == 6:
        return np.repeat(array, rng.choice((2, 50)), axis=0)
    if kind == 7:
        return array.reshape(-1)
    return np.full_like(array, rng.choice((-1, 2, 127)))


def safetensors_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """A safetensors file with another header."""
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    if rng.random() < 0.15:
        number = rng.choice((0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1, 100_000_001))
        return struct.pack("<Q", number) + content[8:], f"length of the header {number}"
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry, kind = header[name], rng.randrange(9)
    if kind == 0:
        entry["dtype"] = rng.choice(("F64", "F16", "BF16", "I32", "U8", "BOOL", "F8_E4M3", "C64", "X", "", "F32\x00"))
    elif kind == 1:
        entry["shape"] = rng.choice(
            (entry["shape"][::-1], [], [0], [2**62, 4], [-1], [*entry["shape"], 1], [2**32, 2**32], [1] * 2000, "x")
        )
    elif kind == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 2**63], [-1, 4], [4, 0], [0], "x", [0, len(data)], [0.5, 1]))
    elif kind == 3:
        header[str(rng.choice(TEXTS))] = header.pop(name)
    elif kind == 4:
        del header[name]
    elif kind == 5:
        header["__metadata__"] = rng.choice(
            ({"x": "y" * 100_000}, {"x": 3}, [], {"format": "pt"}, {"\x1b[31m": "x"}, {})
        )
    elif kind == 6:
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif kind == 7:
        header[name] = value(rng)
    else:
        header |= {
            f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(rng.choice((1, 20_000)))
        }
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data, f"header {kind} of {name}"


def tar_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """A tar archive with changed headers (their sums made right again), or with hostile members added."""
    if rng.random() < 0.6:
        return _tar_header(bytearray(content), rng)
    info = tarfile.TarInfo(
        rng.choice(
            (
                "data/ant/x.png",
                "../../victim/evil.png",
                "/abs.png",
                "data/a\x1b[31m/x.png",
                "d/" * 2000 + "x.png",
                "data/ant/x.tar",
                "data/\udcff/x.png",
            )
        )
    )
    info.type = rng.choice(
        (
            tarfile.REGTYPE,
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
            tarfile.GNUTYPE_SPARSE,
            b"Z",
        )
    )
    info.linkname = rng.choice(("", "/etc/passwd", info.name[:90], "data/ant/0.png", "../" * 40))
    data = rng.choice((b"", b"x" * 600, content, b"\x89PNG\r\n\x1a\n" + bytes(100)))
    info.size = len(data) if info.type == tarfile.REGTYPE else 0
    pax = rng.choice(
        (
            {},
            {},
            {"size": "1000000000000"},
            {"GNU.sparse.realsize": "999999999999"},
            {"path": "../../victim/x.png"},
            {"comment": "x" * 200_000},
            {"mtime": "x"},
            {"hdrcharset": "BINARY"},
        )
    )
    info.pax_headers = pax
    head = info.tobuf(tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    member = head + (data + bytes(-len(data) % 512) if info.size else b"")
    return (
        content.rstrip(b"\0") + bytes(-len(content.rstrip(b"\0")) % 512) + member + bytes(1024)
    ) if rng.random() < 0.3 else member + content, f"member {info.name[:40]!r} type {info.type!r} pax {list(pax)}"


def _tar_header(content, rng):
    heads = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(heads)
    start, length = rng.choice(
        ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
    )
    texts = (
        b"7" * length,
        b"\x80" + b"\xff" * (length - 1),
        b"-1",
        b"",
        b"9" * length,
        b"\xff" * length,
        b"../../../x",
        b"0",
        b"77777777777",
        b"x",
        b"5",
        b"2",
        b"S",
        b"L",
        b"K",
        b"x",
    )
    text = rng.choice(texts)[:length]
    content[at + start : at + start + length] = text + bytes(length - len(text))
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content), f"field {start} of the member at {at} is {text!r}"


__all__ = ["NUMBERS", "npz_changed", "safetensors_changed", "tar_changed", "zip_changed"]
