"""The self-consuming loop: what the three scripts of every scenario call with their globals().

A script's constants are read, and found right, before torch is imported: an error is told at once.
"""

from common import settings


def initialmain(script):
    """What initialmain.py runs."""
    constants = settings.from_script(script)
    from common.loop import initial

    initial.main(constants)


def main(script):
    """What main.py runs."""
    constants = settings.from_script(script)
    from common.loop import loop

    loop.main(constants)


def mainall(script):
    """What mainall.py runs."""
    constants = settings.from_script(script)
    from common.loop import loop

    loop.mainall(constants)
