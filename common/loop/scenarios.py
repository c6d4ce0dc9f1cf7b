"""What a scenario is to the loops: a name, and the function `training_set` in its scenario.py."""

import importlib.util

from common.machine import storage
from common.machine.errors import UserError


def name_of(constants):
    """The scenario that a script belongs to, by its folder."""
    return constants.script.parents[1].name


def training_set_of(folder):
    """The function `training_set` of a scenario's folder: in all of them it has one name."""
    spec = importlib.util.spec_from_file_location(f"scenario_of_{folder}", folder / "scenario.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.training_set


def share(names, source, target):
    """Copies these files of the folder source to target; those that are there must be the same."""
    for name in names:
        if not storage.verify(source / name):
            continue
        if not storage.verify(target / name):
            storage.copy(source / name, target / name)
        elif storage.sha256(source / name) != storage.sha256(target / name):
            raise UserError(f"{name} differs between {source} and {target}: keep one of the two")
