"""Published measurements: programs (``python -m tokfilter.benchmarks NAME``), their results, the tables and the report.

study/ has accuracy, baselines and data sets; micro/ the CUDA kernel; records/ writes tables from results/.
"""
