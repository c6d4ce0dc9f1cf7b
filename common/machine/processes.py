"""One process, or several that `torchrun` started, on one machine or on more.

The first process runs the script as if it were alone: what is done and what is in files, it alone
decides and writes. A call of what is `shared` (training, sampling, Jacobians) is a call in every
process; inside, each does its part, and `first` tells all of them what the first one reads.
"""

import contextlib
import datetime
import functools
import os

import torch
import torch.distributed as dist
import torchvision  # noqa: F401  imported late, processes sometimes abort at their end
from torch import nn

from common.machine.errors import UserError, one_line


def led(main):
    """Makes main(...) of a script run in the first process; the others wait for shared calls."""

    @functools.wraps(main)
    def run(*arguments):
        with one_line():
            _join()
        if rank() > 0:
            _serve()
            return
        main(*arguments)
        if count() > 1:  # after an error torchrun ends the others
            dist.broadcast_object_list([None])
            dist.destroy_process_group()

    return run


def shared(function):
    """Makes a call of a module's function in the first process one in every process, but not within
    another. Tensors among the arguments are on the CPU."""

    @functools.wraps(function)
    def call(*arguments, **options):
        if count() > 1 and rank() == 0:
            dist.broadcast_object_list([(call, arguments, options)])
        return function(*arguments, **options)

    return call


def first(work):
    """What work() returns in the first process, in all of them; a UserError in it, too. Only for
    what is shared: work() reads files, or decides."""
    if count() == 1:
        return work()
    box = [None]
    if rank() == 0:
        try:
            box = [work()]
        except UserError as error:
            box = [error]
    dist.broadcast_object_list(box)
    if isinstance(box[0], UserError):
        raise box[0]
    return box[0]


def count():
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank():
    """The number of this process, 0 for the first."""
    return dist.get_rank() if dist.is_initialized() else 0


def device():
    """This process's device: CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def share(n):
    """This process's part of n rows (a slice), and the weight of its mean such that the average of
    the weighted means over the processes is the mean of all rows. Parts are equal within one; where
    there are fewer rows than processes, each gets all of them."""
    if n < count():
        return slice(0, n), 1.0
    start, stop = n * rank() // count(), n * (rank() + 1) // count()
    return slice(start, stop), (stop - start) * count() / n


def gathered(value):
    """[the value of each process], in each of them."""
    values = [value] * count()
    if count() > 1:
        dist.all_gather_object(values, value)
    return values


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
        local, n_gpu = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= n_gpu:
            raise UserError(
                f"more processes than this machine has GPUs: at most --nproc_per_node={n_gpu}"
            )
        torch.cuda.set_device(local)
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
        call, arguments, options = box[0]
        with contextlib.suppress(UserError):  # the first process says it
            call(*arguments, **options)
