"""Fully synthetic: each generation trains only on the samples of the previous one."""

from common.data import balanced_sample, drawn_anew
from common.seeds import INITIAL


def training_set(generation, real, synthetic, constants, seeds):
    """The LabelledImages that a generation's model trains on.

    real: all real training images; synthetic(g): the samples of generation g's model, of which
    N_next are taken. The initial model trains on N_real real images. Control: N_next real images,
    drawn anew.
    """
    if generation == INITIAL:
        return balanced_sample(real, constants.N_real, seeds.numpy_generator("real"))
    if constants.control:
        return drawn_anew(real, constants.N_next, seeds.numpy_generator("control"))
    return synthetic(generation - 1).subset(slice(constants.N_next))
