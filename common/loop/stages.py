"""The stages of a generation that leave files: training a model, and sampling from it.

A stage is complete when its files are there; what an interrupted one saved lies beside it.
"""

import torch

from common.data import LabelledImages, load_real
from common.machine import processes, storage
from common.machine.errors import UserError
from common.metrics.lenet import accuracy, train_lenet
from common.model.ddpm import DDPM
from common.model.sample import generate_samples
from common.model.train import Training, save_losses, train_ddpm
from common.model.unet import ContextUnet
from common.run.folder import load_ddpm, save_images
from common.seeds import INITIAL, Seeds
from common.settings import number_text

INITIAL_MODEL = "initial model"  # what messages call it
PURPOSES = {"samples": " for the next generation", "evaluation": " for the metrics", "strip": ""}


def train(run_, generation, data, constants, seeds, source, start=None):
    """Trains a DDPM on LabelledImages and saves its losses, then the model.

    source: the hash of what the model is made from; start: the model that its weights come from.
    """
    training, images = Training.of(constants), data.images.numpy().tobytes()
    model = constants.n_feat, constants.n_T, constants.beta1, constants.beta2
    begun_from = start and storage.sha256(start)
    _begin(run_.training_state(generation), images, training, model, seeds, begun_from)
    storage.note_source(run_.model(generation), source)
    ddpm = seeds.initialised(
        lambda: DDPM(
            ContextUnet(1, constants.n_feat, constants.n_classes),
            (constants.beta1, constants.beta2),
            constants.n_T,
        )
    )
    if start is not None:
        previous = load_ddpm(start)
        if (previous.nn_model.n_feat, previous.n_T) != (constants.n_feat, constants.n_T):
            raise UserError(
                f"{start} has n_feat = {previous.nn_model.n_feat} and n_T = {previous.n_T}: "
                "give the same, or init_from = scratch"
            )
        if not torch.allclose(previous.sqrtmab.cpu(), ddpm.sqrtmab, atol=1e-5):
            raise UserError(
                f"{start} was trained with other betas than beta1 = {constants.beta1} and beta2 = "
                f"{constants.beta2}: give the same, or init_from = scratch"
            )
        ddpm.load_state_dict(previous.state_dict())
    of = INITIAL_MODEL if generation == INITIAL else _title(run_, generation)  # it has no w
    losses = train_ddpm(
        ddpm.to(processes.device()),
        LabelledImages(*data).to(processes.device()),
        training,
        seeds=seeds,
        state_path=run_.training_state(generation),
        losses_path=run_.losses(generation),
        save_every=constants.save_every,
        name=f"{of}: training on {len(data.labels):,} images",
    )
    save_losses(losses, run_.losses(generation))
    storage.save(ddpm.state_dict(), run_.model(generation))
    storage.remove(run_.training_state(generation))


def sample(run_, generation, files, n, w, stage, constants, seeds):
    """Samples n images from the saved model at guidance w into `files`, unless they are there.

    files: the paths of images and labels; stage names the source of noise among `seeds`.
    """
    images, _ = files
    if is_sampled(run_, generation, files):
        return
    model = storage.sha256(run_.model(generation))
    chain = constants.sampler, constants.sample_steps, constants.eta, constants.clip_x0
    _begin(partial(images), model, n, float(w), stage, seeds, chain)
    storage.note_source(images, model)
    data = generate_samples(
        load_ddpm(run_.model(generation)),
        n,
        w,
        max_c=constants.max_c,
        seeds=seeds,
        stage=stage,
        partial_path=partial(images),
        save_every=constants.save_every,
        name=f"{_title(run_, generation)}: sampling {n:,} images{PURPOSES[stage]}",
        sampler=constants.sampler,
        sample_steps=constants.sample_steps,
        eta=constants.eta,
        clip_x0=constants.clip_x0,
        fast=constants.fast,
    )
    save_images(data, files)
    storage.remove(partial(images))


