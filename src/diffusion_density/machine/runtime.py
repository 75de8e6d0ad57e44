"""Settings of this process: threads, precision of matrix products, memory. Set once, at the start of a command."""

import ctypes
import logging
import sys
from contextlib import suppress

import torch

_LOG = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's mallopt


def configure(threads: int) -> None:
    """Prepare this process for computation.

    Precision "medium" of float32 matrix products allows faster single-precision kernels on processors with wide
    vectors, but on some processors also bfloat16 products. It is used only if the error of a product, compared with
    double precision, is that of single precision.

    Args:
        threads: number of threads of torch's operations.
    """
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("medium")
    if matmul_error() > 1e-6:
        _LOG.warning("float32 products at precision 'medium' are not accurate on this machine: using 'highest'")
        torch.set_float32_matmul_precision("highest")
    if sys.platform.startswith("linux"):
        _keep_memory()


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether to compute convolutions in bfloat16; ``auto`` means yes where the device has bfloat16 instructions.

    Processors without them emulate them, many times slower than float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def matmul_error() -> float:
    """Relative root-mean-square error of a float32 matrix product under the current settings."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator, dtype=torch.float64).float() for _ in range(2))
    exact = a.double() @ b.double()
    return ((a @ b - exact).square().mean() / exact.square().mean()).sqrt().item()


def _keep_memory() -> None:
    """Make glibc keep freed memory: each step allocates activations again, and new pages cost more than arithmetic."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(_M_TOP_PAD, 1 << 26)
