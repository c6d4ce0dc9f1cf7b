"""Random numbers as a function of (seed, scenario, w, generation, stage, index), never of a state.

So a resumed run equals an uninterrupted one, and no stage can change the numbers of another.
"""

import dataclasses
import struct
import zlib

import numpy as np
import torch

INITIAL = -1  # the "generation" of the model that is trained on real data


@dataclasses.dataclass(frozen=True)
class Seeds:
    """The sources of randomness of one generation of one loop."""

    seed: int
    scenario: str
    w: float = 0
    generation: int = INITIAL

    def sequence(self, stage, index=0):
        """The SeedSequence of one stage (a name) and index (an epoch, a block of images, ...)."""
        key = (
            zlib.crc32(self.scenario.encode()),
            *struct.unpack("<2I", struct.pack("<d", self.w + 0.0)),
            self.generation + 1,
            zlib.crc32(stage.encode()),
            index,
        )
        return np.random.SeedSequence(self.seed, spawn_key=key)

    def of_run(self):
        """The source shared by all generations and weights of a scenario."""
        return dataclasses.replace(self, w=0, generation=INITIAL)

    def number(self, stage, index=0):
        """64 random bits, for what takes an integer seed (of which torch uses 32 on a CPU)."""
        return int(self.sequence(stage, index).generate_state(1, np.uint64)[0])

    def numpy_generator(self, stage, index=0):
        return np.random.default_rng(self.sequence(stage, index))

    def torch_generator(self, stage, index=0, device="cpu"):
        return torch.Generator(device).manual_seed(self.number(stage, index))

    def initialised(self, build, stage="weights"):
        """build() with its weights drawn from this source; PyTorch's global state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.number(stage))
            return build()
