"""The process's limit of open files: raised for the connections, and looked at for each of them."""

import asyncio
import sys
from typing import Final

__all__ = ["connections_from_descriptors", "descriptors_left"]

_RESERVE: Final = 32
"""Descriptors that are left for images, logs and what a client library opens."""


def connections_from_descriptors(connections: int, backlog: int) -> int:
    """Raise the soft limit of open files as far as needed and allowed. Returns how many connections fit, at most
    ``connections``; less than 1 where there is no room.

    backlog: connections that the event loop may accept before it hands the first of them on
    """
    if sys.platform == "win32":
        return connections
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    others = backlog + _lowest_free() + _RESERVE
    wanted = connections + others
    if soft != unlimited and soft < wanted:
        soft = wanted if hard == unlimited else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == unlimited else min(connections, soft - others)


def descriptors_left(transport: asyncio.BaseTransport) -> bool:
    """Whether the process may open more files than a new connection and the reserve.

    The system gives a new file the lowest free number, so the number of the connection tells how many are open.
    """
    if sys.platform == "win32":
        return True
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = transport.get_extra_info("socket").fileno()
    return soft == resource.RLIM_INFINITY or bool(number + _RESERVE < soft)


def _lowest_free() -> int:
    """About as many files are open now."""
    import os

    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number
