"""Fake ``jtop`` (jetson-stats): a client that reads power rails from its service.

No real library confirmed it: no Jetson was at hand. The shape of ``power`` and what happens when the service ends were
read in jetson-stats' source.
"""

import sys
from types import ModuleType
from typing import Any

__all__ = ["install_fake_jtop"]

_RAILS = {"VDD_SOC": {"power": 1500}}
_TOTAL = {"name": "VDD_IN", "power": 6000}


class FakeJtop:
    """jetson-stats' client: VDD_IN stands apart from the rails, and the last reading stays when the service ends."""

    rails: Any = _RAILS
    total: Any = _TOTAL
    ended = False

    def __init__(self, interval: float) -> None:
        self.closed = False

    def start(self) -> None:
        self.power = {"rail": self.rails, "tot": self.total} if self.rails else {}

    def ok(self, spin: bool = False) -> bool:
        assert spin, "without spin it waits for the next reading"
        if self.ended:
            raise RuntimeError("Lost connection with jtop server")
        return True

    def close(self) -> None:
        self.closed = True


def install_fake_jtop(monkeypatch: Any, **details: Any) -> Any:
    """Put the fake into ``sys.modules`` as ``jtop``; details: class attributes to change. Returns the client class."""
    module: Any = ModuleType("jtop")
    module.jtop = type("Fake", (FakeJtop,), details)
    monkeypatch.setitem(sys.modules, "jtop", module)
    return module.jtop
