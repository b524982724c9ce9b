"""Checks a bench.json written under emulation: ``check_bench.py FILE``. Prints what was compared, and no time.

Ends with an AssertionError where a row is missing, was not compared, or was not run on arm64.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(record: dict[str, Any]) -> None:
    assert record["machine"]["system"].endswith("aarch64"), record["machine"]
    compared = {check["path"]: check for check in record["verification"]}
    assert {row["role"] for row in record["rows"]} == {"full", "filtered"}, record["rows"]
    for row in record["rows"]:
        check = compared[row["path"]]
        assert check["largest_difference"] <= check["tolerance"] and check["same_top1"] == 1.0, check
        assert check["same_indices"] in (None, 1.0) and row["latency_ms"]["count"] > 0, row
        sys.stdout.write(
            f"bench: {row['path']}, {row['tokens']} tokens, batch {row['batch']}: {check['compared']} differ by "
            f"{check['largest_difference']:.1e} at most, tolerance {check['tolerance']:g}\n"
        )


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
