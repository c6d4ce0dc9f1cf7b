"""The stages of a generation that leave files: training a model, and sampling from it.

A stage is complete when its files are there; what an interrupted one saved lies beside it.
"""

from common import processes, run, storage
from common.data import LabelledImages, load_real
from common.ddpm import DDPM
from common.errors import UserError
from common.lenet import accuracy, train_lenet
from common.sample import generate_samples
from common.seeds import INITIAL, Seeds
from common.settings import number_text
from common.train import Training, save_losses, train_ddpm
from common.unet import ContextUnet


def train(run_, generation, data, constants, seeds, start=None):
    """Trains a DDPM on LabelledImages and saves its losses, then the model."""
    ddpm = seeds.initialised(
        lambda: DDPM(
            ContextUnet(1, constants.n_feat, constants.n_classes),
            (constants.beta1, constants.beta2),
            constants.n_T,
        )
    )
    if start is not None:
        previous = run.load_ddpm(start)
        if (previous.nn_model.n_feat, previous.n_T) != (constants.n_feat, constants.n_T):
            raise UserError(
                f"{start} has n_feat = {previous.nn_model.n_feat} and n_T = {previous.n_T}: "
                "give the same, or init_from = scratch"
            )
        ddpm.load_state_dict(previous.state_dict())
    losses = train_ddpm(
        ddpm.to(processes.device()),
        LabelledImages(*data).to(processes.device()),
        Training.of(constants),
        seeds=seeds,
        state_path=run_.training_state(generation),
        losses_path=run_.losses(generation),
        save_every=constants.save_every,
        name=f"{_title(run_, generation)}: training on {len(data.labels):,} images",
    )
    save_losses(losses, run_.losses(generation))
    storage.save(ddpm.state_dict(), run_.model(generation))
    storage.remove(run_.training_state(generation))


def sample(run_, generation, files, n, w, stage, constants, seeds):
    """Samples n images from the saved model at guidance w into `files`, unless they are there.

    files: the paths of images and labels; stage names the source of noise among `seeds`.
    """
    images, _ = files
    if is_done(files, partial(images)):
        return
    data = generate_samples(
        run.load_ddpm(run_.model(generation)),
        n,
        w,
        max_c=constants.max_c,
        seeds=seeds,
        stage=stage,
        partial_path=partial(images),
        save_every=constants.save_every,
        name=f"{_title(run_, generation)}: {stage}",
        sampler=constants.sampler,
        sample_steps=constants.sample_steps,
        eta=constants.eta,
        clip_x0=constants.clip_x0,
        fast=constants.fast,
    )
    run.save_images(data, files)
    storage.remove(partial(images))


def train_feature_network(run_, constants, real):
    """Trains LeNet on all real training images and saves it, unless it is there.

    It is the same for every scenario and seed: FIDs by different networks cannot be compared.
    """
    if storage.intact(run_.prmodel):
        return
    print("training the feature network prmodel.pth ...")
    network = train_lenet(real.to(processes.device()), Seeds(0, "feature network"))
    storage.save(network.state_dict(), run_.prmodel)
    percent = 100 * accuracy(network, load_real(constants.dataset, train=False))
    print(f"prmodel.pth classifies {percent:.2f} % of the test images correctly")


def is_trained(run_, generation):
    """Whether a generation's model is there. A damaged table of its losses is set aside, but not
    worth another training."""
    storage.intact(run_.losses(generation))
    return is_done([run_.model(generation)], run_.training_state(generation))


def is_done(paths, leftover):
    """Whether a stage's files are there as they were written; if so, removes what a stop just
    after them left behind."""
    done = all([storage.intact(path) for path in paths])
    if done:
        storage.remove(leftover)
    return done


def partial(images):
    """Where an interrupted sampling leaves the images it has."""
    return images.with_name(images.name + ".part")


def _title(run_, generation):
    return f"w = {number_text(run_.w)}, generation {name_of(generation)}"


def name_of(generation):
    """A generation's name in messages, titles and tables."""
    return "initial" if generation == INITIAL else str(generation)