def _begin(unfinished, *made_from):
    """Notes what an unfinished file is made from (bytes, or what has a repr of its own); removes
    what a stopped work of other things left there, or of an earlier version, which noted none."""
    parts = [part if isinstance(part, bytes) else repr(part).encode() for part in made_from]
    source = storage.digest(*parts)
    if storage.noted(unfinished) != source:
        if unfinished.exists():
            print(f"note: {unfinished.name} was begun from other things: it begins anew")
        storage.remove(unfinished)
    storage.note_source(unfinished, source)


def source_of(paths, hash_of=storage.sha256):
    """What is noted of a model: one hash of the files that it is made from."""
    return storage.digest(*(hash_of(path).encode() for path in paths))


def adopt(run_, generation, made_from, measured=""):
    """Notes for a generation's files of an earlier version, which noted none, what they were made
    from: what was recorded when that was written, whatever became of it since.

    made_from: the files that the model is made from; measured: the beginning of the hash of the
    model in the metrics. Where that is another, the samples are of a model that was replaced.
    """
    model, images = run_.model(generation), run_.evaluation(generation)[0]
    sampled = storage.recorded(model)
    if sampled and not sampled.startswith(measured):
        sampled = measured
    files = (run_.samples(generation), run_.evaluation(generation), run_.strip(generation))
    sources = {path: sampled for path, _ in files}
    for kind in ("tsne", "grid"):
        sources[run_.figure(kind, generation)] = storage.recorded(images)
    if made_from and all(map(storage.recorded, made_from)):
        sources[model] = source_of(made_from, storage.recorded)
    for path, source in sources.items():
        if source and path.exists() and storage.noted(path) is None:
            storage.note_source(path, source)


def train_feature_network(run_, constants, real, source):
    """Trains LeNet on all real training images (source: their hash) and saves it, unless it is
    there.

    It is the same for every scenario and seed: FIDs by different networks cannot be compared.
    """
    if is_done([run_.prmodel], source):
        return
    storage.note_source(run_.prmodel, source)
    print("training the feature network prmodel.pth ...")
    network = train_lenet(real.to(processes.device()), Seeds(0, "feature network"))
    storage.save(network.state_dict(), run_.prmodel)
    percent = 100 * accuracy(network, load_real(constants.dataset, train=False))
    print(f"prmodel.pth classifies {percent:.2f} % of the test images correctly")


def is_trained(run_, generation, source):
    """Whether a generation's model is there, made from this source. A damaged table of its losses
    is set aside, but not worth another training."""
    storage.intact(run_.losses(generation))
    return is_done([run_.model(generation)], source, run_.training_state(generation))


def is_sampled(run_, generation, files):
    """Whether samples of the model that is there now are in `files`: images and labels."""
    return is_done(files, storage.sha256(run_.model(generation)), partial(files[0]))


def is_done(paths, source, leftover=None):
    """Whether a stage's files are there as they were written and made from this source, the hash
    of what it needs. Removes what was made from anything else, saying so, and, where all is done,
    what a stop just after it left behind (`leftover`)."""
    if not all(storage.is_from(path, source) for path in paths):
        if any(path.exists() for path in paths):
            print(f"note: {paths[0].name} was made from what is there no more: it is made again")
        for path in paths:
            storage.remove(path)
    done = all([storage.intact(path) for path in paths])
    if done and leftover:
        storage.remove(leftover)
    return done


def partial(images):
    """Where an interrupted sampling leaves the images it has."""
    return images.with_name(images.name + ".part")


def _title(run_, generation):
    return f"w = {number_text(run_.w)}, {model_of(generation)}"


def model_of(generation):
    """A generation's model in messages."""
    return INITIAL_MODEL if generation == INITIAL else f"generation {generation}"


def name_of(generation):
    """A generation's name in titles and tables."""
    return "initial" if generation == INITIAL else str(generation)
