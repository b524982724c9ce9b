"""Hostile values and changes of JSON, by somebody who knows the format."""

import json
from random import Random

OUTSIDE = "../../../../victim/evil"
TEXTS = (
    OUTSIDE,
    "/dev/stdin",
    "/proc/self/mem",
    "x/../../../../victim/models/evil",
    "..",
    ".",
    "",
    " ",
    "a/b",
    "C:\\x",
    "\x00",
    "a\x00b",
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[31mred",
    "\x9b31m",
    "[bold red]markup[/]",
    "[/]",
    "[link=x]y",
    "<script>alert(1)</script>",
    "\u202egnp.exe",
    "\ud800",
    "%s%n{0}{x!r}",
    "$(touch victim)",
    "`touch victim`",
    "; touch victim",
    "-o",
    "--help",
    "a\nb\r\nc",
    "é" * 255,
    "x" * 5000,
    "NaN",
    "1e999",
    "0x10",
    "٣",
    "float",
    "int8",
    "full",
    "onnx",
    "fp16",
    "torch",
    "golden",
    "vit_base_patch16_224",
    "vit_giant_patch14_dinov2",
    "resnet50",
    "bicubic",
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    -(2**31),
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**10,
    10**12,
    10**40,
    10**4299,
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.5,
    1e-300,
    1e300,
    1e-45,
    16.0,
    3.0000001,
)


def value(rng: Random, depth: int = 0):
    """Any plain value."""
    kind = rng.randrange(9 if depth < 2 else 5)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind == 4:
        return rng.choice((None, True, False, [], {}))
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.choice((1, 2, 3, 4, 1000)))]
    if kind == 6:
        return {str(rng.choice(TEXTS)): value(rng, depth + 1) for _ in range(rng.choice((1, 2, 3)))}
    if kind == 7:
        return nested(rng.choice((50, 200, 900)), rng.random() < 0.5)
    return {"__class__": "os.system", "path": OUTSIDE, "sha256": "0" * 64, "bytes": rng.choice(NUMBERS)}


def nested(depth: int, mapping: bool):
    """Containers within each other."""
    found = 0
    for _ in range(depth):
        found = {"a": found} if mapping else [found]
    return found


def places(content, path=()):
    """Paths to every value of plain containers, at most 3 of each list."""
    found = [path]
    if isinstance(content, dict):
        for key in content:
            found += places(content[key], (*path, key))
    elif isinstance(content, (list, tuple)):
        for i in range(min(3, len(content))):
            found += places(content[i], (*path, i))
    return found


def changed(content, rng: Random, other=value):
    """Change one to three values in containers (in place where they can be). Returns the content and what was done."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(places(content))
        if not path:
            if rng.random() < 0.2:
                content = other(rng)
                done.append("all replaced")
            continue
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        if not isinstance(parent, (dict, list)):
            continue
        done.append(f"{'.'.join(map(str, path))}: {_change(parent, path[-1], rng, other)}")
    return content, "; ".join(done) or "nothing"


def _change(parent, key, rng, other):
    kind = rng.randrange(10)
    if kind == 0:
        del parent[key]
        return "removed"
    if kind == 1 and isinstance(parent, dict):
        name = rng.choice(TEXTS)
        parent[name] = parent.pop(key)
        return f"renamed {name!r:.40}"
    if kind == 2 and isinstance(parent, list):
        parent.extend([parent[key]] * rng.choice((1, 3, 5000)))
        return "repeated"
    if kind == 3 and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
        parent[key] = rng.choice((parent[key] + 1, parent[key] - 1, -parent[key], parent[key] * 2, float(parent[key])))
        return f"{parent[key]!r:.40}"
    if kind == 4 and isinstance(parent[key], str):
        parent[key] = rng.choice(
            (parent[key] + "\x1b[1m", parent[key] + "/", parent[key][:-1], parent[key].upper(), "../" + parent[key])
        )
        return f"{parent[key]!r:.60}"
    if kind == 5 and isinstance(parent, dict):
        parent[rng.choice(TEXTS)] = other(rng)
        return "key added beside"
    parent[key] = other(rng)
    return f"{parent[key]!r:.60}"


def json_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """A JSON text with other values, or one that no parser should take."""
    kind = rng.randrange(12)
    if kind == 0:
        return _odd_text(content, rng)
    data, what = changed(json.loads(content), rng)
    text = json.dumps(data, indent=1)
    if kind == 1:
        text = text.replace("0", rng.choice(("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "0x1")), 1)
        what += "; a number replaced in the text"
    return text.encode("utf-8", "surrogatepass"), what


def _odd_text(content, rng):
    deep = rng.choice((1000, 100_000))
    texts = {
        "deep lists": b"[" * deep + b"]" * deep,
        "deep objects": b'{"a":' * deep + b"1" + b"}" * deep,
        "open lists": b"[" * 1_000_000,
        "byte order mark": b"\xef\xbb\xbf" + content,
        "utf-16": content.decode().encode("utf-16"),
        "latin": content[:-2] + b'"\xff\xfe"',
        "double keys": content.replace(b"{", b'{"model": 1, "files": [],', 1),
        "many names": b"{" + b",".join(b'"%d":%d' % (i, i) for i in range(200_000)) + b"}",
        "double key at the end": b"{" + b",".join(b'"%d":0' % i for i in range(200_000)) + b',"a":0,"a":0}',
        "empty lists": b"[" + b"[]," * 3_000_000 + b"[]]",
        "digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
        "two texts": content + content,
        "null": b"null",
        "scalar": b"3",
    }
    name = rng.choice(list(texts))
    return texts[name], name


def toml_changed(content: bytes, rng: Random) -> tuple[bytes, str]:
    """A recipe with other values."""
    lines = content.decode().splitlines()
    at = rng.choice([i for i, line in enumerate(lines) if "=" in line and not line.lstrip().startswith("#")])
    name = lines[at].partition("=")[0]
    texts = (
        "0",
        "-1",
        "1e300",
        "nan",
        "inf",
        "10000000000",
        "9" * 5000,
        '""',
        '"x"',
        '"../../victim"',
        "[]",
        "[1, 2]",
        "[[]]" * 1,
        "{}",
        "{a = {b = 1}}",
        "true",
        "1979-05-27",
        "0x7fffffffffffffff",
        "[" * 2000,
        "[" * 200 + "]" * 200,
        '"""' + "x" * 100_000 + '"""',
        '"\\u001b[31m"',
        '"[bold]x[/]"',
        "1e-300",
        "0.5",
        "3",
        "{" * 500,
        "0." + "1" * 5000,
    )
    text = rng.choice(texts)
    lines[at] = f"{name}= {text}"
    extra = rng.randrange(8)
    if extra == 0:
        lines.insert(
            rng.randrange(len(lines)),
            rng.choice(("[a.b.c]", "x = 1", "[[list]]", "a" * 9000 + " = 1", "\x00", ".".join("a" * 900) + " = 1")),
        )
    return "\n".join(lines).encode(), f"{name.strip()} = {text[:40]}"
