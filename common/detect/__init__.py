"""When MADness became visible: what detect.py calls with its globals()."""

from common import settings


def detection(script):
    """What jacobian/detect.py runs."""
    constants = settings.from_script(script)
    from common.detect import verdict

    verdict.main(constants)
