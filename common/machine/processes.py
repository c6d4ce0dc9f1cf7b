"""One process, or several that `torchrun` started, on one machine or on more.

The first process runs the script as if it were alone. The others wait, and take part in what
`together` hands out: training, sampling, Jacobians. Only the first reads and writes files.
"""

import contextlib
import datetime
import functools
import os

import torch
import torch.distributed as dist
from torch import nn

from common.machine.errors import UserError


def led(main):
    """Makes main(...) of a script run in the first process while the others wait for work."""

    @functools.wraps(main)
    def run(*arguments):
        _join()
        if rank() > 0:
            _serve()
            return
        main(*arguments)
        if count() > 1:  # after an error torchrun ends the others
            dist.broadcast_object_list([None])
            dist.destroy_process_group()

    return run


def count():
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this process, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def device():
    """This process's device: CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def together(function, *arguments, **options):
    """function(*arguments, **options) in every process; returns what the first one's returns.

    All tensors must be on the CPU, and function one of a module. For the first process only.
    """
    if count() > 1:
        dist.broadcast_object_list([(function, arguments, options)])
    return function(*arguments, **options)


def share(n):
    """This process's part of n rows (a slice), and the weight of its mean such that the average of
    the weighted means over the processes is the mean of all rows. Parts are equal within one; where
    there are fewer rows than processes, each gets all of them."""
    if n < count():
        return slice(0, n), 1.0
    start, stop = n * rank() // count(), n * (rank() + 1) // count()
    return slice(start, stop), (stop - start) * count() / n


def gathered(work):
    """[work() of each process], in each of them. A UserError in one of them is raised in all."""
    try:
        mine = work()
    except UserError as error:
        mine = error
    results = [mine]
    if count() > 1:
        results = [None] * count()
        dist.all_gather_object(results, mine)
    for result in results:
        if isinstance(result, UserError):
            raise result
    return results


def averaged(values):
    """The mean over the processes of a tensor that each of them has, in each of them."""
    if count() > 1:
        dist.all_reduce(values)
        values /= count()
    return values


def replicated(network):
    """The network such that backward() averages its gradients over the processes; on CUDA its
    BatchNorm, changed in place, normalises by the whole batch and not by a process's part."""
    if count() == 1:
        return network
    if next(network.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(network)


def _join():
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if cuda and dist.is_nccl_available() else "gloo"
    # The others wait while the first one measures and draws, however long that takes.
    dist.init_process_group(backend, timeout=datetime.timedelta(days=30))


def _serve():
    while True:
        box = [None]
        dist.broadcast_object_list(box)
        if box[0] is None:
            dist.destroy_process_group()
            return
        function, arguments, options = box[0]
        with contextlib.suppress(UserError):  # the first process says it
            function(*arguments, **options)
