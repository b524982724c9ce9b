"""Where the checkout and its ignored build folder are, for tests at any depth."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
BUILD = ROOT / "build"
DATA = TESTS / "data"
RESULTS = ROOT / "benchmarks" / "results"
SCHEMAS = ROOT / "benchmarks" / "schemas"
