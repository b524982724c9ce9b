"""Rewrites into ONNX Runtime's contrib ops (domain com.microsoft) for its CUDA provider."""
