"""The device, its memory, and its precision: TF32, that is faster float32 products on CUDA with
10-bit mantissas, is for training and sampling only."""

import contextlib
import ctypes
import os

import torch

from common.machine import processes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def use(deterministic):
    """Announces the device, and sets it up in every process."""
    set_up(deterministic)
    if processes.device().type == "cuda":
        print(f"device: {torch.cuda.get_device_name()}")
    else:
        threads = torch.get_num_threads()
        print(f"device: CPU, {threads} thread{'' if threads == 1 else 's'}")


@processes.shared
def set_up(deterministic):
    """TF32 on CUDA, and with `deterministic` only kernels that repeat their results bit for bit,
    in every process; on a CPU, memory that is kept."""
    keep_memory()
    allow_tf32()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic cuBLAS needs it
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs up to a tenth
    torch.backends.cudnn.benchmark = not deterministic


def keep_memory(n_bytes=2**28):
    """The C library keeps so much of what is freed for what is wanted next (glibc alone).

    By default it returns the memory of a training step to the system, page by page, and takes it
    again in the next step, a tenth to a fifth of the time on a CPU; on a worker of Dask, which sets
    MALLOC_TRIM_THRESHOLD_ to 64 KB, half of it.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another library, or Windows
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest that is allowed
        mallopt(M_TRIM_THRESHOLD, n_bytes)


def allow_tf32():
    """Float32 products and convolutions on CUDA may use TF32 from now on."""
    for owner, name, on, _ in _switches():
        setattr(owner, name, on)


@contextlib.contextmanager
def full_precision():
    """No TF32 inside: float32 on CUDA means float32. Settings are restored."""
    before = [getattr(owner, name) for owner, name, _, _ in _switches()]
    try:
        for owner, name, _, off in _switches():
            setattr(owner, name, off)
        yield
    finally:
        for (owner, name, _, _), value in zip(_switches(), before, strict=True):
            setattr(owner, name, value)


def _switches():
    """(owner, attribute, its value with TF32, its value without) of products and convolutions."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):  # torch 2.9 and later
        return [(owner, "fp32_precision", "tf32", "ieee") for owner in (cuda, cudnn.conv)]
    return [(owner, "allow_tf32", True, False) for owner in (cuda, cudnn)]
