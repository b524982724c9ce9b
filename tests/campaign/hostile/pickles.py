"""Changes of torch.save files: other values and tensors, and pickles whose execution leaves a file."""

import io
import struct
import warnings
import zipfile
from random import Random

import torch
from hostile.values import changed, value


def torch_changed(content: bytes, rng: Random, canary: str) -> tuple[bytes, str]:
    """A file of torch.save with other content, or with code in its pickle. canary: path that the code would create"""
    if rng.random() < 0.35:
        return with_pickle(content, rng, canary)
    data = torch.load(io.BytesIO(content), weights_only=True)
    data, what = changed(data, rng, _value)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(data, file, _use_new_zipfile_serialization=rng.random() < 0.97)
    return file.getvalue(), what


def _value(rng):
    return value(rng) if rng.random() < 0.4 else tensor(rng)


def tensor(rng: Random):
    """A tensor that a careless reader cannot take."""
    shape = rng.choice(((), (0,), (1,), (3,), (5, 24), (24, 24), (2, 3, 32, 32), (1,) * 30, (0, 10**9), (3, 16)))
    kind = rng.randrange(16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == 0:
            return torch.zeros(1).expand(10**12)
        if kind == 1:
            return torch.zeros(1).expand(rng.choice((24, 5)), 24)
        if kind == 2:
            return torch.empty(10**6, 10**6, device="meta")
        if kind == 3:
            return torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6))
        if kind == 4:
            return torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])
        if kind == 5:
            return torch.quantize_per_tensor(torch.zeros(5, 24), 0.1, 0, torch.qint8)
        if kind == 6:
            return torch.full(shape, rng.choice((float("nan"), float("inf"), -float("inf"), 3e38)))
        if kind == 7:
            return torch.zeros(48, 48)[::2, ::2]
        if kind == 8:
            return torch.zeros(shape, requires_grad=True)
        if kind == 9:
            return torch.nn.Parameter(torch.zeros(shape))
        if kind == 10:
            return torch.zeros(3, 4).to_sparse_csr()
        if kind == 11:
            return (
                torch.zeros(shape).conj() if rng.random() < 0.5 else torch.zeros(4, dtype=torch.complex64).conj().imag
            )
        types = [
            "float64",
            "float16",
            "bfloat16",
            "int8",
            "uint8",
            "int32",
            "int64",
            "bool",
            "complex64",
            "float8_e4m3fn",
            "uint16",
            "uint64",
        ]
        return torch.zeros(shape).to(getattr(torch, rng.choice(types)))


CALLS = (
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("subprocess", "Popen"),
    ("torch.hub", "load"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("builtins", "getattr"),
    ("torch.serialization", "load"),
    ("torch.jit", "load"),
    ("shutil", "rmtree"),
    ("builtins", "bytearray"),
    ("__builtin__", "bytearray"),
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch._utils", "_rebuild_parameter"),
    ("_codecs", "encode"),
    ("torch", "device"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"),
    ("torch", "FloatStorage"),
)


def with_pickle(content: bytes, rng: Random, canary: str) -> tuple[bytes, str]:
    """The same archive with another pickle."""
    pickle, what = _pickle(rng, canary)
    if content[:4] != b"PK\x03\x04":
        return pickle, what
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(file, "w") as written:
        for part in archive.infolist():
            data = archive.read(part)
            if part.filename.endswith("data.pkl"):
                data = pickle if rng.random() < 0.7 else data[:-1] + pickle[2:]
            written.writestr(zipfile.ZipInfo(part.filename), data)
    return file.getvalue(), what


def _pickle(rng, canary):
    kind = rng.randrange(11)
    if kind < 5:
        module, name = rng.choice(CALLS)
        return _call(module, name, _argument(rng, name, canary)), f"calls {module}.{name}"
    if kind == 5:
        depth = rng.choice((100, 2000, 100_000))
        opening, closing = rng.choice(((b"]", b"a"), (b"(", b"t"), (b"(", b"l"), (b"}K\x00", b"s")))
        return b"\x80\x02" + opening * depth + b"N" + closing * depth + b".", f"{depth} containers in each other"
    if kind == 6:
        depth = rng.choice((20, 30, 60))
        return b"\x80\x02]q\x00" + b"".join(
            b"]q%c(h%ch%ce" % (i + 1, i, i) for i in range(depth)
        ) + b".", f"{depth} lists doubled"
    if kind == 7:
        number = rng.choice((2**31 - 1, 10**6, 2**32 - 1))
        code = rng.choice((b"X", b"B", b"T", b"\x8b", b"r", b"j"))
        return b"\x80\x02" + code + struct.pack("<I", number) + b"abc.", f"opcode {code!r} of {number} bytes"
    if kind == 8:
        return b"\x80\x02}(X\x01\x00\x00\x00a" + b"L" + b"9" * rng.choice((5000, 1_000_000)) + b"L\nu.", "a long number"
    if kind == 9:
        return b"\x80" + bytes([rng.choice((0, 1, 3, 4, 5, 99))]) + rng.randbytes(200) + b".", "random opcodes"
    return b"\x80\x02}(" + b"".join(b"K%cK\x01" % rng.randrange(256) for _ in range(3)) + _persistent(
        rng
    ) + b"u.", "a storage"


def _argument(rng, name, canary):
    texts = [f"touch {canary}", f"open({canary!r}, 'w')", canary, "__import__('os').system('true')"]
    if name == "bytearray":
        return b"(I" + str(rng.choice((10, 10**9, 10**12))).encode() + b"\nt"
    if name.startswith("_rebuild"):
        numbers = [rng.choice((0, 1, 5, 2**31, 2**62, -1)) for _ in range(4)]
        size = b"(" + b"".join(b"I%d\n" % n for n in numbers[:2]) + b"t"
        step = b"(" + b"".join(b"I%d\n" % n for n in numbers[2:]) + b"t"
        return b"(" + _persistent(rng) + b"I%d\n" % rng.choice((0, 1, -5, 2**62)) + size + step + b"I00\n}t"
    text = rng.choice(texts).encode()
    return b"(X" + struct.pack("<I", len(text)) + text + b"t"


def _persistent(rng):
    """A persistent id as torch writes it: ('storage', torch.FloatStorage, '0', 'cpu', count)."""
    device = rng.choice((b"cpu", b"cuda:0", b"meta", b"mps", b"x" * 50, b"hpu"))
    count = rng.choice((0, 1, 24, 10**6, 2**40, 2**62, -1))
    key = rng.choice((b"0", b"1", b"99", b"../x", b""))
    parts = b"X\x07\x00\x00\x00storagectorch\n" + rng.choice(
        (b"FloatStorage", b"LongStorage", b"QInt8Storage", b"BoolStorage")
    )
    for text in (key, device):
        parts += (b"\n" if text is key else b"") + b"X" + struct.pack("<I", len(text)) + text
    return b"(" + parts + b"I%d\ntQ" % count


def _call(module, name, argument):
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + argument + b"R."
