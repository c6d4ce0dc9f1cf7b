"""The row of real images: made once, and again when what it was made from changes."""

from types import SimpleNamespace

from tiny import feature_network

from common.data import LabelledImages, load_real
from common.loop import rows
from common.machine import storage
from common.metrics import evaluation
from common.run.folder import Run, load_lenet


def test_the_floor_is_measured_again_when_the_test_images_are_others(tmp_path, monkeypatch):
    run, real = Run(tmp_path, 0), load_real("digits")
    storage.save(feature_network(), run.prmodel)
    lenet = load_lenet(run.prmodel)
    reference = evaluation.reference(real, lenet, 0, tmp_path / "real_features.pth", {})
    constants = SimpleNamespace(dataset="own.npz", N_eval=100, N_ref=0)

    def use(change):
        """The digits in place of own.npz, their test images changed so."""

        def load(dataset, train=True):
            found = load_real("digits", train)
            return found if train else LabelledImages(change(found.images), found.labels)

        for module in (rows, evaluation):
            monkeypatch.setattr(module, "load_real", load)

    def floor():
        rows.measure_floor(run, constants, real, lenet, reference)
        return storage.load_rows(run.table("floor"))

    use(lambda images: images)
    first = floor()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "floor", None)  # not called
        assert floor() == first
    use(lambda images: 255 - images)
    assert float(floor()[0]["fid"]) > 2 * float(first[0]["fid"])
