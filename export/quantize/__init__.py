"""INT8 and FP8: calibration, Q/DQ nodes around the Linear layers, and the gate on top-1."""
