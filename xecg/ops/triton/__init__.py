"""Triton backends, one file per op. Empty until a kernel is measured against the CUDA one."""
