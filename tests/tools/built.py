"""Kernels that tests compile, in the checkout's ignored build folder."""

from collections.abc import Callable
from typing import Any

import pytest
from paths import BUILD

from tokfilter.errors import MissingDependencyError

KERNELS = BUILD / "kernels"


def built(build: Callable[..., Any], *arguments: Any) -> Any:
    """``build(*arguments)``, or a skipped test where a compiler is missing."""
    try:
        return build(*arguments)
    except MissingDependencyError as error:
        pytest.skip(str(error))
