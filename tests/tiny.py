"""Runs of a few seconds: scripts as users run them, and the same loops called in this process."""

import ast
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from common.data import load_real
from common.loop import initial, loop, stages
from common.machine import storage
from common.metrics.fid import calculate_frechet_distance, feature_statistics
from common.metrics.lenet import extract_mnist_features, train_lenet
from common.model.sample import Sampling, generate_samples
from common.run.folder import Run, load_ddpm, load_images, load_lenet
from common.seeds import Seeds
from common.spectrum import measure

ROOT = Path(__file__).resolve().parents[1]
FULL = ROOT / "FullSynthetic" / "DDPM-MNIST"
PATIENCE = 600  # seconds that a process may take before the test fails

# Overrides under which a script takes seconds, with the same bits on a GPU, too; the networks they
# give are far from trained.
TINY = {
    "dataset": "digits",
    "n_feat": 8,
    "n_T": 8,
    "beta2": 0.5,
    "n_epoch": 2,
    "batch_size": 32,
    "lrate": 1e-3,
    "max_c": 30,
    "save_every": 0,
    "deterministic": torch.cuda.is_available(),
}
SPECTRA = ROOT / "jacobian" / "spectra.py"
TINY_SPECTRA = {"dataset": "digits", "n_anchors": 10, "timesteps": [400]}
TINY_INITIAL = {**TINY, "N_real": 320, "N_with_w": 70}
TINY_MAIN = {**TINY, "N_next": 70, "N_eval": 45, "generation_number": 2}


# What can become of a file's bytes.
DAMAGES = {
    "truncated": lambda content: content[:-1],
    "zeroed": lambda content: bytes(len(content)),
    "bit-flipped": lambda content: content[:5] + bytes([content[5] ^ 1]) + content[6:],
    "replaced": lambda content: b"of another generation",
}


def command_line(script, constants):
    """The words that run a script with these constants, without the interpreter."""
    words = [str(script)]
    for name, value in constants.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run_script(script, cwd=None, **constants):
    """Runs a script in a process of its own; returns it finished, with its output as text."""
    return subprocess.run(
        [sys.executable, *command_line(script, constants)],
        cwd=cwd or script.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=PATIENCE,
    )


def killed_at(event, log, words):
    """Runs these scripts, separated by "+", in one process that killer.py kills at the event of
    this number, kind or name, a line in the file `log`; 0: never. Returns it ended."""
    killer = [sys.executable, ROOT / "tests" / "killer.py", str(event), log]
    return subprocess.run([*killer, *words], capture_output=True, text=True, timeout=PATIENCE)


def constants_of(script, **changes):
    """The script's constants as `settings.from_script` gives them, with changes."""
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(script.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
    }
    return SimpleNamespace(**{**values, **changes}, script=script)


@functools.cache
def feature_network():
    return train_lenet(load_real("digits"), Seeds(0, "tests"), n_step=200).state_dict()


def initialmain(save_dir, folder=FULL, **changes):
    """initialmain.py in this process, with a feature network that is trained for 200 steps only."""
    path = Path(save_dir) / "prmodel.pth"
    if not path.exists():
        storage.save(feature_network(), path)
    changes = {**TINY_INITIAL, "save_dirs": [Path(save_dir)], **changes}
    initial.main(constants_of(folder / "initialmain.py", **changes))


def main(save_dir, folder=FULL, **changes):
    """main.py in this process."""
    changes = {**TINY_MAIN, "save_dir": Path(save_dir), **changes}
    loop.main(constants_of(folder / "main.py", **changes))


def spectra(folder, **changes):
    """spectra.py in this process."""
    measure.main(constants_of(SPECTRA, **{**TINY_SPECTRA, "run_dir": Path(folder), **changes}))


def consistent(folder, generations, tmp_path, trained=(0, 1)):
    """Asserts from outside that a loop's models, those in `trained`, are what training on the
    samples before them gives, the samples those of the models, and the metrics those of the
    samples, up to rounding."""
    files = Run(folder, 0)
    lenet = load_lenet(files.prmodel)
    real = feature_statistics(extract_mnist_features(load_real("digits").images, lenet))
    rows = {row["generation"]: row for row in files.metrics()}
    for g in generations:
        ddpm, seeds = load_ddpm(files.model(g)), Seeds(0, "FullSynthetic", 0, g)
        if g in trained:
            again = Run(tmp_path / "again", 0)
            constants = constants_of(FULL / "main.py", **{**TINY_MAIN, "save_every": 1e9})
            stages.train(again, g, load_images(files.samples(g - 1)), constants, seeds, "")
            expected = load_ddpm(again.model(g)).state_dict()
            changes = [(v - expected[k]).abs().flatten() for k, v in ddpm.state_dict().items()]
            assert torch.cat([each.float() for each in changes]).mean() < 5e-5  # threads: 1e-5
        for paths, stage in ((files.evaluation(g), "evaluation"), (files.samples(g), "samples")):
            found = load_images(paths).images
            how = {"partial_path": tmp_path / "part", "save_every": 1e9, "name": "test"}
            expected = generate_samples(
                ddpm, len(found), 0, Sampling(max_c=30), seeds=seeds, stage=stage, **how
            )
            assert (found.int() - expected.images.int()).abs().max() <= 1
        images, _ = load_images(files.evaluation(g))
        fake = feature_statistics(extract_mnist_features(images, lenet))
        fid = calculate_frechet_distance(*fake, *real)
        assert abs(rows[g]["fid"] - fid) <= 1e-6 * fid
        assert storage.sha256(files.model(g)).startswith(rows[g]["model"])


def copied(source, target, leave_out=()):
    """A copy of a run's folder without the files in leave_out (glob patterns)."""
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns(*leave_out))


def hashes(folder):
    """{file name: SHA-256} of a run's reproducible files (without times, records, locks)."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(("timings", "run_"))
        and not path.name.endswith((".html", ".lock"))
    }
