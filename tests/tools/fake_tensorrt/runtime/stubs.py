"""Generates stub classes from TensorRT's headers: every pure virtual function aborts the program.

The fake classes derive from them and override the functions that runtime/cpp calls. Generated at build time, because
the functions differ between TensorRT versions.
"""

import re
import subprocess
import sys
from pathlib import Path

# (class, generated name, its base)
CLASSES = (
    ("VRuntime", "StubRuntime", "apiv::VRuntime"),
    ("VCudaEngine", "StubEngine", "apiv::VCudaEngine"),
    ("VExecutionContext", "StubContext", "apiv::VExecutionContext"),
    ("IPluginRegistry", "StubRegistry", "IPluginRegistry"),
)
PURE = re.compile(r"virtual\s+([^;{}]*?\))\s*(const)?\s*(noexcept)?\s*=\s*0\s*;")
HEAD = """#pragma once
#include <NvInferRuntime.h>
#include <cstdlib>
#pragma GCC diagnostic ignored "-Wunused-parameter"
namespace nvinfer1::fake {
"""


def stub(header: str, name: str, new: str, base: str) -> str:
    """Return the source of class ``new``. header: the preprocessed text that declares ``name``."""
    found = re.search(rf"class (?:\[\[\w+\]\] )?{name}\b[^;{{]*\{{(.*?)\n\}};", header, re.DOTALL)
    assert found, f"no class {name}"
    lines = [f"class {new} : public {base} {{", "  public:"]
    for signature, const, noexcept in PURE.findall(found.group(1)):
        if "~" not in signature:
            plain = re.sub(r"\s*=\s*[^,()]+(\(\))?(?=[,)])", "", " ".join(signature.split()))  # no default arguments
            lines.append(f"    {plain} {const} {noexcept} override {{ std::abort(); }}")
    return "\n".join([*lines, "};", ""])


def main(output: Path, compiler: list[str]) -> None:
    """Write the header ``output``. compiler: the command that preprocesses standard input."""
    text = subprocess.run(compiler, input="#include <NvInferRuntime.h>\n", capture_output=True, text=True, check=True)
    classes = "\n".join(stub(text.stdout, *names) for names in CLASSES)
    output.write_text(HEAD + classes + "}  // namespace nvinfer1::fake\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
