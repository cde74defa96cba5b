"""Peak arithmetic throughput of GPUs, as their maker states it."""

import re

__all__ = ["SOURCE", "peak"]

# Peak TFLOP/s by the name of the device. NVIDIA's data sheets state tensor cores with sparsity; dense work has half.
SOURCE = "NVIDIA's data sheets of H100, H200, A100, L4 and T4; the Ada architecture white paper for RTX 4090"
PEAKS: dict[str, dict[str, float]] = {
    r"NVIDIA H100( SXM\d?)?( \d+GB)? HBM3": {"fp32": 67, "tf32": 989 / 2, "bf16": 1979 / 2},
    r"NVIDIA H100 PCIe": {"fp32": 51, "tf32": 756 / 2, "bf16": 1513 / 2},
    r"NVIDIA H200": {"fp32": 67, "tf32": 989 / 2, "bf16": 1979 / 2},
    r"(NVIDIA )?A100((?! MIG ).)*": {"fp32": 19.5, "tf32": 312 / 2, "bf16": 624 / 2},
    r"NVIDIA GeForce RTX 4090": {"fp32": 82.6, "tf32": 165.2 / 2, "bf16": 330.3 / 2},
    r"NVIDIA L4": {"fp32": 30.3, "tf32": 120 / 2, "bf16": 242 / 2},
    r"(Tesla|NVIDIA) T4": {"fp32": 8.1},
}


def peak(device_name: str, precision: str) -> float | None:
    """The peak TFLOP/s of a device for dense work in a precision; None if it is not known."""
    for pattern, peaks in PEAKS.items():
        if re.fullmatch(pattern, device_name):
            return peaks.get(precision)
    return None
