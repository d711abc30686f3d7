"""A run from a model that was trained elsewhere: it can be sampled, scored, and trained on, like any other."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from splitvae.codes import refuse_other_images
from splitvae.data.sources import absolute
from splitvae.errors import InputError
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.build import config_of
from splitvae.run import Run, open_data, unknown_data, write_record
from splitvae.training.checkpoint import TrainingState
from splitvae.training.guard import clear_run, only_process_in, refuse_existing


def adopt(
    model: Autoencoder,
    out: str | Path,
    data: str | Path | None = None,
    origin: str = "a model in memory",
    overwrite: bool = False,
    **changes: Any,
) -> Run:
    """Make a run of a model: nothing is trained, and training can begin where the model is.

    Args:
        model: with its weights.
        out: the run directory to make.
        data: what it was trained on, for densities, scores and training; None = not known, and those commands are told
            with ``data`` of their own. See ``prepare``.
        origin: where the weights come from, for the record.
        overwrite: replace the run in ``out``.
        **changes: fields of ``TrainConfig`` with which training would go on, such as ``lr``; the network's are the
            model's own and refused.

    Returns:
        the run. ``train(resume=run, epochs=…)`` trains it on, from this model and the seed's first noise.

    Raises:
        InputError: ``out`` holds something, or ``data`` does not fit the model; nothing has been changed.

    Examples:
        >>> from splitvae import VAE
        >>> run = adopt(VAE((1, 16, 16), 8), "runs/mine")  # doctest: +SKIP
        >>> run.model.sample(4).shape  # doctest: +SKIP
        torch.Size([4, 1, 16, 16])
    """
    if not isinstance(model, Autoencoder):
        raise InputError(f"adopt takes a model of splitvae, not this {type(model).__name__}; see register_network.")
    config = config_of(model)
    of_model = {"model", "image_size", "mask_scale", "split", *config.network_options(), *model.config}
    if own := sorted(of_model & changes.keys()):
        raise InputError(f"{own[0]} is the model's own and cannot be changed by adopt; make the model with another.")
    run = Run(Path(out).expanduser())
    config = config.with_changes({"epochs": 1, **changes})
    if config.masks is not None:
        config = replace(config, masks=absolute(config.masks))
    if config.variational and config.gamma_rule != "fixed":
        config = replace(config, gamma_init="first-batch")  # of the weights as they are, when training begins
    meta = unknown_data(model.image_shape)
    if data is not None:
        config = replace(config, data=absolute(str(data)))
        cache = open_data(config)
        refuse_other_images(cache, model.image_shape)
        meta = cache.meta
    refuse_existing(run.path, overwrite, config.data)
    with only_process_in(run.path):
        clear_run(run.path)
        write_record(run, "images", config, meta, {}, {"from": origin})
        optimizer = torch.optim.Adam(model.parameters())  # empty: what is kept is where the weights begin
        TrainingState(model, optimizer, model if config.ema_decay else None).save(run.path / "state")
        model.save_pretrained(run.path / "model")
    return Run.open(run.path)
