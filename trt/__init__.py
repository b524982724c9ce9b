"""TensorRT and TensorRT-RTX: import, log, version facts, remedies, building and deserialising engines; GPUs by NVML.

The only room that imports either package. Neither torch nor onnx is needed here.
"""
