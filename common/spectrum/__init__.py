"""The spectrum of J^T J: what spectra.py and compare.py call with their globals()."""

MOST_STEPS = 10_000  # n_T is below: an anchor has a noise of its own for each step

# Statistics of the spectrum that detection watches. Trace and degrees of freedom are linear in the
# posterior variance: watching them too would add nothing.
WATCHED = (
    "posterior_variance",
    "effective_rank",
    "stable_rank",
    "sigma_norm",
    "log_energy",
    "asymmetry",
    "log_posterior_20",
    "free_directions",
    "log_singular_20",
    "log_singular_60",
    "tangent_variance_10",
    "tangent_variance_20",
)


def spectra(script):
    """What jacobian/spectra.py runs."""
    from common.settings import from_script

    constants = from_script(script)
    from common.spectrum import measure

    measure.main(constants)


def comparison(script):
    """What jacobian/compare.py runs."""
    from common.settings import from_script

    constants = from_script(script)
    from common.spectrum import compare

    compare.main(constants)
