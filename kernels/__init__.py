"""TokenSelect: the op contract, its reference, its torch op, its ONNX function and its CUDA kernel."""
