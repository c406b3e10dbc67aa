"""Prints the XLA flags of tests that compile much and compute little: without LLVM's passes, and
without fused kernels where this XLA can do without, they take half as long.
"""

from __future__ import annotations

from importlib.metadata import version


def flags() -> str:
    """What to set XLA_FLAGS to. XLA ends a process that asks for a flag that it does not know."""
    chosen = ["backend_optimization_level=0", "llvm_disable_expensive_passes=true"]
    chosen.append("cpu_parallel_codegen_split_count=1")
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
        chosen.append("cpu_use_fusion_emitters=false")
    return " ".join(f"--xla_{flag}" for flag in chosen)


if __name__ == "__main__":
    print(flags())
