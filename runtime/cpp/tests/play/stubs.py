"""Classes that implement every virtual function of TensorRT's interfaces by ending the program, from its own headers.

A player then overrides what it plays. Written at build time, because each TensorRT version has other functions.
"""

import re
import sys
from pathlib import Path

# (where it is declared, class, generated name)
CLASSES = (
    ("NvInferImpl.h", "VRuntime", "StubRuntime", "apiv::VRuntime"),
    ("NvInferImpl.h", "VCudaEngine", "StubEngine", "apiv::VCudaEngine"),
    ("NvInferImpl.h", "VExecutionContext", "StubContext", "apiv::VExecutionContext"),
    ("NvInferRuntimeCommon.h", "IPluginRegistry", "StubRegistry", "IPluginRegistry"),
)
PURE = re.compile(r"virtual\s+([^;{}]*?\))\s*(const)?\s*(noexcept)?\s*=\s*0\s*;", re.DOTALL)


def stub(header: str, name: str, new: str, base: str) -> str:
    """The generated class. header: the text that declares ``name``."""
    header = re.sub(r"//[^\n]*|/\*.*?\*/", "", header, flags=re.DOTALL)
    found = re.search(rf"class (?:TRT_DEPRECATED )?{name}\b[^;{{]*\{{(.*?)\n\}};", header, re.DOTALL)
    assert found, f"no class {name}"
    lines = [f"class {new} : public {base} {{", "  public:"]
    for signature, const, noexcept in PURE.findall(found.group(1)):
        if "~" in signature:
            continue
        plain = re.sub(r"\s*=\s*[^,()]+(\(\))?(?=[,)])", "", " ".join(signature.split()))  # no default arguments
        lines.append(f"    {plain} {const} {noexcept} override {{ std::abort(); }}")
    return "\n".join([*lines, "};", ""])


def main(include: Path, output: Path) -> None:
    parts = [stub((include / file).read_text(), *names) for file, *names in CLASSES]
    head = "#include <NvInferRuntime.h>\n#include <cstdlib>\nnamespace nvinfer1::played {\n"
    output.write_text(head + "\n".join(parts) + "}  // namespace nvinfer1::played\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
