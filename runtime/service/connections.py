"""Open connections, limited in all and per address. At the limit the oldest one without a request makes room."""

from collections import Counter
from collections.abc import Callable
from typing import Protocol

__all__ = ["Connection", "Connections"]


class Connection(Protocol):
    """What a connection is asked for."""

    def drop(self) -> None:
        """Close it at once, without an answer."""


class Connections:
    """The open connections of one process. All methods belong to one event loop.

    A flood of silent or half-sent connections displaces itself: those that have not yet sent a whole request are closed
    before idle ones of known clients, the oldest first. A connection whose request is being answered is never closed.

    most, per_address: limits
    on_closed: called with the reason when a connection is refused or dropped
    """

    def __init__(self, most: int, per_address: int, on_closed: Callable[[str], None] = lambda _: None) -> None:
        self.most, self.per_address, self.on_closed = most, per_address, on_closed
        self._addresses: dict[Connection, str] = {}
        self._count: Counter[str] = Counter()
        # Used as ordered sets, the oldest first.
        self._strangers: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._addresses)

    def enter(self, connection: Connection, address: str, descriptors_left: bool = True) -> str | None:
        """Add a new connection. Returns why it is refused, None when it is not.

        descriptors_left: whether the process may open more files; if not, the limit counts as reached
        """
        if self._count[address] >= self.per_address:
            self.on_closed("per_address")
            return f"{self.per_address} connections from one address are open, which is the limit."
        if (len(self) >= self.most or not descriptors_left) and not self._make_room():
            self.on_closed("connections" if descriptors_left else "descriptors")
            return f"{len(self)} connections are open, which is the limit."
        self._addresses[connection] = address
        self._count[address] += 1
        self._strangers[connection] = None
        return None

    def waits(self, connection: Connection) -> None:
        """A known client's connection has no request any more."""
        if connection in self._addresses:
            self._idle[connection] = None

    def works(self, connection: Connection) -> None:
        """A whole head has arrived."""
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)

    def leave(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self.works(connection)
        address = self._addresses.pop(connection, None)
        if address is not None:
            self._count[address] -= 1
            if not self._count[address]:
                del self._count[address]

    def _make_room(self) -> bool:
        oldest = next(iter(self._strangers), None) or next(iter(self._idle), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.drop()
        self.on_closed("displaced")
        return True
