"""Folders of a checkout for measurements."""

from pathlib import Path
from typing import Final

__all__ = ["DOCS", "RESULTS", "ROOT", "SCHEMAS", "WHEELS"]

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "benchmarks" / "results"
SCHEMAS: Final = ROOT / "benchmarks" / "schemas"
DOCS: Final = ROOT / "docs"
WHEELS: Final = ROOT / "build" / "wheels"
