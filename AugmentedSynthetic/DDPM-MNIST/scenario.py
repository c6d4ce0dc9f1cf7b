"""Augmented: each generation trains on the real data and on samples of the previous one."""

from common.data import balanced_sample, concatenate
from common.seeds import INITIAL


def training_set(generation, real, synthetic, constants, seeds):
    """The LabelledImages that a generation's model trains on.

    real: all real training images; synthetic(g): the samples of generation g's model. The same
    N_real real images are in every training set; accumulate = True adds the samples of all
    earlier generations, not only the previous one's.
    """
    real = balanced_sample(real, constants.N_real, seeds.of_run().numpy_generator("real"))
    if generation == INITIAL:
        return real
    earlier = range(INITIAL, generation) if constants.accumulate else [generation - 1]
    return concatenate([real, *(synthetic(g).subset(slice(constants.N_with_w)) for g in earlier)])
