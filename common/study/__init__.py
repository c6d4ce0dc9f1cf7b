"""Many loops and what they say: what study.py calls with its globals()."""

from common import settings


def main(script):
    """What jacobian/study.py runs."""
    constants = settings.from_script(script)
    from common.study import units

    units.main(constants)
