"""Damage to bytes, as a disk, a network or a careless tool does it. Nothing is summed again afterwards."""

from random import Random


def damaged(content: bytes, rng: Random) -> tuple[bytes, str]:
    """Changed bytes, and what was done."""
    change = rng.choice((_flip, _flip, _flip, _truncate, _overwrite, _insert, _double, _swap, _append, _empty))
    changed, what = change(bytearray(content), rng)
    return bytes(changed), what


def place(size: int, rng: Random) -> int:
    """A position: headers stand at the beginning and at the end."""
    if size < 2:
        return 0
    near = min(size, 400)
    return {0: rng.randrange(near), 1: size - 1 - rng.randrange(near)}.get(rng.randrange(4), rng.randrange(size))


def _flip(content, rng):
    count = rng.choice((1, 1, 1, 2, 8, 64)) if content else 0
    places = [place(len(content), rng) for _ in range(count)]
    for at in places:
        content[at] ^= 1 << rng.randrange(8)
    return content, f"bits flipped at {places[:8]}"


def _truncate(content, rng):
    size = place(len(content), rng)
    return content[:size], f"cut to {size} bytes"


def _overwrite(content, rng):
    at, length, value = place(len(content), rng), rng.choice((1, 2, 4, 8, 64, 512)), rng.choice((0, 0xFF, 0x7F, 0x80))
    content[at : at + length] = bytes([value]) * len(content[at : at + length])
    return content, f"{length} bytes at {at} set to {value}"


def _insert(content, rng):
    at, length = place(len(content), rng), rng.choice((1, 2, 7, 64, 5000))
    content[at:at] = rng.randbytes(length)
    return content, f"{length} random bytes inserted at {at}"


def _double(content, rng):
    at, length = place(len(content), rng), rng.choice((4, 30, 64, 512))
    content[at:at] = content[at : at + length]
    return content, f"{length} bytes at {at} doubled"


def _swap(content, rng):
    at, to, length = place(len(content), rng), place(len(content), rng), rng.choice((4, 16, 64))
    content[at : at + length], content[to : to + length] = content[to : to + length], content[at : at + length]
    return content, f"{length} bytes at {at} and {to} exchanged"


def _append(content, rng):
    length = rng.choice((1, 22, 1000, 100_000))
    return content + rng.randbytes(length), f"{length} random bytes appended"


def _empty(content, rng):
    return bytearray(), "empty"
