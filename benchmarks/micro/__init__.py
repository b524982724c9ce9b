"""Measurements of TokenSelect alone: timing on a GPU, and the kernel's compiled code and memory traffic on a CPU.

Not in the wheel: it compiles the kernel from a checkout, with the test programs in tests/tools.
"""
