"""Limits of open files, in processes of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from tokfilter.runtime.service.descriptors import connections_from_descriptors
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
found = connections_from_descriptors(connections, 50)
print(found, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def found(*numbers):
    command = [sys.executable, "-c", PROGRAM, *map(str, numbers)]
    return [int(n) for n in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_the_soft_limit_is_raised_as_far_as_needed_and_allowed():
    fit, soft, hard = found(200, 1000, 300)
    assert fit == 300 and 382 <= soft < 500 and hard == 1000
    fit, soft, _ = found(200, 300, 300)
    assert 150 <= fit <= 218 and soft == 300
    assert found(900, 1000, 300)[1] == 900  # enough already
    assert found(60, 80, 300)[0] < 1
