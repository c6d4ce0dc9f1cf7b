"""torch.compile for sampling, in jobs that are long enough to earn back the time it takes."""

import functools

import torch
from tqdm import tqdm

from common.machine import processes

# With n_feat 32 on 2 cores, compiling takes 30 s and then saves 12 ms of 59 in each pass.
ENOUGH_PASSES = 5000


def compiled_predicted(network, rows, n_passes):
    """`network.predicted`, compiled where it is given `rows` images of one time.

    Not compiled when a job of n_passes is too short for it, or, with one line that says so, where
    this machine cannot compile (no C++ compiler, no Triton) or the result is another function.
    """
    if n_passes < ENOUGH_PASSES:
        return network.predicted
    torch.compiler.reset()  # else the networks of earlier generations count against a limit
    device = next(network.parameters()).device
    mode = "reduce-overhead" if device.type == "cuda" else "default"  # the former: CUDA graphs
    compiled = torch.compile(network.predicted, dynamic=False, mode=mode)
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(rows, device=device) % network.n_classes
    context = network.context(classes, torch.zeros_like(classes))
    try:
        for i in range(1, 4):  # CUDA graphs warm up in a first call and are recorded in a second
            x = torch.randn(rows, network.in_channels, 28, 28, generator=generator).to(device)
            time = network.time(torch.full((1,), i / 4, device=device))
            expected = network.predicted(x, context, time)
            if not torch.allclose(compiled(x, context, time), expected, atol=1e-2, rtol=1e-2):
                raise ValueError("the compiled network is another function")
    except Exception as error:  # many types, from compilers that are not ours
        _say_once(type(error).__name__)
        return network.predicted
    return lambda x, *embeddings: (compiled if len(x) == rows else network.predicted)(
        x, *embeddings
    )


@functools.cache
def _say_once(reason):
    if processes.rank() == 0:
        tqdm.write(f"torch.compile does not work here ({reason}): sampling without it")
