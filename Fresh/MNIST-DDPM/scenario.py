"""Fresh data: each generation trains on samples of the previous one and on new real images."""

from common.data import balanced_order, balanced_sample, balanced_slice, concatenate, drawn_anew
from common.seeds import INITIAL


def training_set(generation, real, synthetic, constants, seeds):
    """The LabelledImages that a generation's model trains on.

    real: all real training images; synthetic(g): the samples of generation g's model. The real
    images are dealt from one class-balanced order: N_initial to the initial model, then N_real to
    each generation, or with resample_real = False the same N_real to every generation. With
    resample_real = "redraw" each generation draws anew and may meet images of earlier draws.
    Control: N_with_w + N_real real images, drawn anew.
    """
    order = balanced_order(real.labels, seeds.of_run().numpy_generator("real"))
    if generation == INITIAL:
        return real.subset(balanced_slice(order, 0, constants.N_real))
    if constants.control:
        n = constants.N_with_w + constants.N_real
        return drawn_anew(real, n, seeds.numpy_generator("control"))
    if constants.resample_real == "redraw":
        fresh = balanced_sample(real, constants.N_real, seeds.numpy_generator("redraw"))
    else:
        turn = generation if constants.resample_real else 0
        start = constants.N_initial + turn * constants.N_real
        fresh = real.subset(balanced_slice(order, start, constants.N_real))
    return concatenate([synthetic(generation - 1).subset(slice(constants.N_with_w)), fresh])
