"""A run's folder: which file holds what, and the record of how the run was made."""

import dataclasses
import re
from pathlib import Path

import torch

from common.data import LabelledImages
from common.machine import processes, storage
from common.machine.errors import UserError
from common.metrics import lenet
from common.model import ddpm
from common.seeds import INITIAL
from common.settings import number_text

SPECTRA = {"test": "spectra", "samples": "spectra_of_samples"}  # tables by `anchors_from`


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of one loop with guidance weight w, by the names that users know.

    A generation is a number from 0, or INITIAL for the model trained on real data.
    """

    folder: Path
    w: float

    def _path(self, stem, generation, suffix=""):
        tag = generation_name(generation)
        if generation == INITIAL and not stem.endswith("_"):
            tag = f"_{tag}"
        return self.folder / f"{stem}{tag}_w{number_text(self.w)}{suffix}"

    def model(self, generation):
        if generation == INITIAL:
            return self.folder / "model_initial.pth"
        return self._path("model_", generation, ".pth")

    def samples(self, generation):
        """Images for the next generation, sampled at guidance w, and their labels."""
        return (
            self._path("gen_data_with_w", generation),
            self._path("gen_index_with_w", generation),
        )

    def evaluation(self, generation):
        """Images for the metrics, sampled at guidance 0, and their labels."""
        return (
            self._path("gen_data_without_w", generation),
            self._path("gen_index_without_w", generation),
        )

    def strip(self, generation):
        """Three images of each class, from the same noise in every generation; their labels."""
        return self._path("gen_data_strip", generation), self._path("gen_index_strip", generation)

    def training_state(self, generation):
        return self._path("training_", generation, ".pth")

    def losses(self, generation):
        return self._path("losses_", generation, ".csv")

    def figure(self, kind, generation=None):
        if generation is None:
            return self.table(kind, "png")
        return self._path(f"{kind}_", generation, ".png")

    def table(self, kind, suffix="csv"):
        return self.folder / f"{kind}_w{number_text(self.w)}.{suffix}"

    def has_begun(self):
        """Whether a finished stage of the loop is there."""
        models = self.folder.glob(f"model_*_w{number_text(self.w)}.pth")
        return self.evaluation(INITIAL)[0].exists() or any(models)

    @property
    def prmodel(self):
        return self.folder / "prmodel.pth"

    def metrics(self):
        """The rows of metrics_w{w}.csv, numbers as numbers, the initial model's row first."""
        rows = []
        for row in storage.load_rows(self.table("metrics")):
            name = row.pop("generation")
            model, n_eval = row.pop("model"), int(row.pop("N_eval"))
            numbers = {key: float(value) for key, value in row.items() if value}
            numbers |= {key: int(n) for key, n in numbers.items() if key.startswith("N_")}
            generation = INITIAL if name == generation_name(INITIAL) else int(name)
            rows.append({"generation": generation, "model": model, "N_eval": n_eval, **numbers})
        return rows

    def save_metrics(self, rows):
        named = [
            {**row, "generation": generation_name(row["generation"])}
            for row in sorted(rows, key=lambda row: row["generation"])
        ]
        storage.save_rows(named, self.table("metrics"))


def generation_name(generation):
    """A generation's name in file names, titles and tables."""
    return "initial" if generation == INITIAL else str(int(generation))  # also of an array


def model_name(generation):
    """A generation's model in messages."""
    return "initial model" if generation == INITIAL else f"generation {generation}"


def guidance_weights(folder):
    """The guidance weights of the loops in a folder, by their records."""
    names = (
        re.fullmatch(r"run_w(\d[\d.]*(?:e-\d+)?)\.json", path.name) for path in folder.iterdir()
    )
    return sorted(float(name[1]) for name in names if name)


def load_ddpm(path, made_by="initialmain.py"):
    """The DDPM in a checkpoint, in eval mode on this machine's device."""
    return _network(ddpm, path, made_by).to(processes.device())


def load_lenet(path):
    """The feature network prmodel.pth, in eval mode on this machine's device."""
    return _network(lenet, path, "initialmain.py").to(processes.device())


def _network(module, path, made_by):
    try:
        return module.from_state_dict(storage.load(path, made_by))
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} does not fit: {error}") from error


def load_images(paths, made_by="initialmain.py"):
    """LabelledImages from the files of images and of labels; UserError when they do not fit."""
    images, labels = (storage.load(path, made_by) for path in paths)
    labels = torch.as_tensor(labels).long()
    expected = (len(images), 1, 28, 28)
    if images.dtype != torch.uint8 or tuple(images.shape) != expected or len(images) == 0:
        raise UserError(
            f"{paths[0]}: expected uint8 images (N, 1, 28, 28), "
            f"found {images.dtype} {tuple(images.shape)}"
        )
    if labels.shape != (len(images),) or not 0 <= int(labels.min()) <= int(labels.max()) <= 9:
        raise UserError(
            f"{paths[1]}: expected {len(images)} labels from 0 to 9, one for each image in "
            f"{paths[0].name}, found shape {tuple(labels.shape)}"
        )
    return LabelledImages(images, labels)


def save_images(data, paths):
    """Labels first: a file of images is complete only when its labels are there."""
    storage.save(data.labels, paths[1])
    storage.save(data.images, paths[0])
