"""``make gpu-proof``: everything that this project claims about a GPU, built, compared and measured on one, in minutes.

    program      options, summary, exit code
    runner       steps in the order of their value, each in a child process with a time limit
    step_process the child: runs one step, writes each result as a JSON line when it is known
    steps        the table of steps; golden, speed, int8, attention, native_library, sanitizer: what they do
    document     gpu-proof.json, rewritten atomically after every result

TensorRT may need another Python than PyTorch does (8.6: CPython 3.10): graphs and golden tensors are made in this one,
engines are built and run by workers (``build_worker``, ``inspect_worker``, ``library_worker``) in TensorRT's.
"""
