"""The C structs as ctypes has them are those of the header, field by field."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT

from tokfilter.benchmarks.gpu_proof.library_worker import Call, Options, call_of

INCLUDE = ROOT / "runtime" / "cpp" / "include"


@pytest.mark.parametrize(("name", "struct"), [("tokfilter_call", Call), ("tokfilter_options", Options)])
def test_the_fields_lie_where_the_header_has_them(name: str, struct: type[ctypes.Structure], tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: apt-get install gcc")
    names = [field[0] for field in struct._fields_]
    offsets = "".join(f'printf("%zu ", offsetof({name}, {field}));' for field in names)
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <tokfilter/tokfilter.h>\n"
        f'int main(void) {{ {offsets} printf("%zu\\n", sizeof({name})); return 0; }}\n'
    )
    subprocess.run([compiler, f"-I{INCLUDE}", str(source), "-o", str(tmp_path / "offsets")], check=True)
    printed = subprocess.run([tmp_path / "offsets"], check=True, capture_output=True, text=True).stdout
    assert [int(word) for word in printed.split()] == [
        *(getattr(struct, field).offset for field in names),
        ctypes.sizeof(struct),
    ]


def test_a_call_has_its_arrays_and_no_pixels() -> None:
    images, logits = np.zeros((3, 3, 8, 16), np.float32), np.zeros((3, 10), np.float32)
    call = call_of(images, 5, logits)
    assert (call.images, call.logits, call.logits_room) == (images.ctypes.data, logits.ctypes.data, 30)
    assert (tuple(call.shape), call.tokens, call.pixels, call.indices) == ((3, 3, 8, 16), 5, None, None)
    assert call.struct_size == ctypes.sizeof(Call)
