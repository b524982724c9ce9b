"""The other end of ``worker_process.ask``: reads the request, prints the answer or the error as one JSON line."""

import json
import sys
from collections.abc import Callable
from typing import Any

from tokfilter.errors import TokfilterError

__all__ = ["answer"]


def answer(work: Callable[[Any], dict[str, Any]]) -> None:
    """Call ``work`` with the request on the command line."""
    try:
        reply: dict[str, Any] = {"answer": work(json.loads(sys.argv[1]))}
    except TokfilterError as error:
        reply = {"error": str(error)}
    sys.stdout.write(json.dumps(reply) + "\n")
