"""What the stages of a loop share: its files, its data, its random numbers, what it has done."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from common.data import LabelledImages
from common.machine import storage
from common.metrics.evaluation import Reference
from common.run.folder import Run, generation_name, load_images
from common.seeds import INITIAL, Seeds
from common.settings import number_text


@dataclasses.dataclass
class Loop:
    """One loop, in the folder of `run`; training_set is that of its scenario, `scenario` a name."""

    run: Run
    scenario: str
    constants: SimpleNamespace
    training_set: Callable
    real: LabelledImages
    lenet: torch.nn.Module
    reference: Reference
    stages_done: int = 0
    started: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def title(self):
        return f"{self.scenario}, w = {number_text(self.run.w)}"

    def seeds(self, generation):
        return Seeds(self.constants.seed, self.scenario, self.run.w, generation)

    def synthetic(self, generation):
        """The samples of a generation that the next one trains on."""
        return load_images(self.run.samples(generation), "main.py")

    def data(self, generation):
        """The training set of a generation."""
        seeds = self.seeds(generation)
        return self.training_set(generation, self.real, self.synthetic, self.constants, seeds)

    def made_from(self, generation):
        """The files of synthetic images that a generation trains on, and that of the model that its
        weights start from."""
        if generation == INITIAL:
            return []
        accumulate = getattr(self.constants, "accumulate", False)
        earlier = range(INITIAL, generation) if accumulate else [generation - 1]
        paths = [] if self.constants.control else [self.run.samples(g)[0] for g in earlier]
        return [*paths, start] if (start := self.start(generation)) else paths

    def start(self, generation):
        """The file of the model that a generation's weights start from, None for new weights."""
        previous = self.constants.init_from == "previous"
        return self.run.model(generation - 1) if previous else None

    @contextlib.contextmanager
    def stage(self, name, generation):
        """Counts a stage that has work to do and notes its time in timings_w{w}.csv."""
        started = time.perf_counter()
        yield
        self.stages_done += 1
        seconds = f"{time.perf_counter() - started:.2f}"
        row = {"generation": generation_name(generation), "stage": name, "seconds": seconds}
        path = self.run.table("timings")
        storage.save_rows([*storage.load_rows(path), row], path)
