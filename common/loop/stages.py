"""The stages of a generation that need the network: training a model, and sampling from it.

A stage is complete when its files are there; what an interrupted one saved lies beside it. What is
`shared` runs in all processes, of which the first one reads and writes.
"""

import torch

from common.data import LabelledImages, load_real
from common.loop import rows, sources
from common.machine import processes, records, storage
from common.machine.errors import UserError
from common.metrics.lenet import accuracy, train_lenet
from common.model.ddpm import DDPM
from common.model.sample import Sampling, generate_samples
from common.model.train import Training, save_losses, train_ddpm
from common.model.unet import ContextUnet
from common.run.folder import load_ddpm, model_name, save_images
from common.seeds import INITIAL, Seeds
from common.settings import number_text

PURPOSES = {"samples": " for the next generation", "evaluation": " for the metrics", "strip": ""}
N_STRIP = 30  # images in a generation's strip, three of each class


# What a generation of a loop does


def train_generation(loop, g, data):
    """Trains and saves this generation's model; data(): its training set."""
    source = sources.source_of(loop.made_from(g))
    if not sources.reuse_model(loop.run, g, source):
        with loop.stage("training", g):
            train(loop.run, g, data(), loop.constants, loop.seeds(g), source, loop.start(g))


def sample_next(loop, g):
    """Samples the images that the next generation trains on, at guidance w."""
    files, n = loop.run.samples(g), n_next(loop.constants)
    if loop.constants.control:  # nothing would train on them
        return
    if not sources.reuse_samples(loop.run, g, files):
        rows.drop(loop.run, g)
        with loop.stage("sampling", g):
            sample(loop.run, g, files, n, loop.run.w, "samples", loop.constants, loop.seeds(g))


def sample_evaluation(loop, g):
    """Samples this generation's images for the metrics, at guidance 0."""
    files, n = loop.run.evaluation(g), loop.constants.N_eval
    if not sources.reuse_samples(loop.run, g, files):
        rows.drop(loop.run, g)
        with loop.stage("sampling for evaluation", g):
            sample(loop.run, g, files, n, 0, "evaluation", loop.constants, loop.seeds(g))


def sample_strip(loop, g):
    """Samples images of each class, at guidance w, from the same noise in every generation."""
    files, seeds = loop.run.strip(g), loop.seeds(INITIAL)
    if not sources.reuse_samples(loop.run, g, files):
        with loop.stage("sampling the strip", g):
            sample(loop.run, g, files, N_STRIP, loop.run.w, "strip", loop.constants, seeds)


def n_next(constants):
    """How many images a generation's model samples for the next."""
    return constants.N_next if hasattr(constants, "N_next") else constants.N_with_w


# In every process


@processes.shared
def train(run, generation, data, constants, seeds, source, start=None):
    """Trains a DDPM on LabelledImages and saves its losses, then the model.

    source: the hash of what the model is made from; start: the model that its weights come from.
    """
    training, state_path = Training.of(constants), run.training_state(generation)
    betas = constants.beta1, constants.beta2

    def begin():
        images, model = data.images.numpy().tobytes(), (constants.n_feat, constants.n_T, *betas)
        sources.begin(state_path, images, training, model, seeds, start and storage.sha256(start))
        records.save_source(run.model(generation), source)

    processes.first(begin)
    ddpm = seeds.initialised(
        lambda: DDPM(ContextUnet(1, constants.n_feat, constants.n_classes), betas, constants.n_T)
    )
    if start is not None:
        ddpm.load_state_dict(processes.first(lambda: _fitting(start, ddpm, constants)))
    title = model_name(INITIAL) if generation == INITIAL else _title(run, generation)  # it has no w
    losses = train_ddpm(
        ddpm.to(processes.device()),
        LabelledImages(*data).to(processes.device()),
        training,
        seeds=seeds,
        state_path=state_path,
        losses_path=run.losses(generation),
        save_every=constants.save_every,
        name=f"{title}: training on {len(data.labels):,} images",
    )
    if processes.rank() == 0:
        save_losses(losses, run.losses(generation))
        storage.save(ddpm.state_dict(), run.model(generation))
        storage.delete(state_path)


def _fitting(start, ddpm, constants):
    """The state dict in the file `start`; UserError when its DDPM is not one like `ddpm`."""
    previous = load_ddpm(start).cpu()
    if (previous.nn_model.n_feat, previous.n_T) != (constants.n_feat, constants.n_T):
        raise UserError(
            f"{start} has n_feat = {previous.nn_model.n_feat} and n_T = {previous.n_T}: "
            "give the same, or init_from = scratch"
        )
    if not torch.allclose(previous.sqrtmab, ddpm.sqrtmab, atol=1e-5):
        raise UserError(
            f"{start} was trained with other betas than beta1 = {constants.beta1} and beta2 = "
            f"{constants.beta2}: give the same, or init_from = scratch"
        )
    return previous.state_dict()


@processes.shared
def sample(run, generation, files, n, w, stage, constants, seeds):
    """Samples n images from the saved model at guidance w into `files`.

    files: the paths of images and labels; stage names the source of noise among `seeds`.
    """
    path, partial = run.model(generation), sources.partial(files[0])

    def begin():
        model = storage.sha256(path)
        chain = constants.sampler, constants.sample_steps, constants.eta, constants.clip_x0
        sources.begin(partial, model, n, float(w), stage, seeds, chain)
        records.save_source(files[0], model)
        return load_ddpm(path).cpu()

    data = generate_samples(
        processes.first(begin).to(processes.device()),
        n,
        w,
        Sampling.of(constants),
        seeds=seeds,
        stage=stage,
        partial_path=partial,
        save_every=constants.save_every,
        name=f"{_title(run, generation)}: sampling {n:,} images{PURPOSES[stage]}",
    )
    if processes.rank() == 0:
        save_images(data, files)
        storage.delete(partial)


def train_feature_network(run, constants, real, source):
    """Trains LeNet on all real training images (source: their hash) and saves it, unless it is
    there.

    It is the same for every scenario and seed: FIDs by different networks cannot be compared.
    """
    test = load_real(constants.dataset, train=False)  # before any work, that it is there
    if sources.reuse([run.prmodel], source):
        return
    records.save_source(run.prmodel, source)
    print("training the feature network prmodel.pth ...")
    network = train_lenet(real.to(processes.device()), Seeds(0, "feature network"))
    storage.save(network.state_dict(), run.prmodel)
    percent = 100 * accuracy(network, test)
    print(f"prmodel.pth classifies {percent:.2f} % of the test images correctly")


def _title(run, generation):
    return f"w = {number_text(run.w)}, {model_name(generation)}"
