"""A pickle that torch is to read, checked before: nothing in it may ask for more memory or time than its bytes.

torch reads it with ``weights_only=True``, which runs no code of the file. It still allocates what it is told to, and
hashes each key of a dict.
"""

import pickletools
from collections.abc import Iterator
from typing import Any, Final

from tokfilter.artifacts.limits import MAX_PICKLE_STEPS, MAX_TUPLE

__all__ = ["check_pickles"]

_BYTEARRAYS: Final = (b"builtins\nbytearray\n", b"__builtin__\nbytearray\n")
"""torch calls it with any number: bytearray(10**12) takes that memory. No tensor needs it."""

_MARK: Final = 0
_TUPLES: Final = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": -1}
_STORES: Final = ("PUT", "BINPUT", "LONG_BINPUT")
_RECALLS: Final = ("GET", "BINGET", "LONG_BINGET")


def check_pickles(content: bytes, count: int = 1) -> None:
    """Check the first ``count`` pickles in ``content``, one after the other. Raises ValueError with the reason."""
    if any(name in content for name in _BYTEARRAYS):
        raise ValueError("it asks for bytes that it does not hold")
    steps = _steps(content, count)
    stack: list[int] = []
    memo: dict[int, int] = {}
    try:
        for name, argument, opcode in steps:
            _follow(stack, memo, name, argument, opcode)
    except IndexError as error:
        raise ValueError("its pickle is damaged") from error


def _steps(content: bytes, count: int) -> Iterator[tuple[str, Any, pickletools.OpcodeInfo]]:
    """Name, argument and description of each instruction."""
    from io import BytesIO

    file, left = BytesIO(content), MAX_PICKLE_STEPS
    for _ in range(count):
        for opcode, argument, _place in pickletools.genops(file):
            left -= 1
            if left < 0:
                raise ValueError(f"its pickle must have at most {MAX_PICKLE_STEPS} instructions")
            yield opcode.name, argument, opcode


def _follow(stack: list[int], memo: dict[int, int], name: str, argument: Any, opcode: pickletools.OpcodeInfo) -> None:
    """What one instruction does to the stack. In place of each value stands its size: of a tuple, all that is in it.

    Raises ValueError for a tuple of more than MAX_TUPLE values, IndexError where the stack does not have so many.
    """
    if name == "MARK":
        stack.append(_MARK)
    elif name in _TUPLES:
        size = 1 + sum(_taken(stack, _TUPLES[name]))
        if size > MAX_TUPLE:
            raise ValueError(f"a tuple in it must hold at most {MAX_TUPLE} values, those of its tuples included")
        stack.append(size)
    elif name in _STORES or name == "MEMOIZE":
        memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
    elif name in _RECALLS:
        stack.append(memo.get(int(argument), 1))
    elif name == "DUP":
        stack.append(stack[-1])
    else:
        _other(stack, opcode)


def _other(stack: list[int], opcode: pickletools.OpcodeInfo) -> None:
    """Any other instruction: it takes values from the stack and puts others there, each of size 1."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        _taken(stack, -1)
        before = before[: before.index(pickletools.markobject)]
    _taken(stack, len(before))
    stack.extend([1] * len(opcode.stack_after))


def _taken(stack: list[int], count: int) -> list[int]:
    """The uppermost values, removed; -1: those above the uppermost mark, and the mark."""
    if count < 0:
        place = len(stack) - 1
        while stack[place] != _MARK:
            place -= 1
            if place < 0:
                raise IndexError
        count = len(stack) - place
    if count > len(stack):
        raise IndexError
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken
