"""Real TensorRT libraries: ``make tensorrt`` installs them, tests/trt/real compares what they do with what is recorded.

    python tests/tools/real_tensorrt.py install [VERSION ...]   wheels from PyPI into build/tensorrt/VERSION
    python tests/tools/real_tensorrt.py record [VERSION ...]    what they do, into tests/trt/real/recorded
    python tests/tools/real_tensorrt.py page                    the table of docs/tensorrt-versions.md from the records

VERSION is the beginning of a version ("10.15", "8.6"), or "rtx"; none means every TensorRT.
"""

import argparse

from tensorrt_cases import record
from tensorrt_libraries import chosen, install
from tensorrt_page import PAGE, page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["install", "record", "page"])
    parser.add_argument("versions", nargs="*")
    options = parser.parse_args()
    if options.what == "page":
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        for library in chosen(options.versions):
            (install if options.what == "install" else record)(library)


if __name__ == "__main__":
    main()
