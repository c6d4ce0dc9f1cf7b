"""Runs scripts of the project in one process and kills it, as the operating system would, at the
n-th event, or the first of a kind or name: in an epoch, a chain of samples, features, a Jacobian,
a t-SNE, or inside a write.

    python killer.py event log script --constant value ... + script --constant value ...

Every event is a line in the file `log`, the last one that at which it died; 0 never kills.
"""

import functools
import os
import runpy
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.loop import stages
from common.machine import disk
from common.metrics import evaluation
from common.model import sample, train
from common.run import plots
from common.spectrum import jacobian

fatal, log = sys.argv[1], open(sys.argv[2], "a", encoding="utf-8")  # noqa: SIM115
count = 0


def event(name):
    global count
    count += 1
    log.write(name + "\n")
    log.flush()
    if fatal in (str(count), name.split()[0], name):
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def epochs(batches, data, *rest):
    for step, batch in enumerate(batches(data, *rest)):
        if step == 1:
            event(f"epoch of {len(data.labels)}")
        yield batch


def announced(function, name):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        event(name)
        return function(*args, **kwargs)

    return wrapped


def write(whole, path, content):
    if ".pdf" in path.name:  # and its hash: written as the PNG beside it is
        return whole(path, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".tmp"), "wb") as file:
        file.write(content[: len(content) // 2])
    event(f"half of {path.name}")
    whole(path, content)
    event(f"whole {path.name}")


train.batches = functools.partial(epochs, train.batches)
sample.ddpm_chain = announced(sample.ddpm_chain, "chain")
jacobian.jacobian = announced(jacobian.jacobian, "Jacobian")
evaluation.extract_mnist_features = announced(evaluation.extract_mnist_features, "features")
plots.tsne = announced(plots.tsne, "t-SNE")
disk.replace = functools.partial(write, disk.replace)
stages.train_lenet = functools.partial(stages.train_lenet, n_step=100)

words = sys.argv[3:] + ["+"]
while words:
    end = words.index("+")
    sys.argv, words = words[:end], words[end + 1 :]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
