"""Augmented: each generation trains on the real data and on samples of the previous one."""

from common.data import balanced_order, balanced_sample, concatenate, drawn_anew
from common.seeds import INITIAL, Seeds


def training_set(generation, real, synthetic, constants, seeds):
    """The LabelledImages that a generation's model trains on.

    real: all real training images; synthetic(g): the samples of generation g's model. The same
    N_real real images, those of the initial model first, are in every training set; accumulate =
    True adds the samples of all earlier generations, not only the previous one's. Control: the
    same N_real real images, and N_with_w others, drawn anew.
    """
    initial = Seeds(constants.initial_seed, "AugmentedSynthetic")
    fixed = balanced_sample(real, constants.N_real, initial.numpy_generator("real"))
    if generation == INITIAL:
        return fixed
    if constants.control:
        order = balanced_order(real.labels, initial.numpy_generator("real"), whole=True)
        others = real.subset(order[constants.N_real :])
        new = drawn_anew(others, constants.N_with_w, seeds.numpy_generator("control"))
        return concatenate([fixed, new])
    earlier = range(INITIAL, generation) if constants.accumulate else [generation - 1]
    return concatenate([fixed, *(synthetic(g).subset(slice(constants.N_with_w)) for g in earlier)])
