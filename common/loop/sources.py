"""What was made from what: a file is used again only if it is from what is there now.

The hash of what a file is made from is noted beside it, before the file is written.
"""

from common.machine import records, storage


def source_of(paths, hash_of=storage.sha256):
    """What is noted of a model: one hash of the files that it is made from."""
    return records.digest(*(hash_of(path).encode() for path in paths))


def reuse(paths, source, leftover=None):
    """Removes a stage's files, saying so, where one is not from this source, the hash of what the
    stage needs; sets damaged ones aside. Returns whether all are there then, in which case what a
    stop just after the stage left behind (`leftover`) goes."""
    if not all(records.is_from(path, source) for path in paths):
        if any(path.exists() for path in paths):
            print(f"note: {paths[0].name} was made from what is there no more: it is made again")
        for path in paths:
            storage.delete(path)
    done = all([storage.verify(path) for path in paths])
    if done and leftover:
        storage.delete(leftover)
    return done


def reuse_model(run, generation, source):
    """Whether a generation's model is there, made from this source, as `reuse` leaves it. A damaged
    table of its losses is set aside, but not worth another training."""
    storage.verify(run.losses(generation))
    return reuse([run.model(generation)], source, run.training_state(generation))


def reuse_samples(run, generation, files):
    """Whether samples of the model that is there now are in `files`, images and labels, as `reuse`
    leaves them."""
    return reuse(files, storage.sha256(run.model(generation)), partial(files[0]))


def begin(unfinished, *made_from):
    """Notes what an unfinished file is made from (bytes, or what has a repr of its own); removes
    what a stopped work of other things left there, or of an earlier version, which noted none."""
    parts = [part if isinstance(part, bytes) else repr(part).encode() for part in made_from]
    source = records.digest(*parts)
    if records.source_of(unfinished) != source:
        if unfinished.exists():
            print(f"note: {unfinished.name} was begun from other things: it begins anew")
        storage.delete(unfinished)
    records.save_source(unfinished, source)


def partial(images):
    """Where an interrupted sampling leaves the images it has."""
    return images.with_name(images.name + ".part")


def adopt(run, generation, made_from, measured=""):
    """Notes for a generation's files of an earlier version, which noted none, what they were made
    from: what was recorded when that was written, whatever became of it since.

    made_from: the files that the model is made from; measured: the beginning of the hash of the
    model in the metrics. Where that is another, the samples are of a model that was replaced.
    """
    model, images = run.model(generation), run.evaluation(generation)[0]
    sampled = records.hash_of(model)
    if sampled and not sampled.startswith(measured):
        sampled = measured
    files = (run.samples(generation), run.evaluation(generation), run.strip(generation))
    sources = {path: sampled for path, _ in files}
    for kind in ("tsne", "grid"):
        sources[run.figure(kind, generation)] = records.hash_of(images)
    if made_from and all(map(records.hash_of, made_from)):
        sources[model] = source_of(made_from, records.hash_of)
    for path, source in sources.items():
        if source and path.exists() and records.source_of(path) is None:
            records.save_source(path, source)
