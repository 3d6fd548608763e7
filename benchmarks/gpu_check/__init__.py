"""Checks Septet on a CUDA machine in ten minutes: `python -m benchmarks.gpu_check`, or `make gpu-check`.

Each check runs in a process of its own, so that none sees another's settings and a lost device ends only one.
"""
