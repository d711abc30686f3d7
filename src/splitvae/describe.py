"""Figure 6 of the paper in words and numbers: the layers of a model, their shapes, parameters and cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from splitvae.config import TrainConfig
from splitvae.errors import InputError, nearest
from splitvae.models.autoencoder import Autoencoder
from splitvae.models.baselines import resnet
from splitvae.models.build import build_model
from splitvae.models.networks import DenseBlock, ResidualBlock
from splitvae.presets import PRESETS, resolve
from splitvae.presets.systems import DATA_SETS, SYSTEMS, preset_name
from splitvae.reports.terminal import print_table
from splitvae.run import Run

SHOWN = (ResidualBlock, DenseBlock, resnet.ResidualBlock, resnet.DenseBlock, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(trainable, with batch norm's statistics): the paper prints the first for MNIST and the second elsewhere."""
    trainable = sum(p.numel() for p in model.parameters())
    statistics = sum(b.numel() for name, b in model.named_buffers() if "running_mean" in name or "running_var" in name)
    return trainable, trainable + statistics


def count_flops(model: Autoencoder) -> dict[str, int]:
    """Floating-point operations per image (a multiply-add counts 2): ``encode``, ``decode`` and a training ``step``.

    What a batch costs whatever its size, the power iterations of spectral norms, is left out.
    """
    C, H, W = model.image_shape
    device = model.device
    x, z = torch.zeros(4, C, H, W, device=device), torch.zeros(4, model.latent_dim, device=device)
    noise = torch.zeros(4, *model.noise_shape, device=device)
    calls: dict[str, Callable[[int], Any]] = {
        "encode": lambda n: model.encode(x[:n]),
        "decode": lambda n: model.decode(z[:n]),
        "step": lambda n: model(x[:n], noise[:n])["loss"].backward(),
    }

    def flops(name: str, n: int) -> int:
        with FlopCounterMode(display=False) as counter:
            calls[name](n)
        return counter.get_total_flops()

    return {name: (flops(name, 4) - flops(name, 2)) // 2 for name in calls}


def layers(model: Autoencoder) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...], int]]:
    """(name, kind, input shape, output shape, parameters) of each block, in the order of the data."""
    found: list[tuple[str, str, tuple[int, ...], tuple[int, ...], int]] = []
    inside: set[nn.Module] = set()

    def note(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            parameters = sum(p.numel() for p in module.parameters())
            kind = parametrize.type_before_parametrizations(module).__name__  # of layers with a spectral norm
            found.append((name, kind, tuple(inputs[0].shape[1:]), tuple(output.shape[1:]), parameters))

        hooks.append(module.register_forward_hook(hook))

    hooks: list = []
    for name, module in model.named_modules():
        if isinstance(module, SHOWN) and module not in inside:
            note(name, module)
            inside.update(module.modules())
    C, H, W = model.image_shape
    device = model.device
    with torch.no_grad():
        model(torch.zeros(2, C, H, W, device=device), torch.zeros(2, *model.noise_shape, device=device))
    for hook in hooks:
        hook.remove()
    return found


def activation_bytes(model: Autoencoder) -> int:
    """Bytes per image that a training step keeps for its backward pass, in float32, as autograd counts them."""
    C, H, W = model.image_shape
    device = model.device
    seen: dict[int, int] = {}
    parameters = {id(p) for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in parameters and tensor.dim() > 0 and tensor.shape[0] == 2:
            seen[id(tensor)] = tensor.numel() * tensor.element_size()
            kept.append(tensor)
        return tensor

    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.zeros(2, C, H, W, device=device), torch.zeros(2, *model.noise_shape, device=device))
    return sum(seen.values()) // 2


def list_presets() -> None:
    """Print the presets by system and data set."""
    console = Console(highlight=False, markup=False)
    console.print("Presets by system, each but the last also with -small behind its name, for two cores:\n")
    table = Table(box=None, pad_edge=False)
    for title in ("system", *DATA_SETS):
        table.add_column(title, no_wrap=True)
    of_tables = set()
    for system in SYSTEMS:
        names = [preset_name(data, system) for data in DATA_SETS]
        of_tables |= {name + small for name in names for small in ("", "-small")}
        table.add_row(SYSTEMS[system].row, *(name if name in PRESETS else "–" for name in names))
    print_table(console, table)
    others = ", ".join(name for name in PRESETS if name not in of_tables)
    console.print(f"\nOthers: {others}. splitvae info PRESET says more of one.", soft_wrap=True)


def describe(what: str) -> None:
    """Print what a preset or a run is."""
    console = Console(highlight=False, markup=False)
    images: int | None
    if what in PRESETS:
        config, shape, images = resolve(what), PRESETS[what].shape, PRESETS[what].images
        console.print(f"{what}: {PRESETS[what].card}", soft_wrap=True)
        console.print(*published_lines(what), *expected_lines(what), sep="\n", soft_wrap=True)
    elif Path(what).exists():
        run = Run.open(what)
        config, shape = run.config, run.image_shape
        images = run.record["data"]["counts"]["train"] or None
        console.print(f"{what}: the recipe {run.record['preset']} on {run.record['data']['source']}", soft_wrap=True)
    else:
        raise InputError(f"'{what}' is neither a preset nor a run.{nearest(what, PRESETS)}")
    with torch.device("meta"):
        model = build_model(config, shape)

    table = Table(box=None, pad_edge=False)
    for title, justify in (
        ("layer", "left"),
        ("kind", "left"),
        ("in", "right"),
        ("out", "right"),
        ("parameters", "right"),
    ):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, kind, before, after, parameters in layers(model):
        table.add_row(name, kind, _times(before), _times(after), f"{parameters:,}")
    console.print(table)

    trainable, total = count_parameters(model)
    flops = count_flops(model)
    megabytes = activation_bytes(model) / 2**20
    console.print(
        f"\nparameters: {trainable:,} trainable, {total:,} with batch-norm statistics; "
        f"{4 * total / 2**20:.0f} MiB in float32\n"
        f"FLOPs per image: encode {flops['encode'] / 1e9:.2f} G, decode {flops['decode'] / 1e9:.2f} G, "
        f"training step {flops['step'] / 1e9:.1f} G\n"
        f"memory per image in training: {megabytes:.1f} MiB of activations in float32, "
        f"{config.batch_size * megabytes / 1024:.1f} GiB for a batch of {config.batch_size}\n"
        f"objective: {objective(config)}; "
        f"{config.epochs} epochs of Adam at {config.lr:g}, rate {config.lr_schedule}",
        soft_wrap=True,
    )
    if images is not None:
        cost = flops["step"] * images * config.epochs
        console.print(
            f"a whole training: {config.epochs} × {images:,} images, {cost / 1e15:.3g} PFLOP, "
            f"{cost / 3.6e14:.3g} hours at 0.1 TFLOP/s (two cores), {cost / 6e15:.3g} minutes at 100 (a large GPU)",
            soft_wrap=True,
        )


def published_lines(preset: str) -> list[str]:
    """What was published for the system of a preset; not for its small scale."""
    from splitvae.presets.systems import parse_name
    from splitvae.reproduce.published import published_numbers

    data, system, small = parse_name(preset) or ("", "", True)
    lines = []
    for number in [] if small else published_numbers():
        if (number.data, number.system) == (data, system):
            what = " ".join(filter(None, (number.source_of_samples, number.output)))
            where = "; ".join(filter(None, (number.status, number.source, number.protocol, number.note)))
            lines.append(f"published: {number.metric} {number.value:g}, {what} ({where})")
    return lines


def expected_lines(preset: str) -> list[str]:
    """What our own runs of a preset have, see ``reproduce/expected.py``."""
    from splitvae.reproduce.expected import expected_line

    line = expected_line(preset)
    return [] if line is None else [line]


def objective(config: TrainConfig) -> str:
    """The loss of a configuration as a formula."""
    if config.variational:
        learned = " + (N/2)·log γ" * (config.gamma_rule == "learned")
        return f"SSE/(2γ){learned} + {config.beta:g}·KL, γ by {config.gamma_rule}"
    terms = ["MSE"] + [f"{config.embedding_weight:g}·mean z²"] * (config.model != "ae")
    if config.model == "rae-gp":
        terms.append(f"{config.penalty_weight:g}·gradient penalty ({config.gradient_penalty})")
    elif config.model == "rae-l2":
        terms.append(f"{config.penalty_weight:g}·Σw² of the decoder")
    return " + ".join(terms) + (", every layer normalised spectrally" if config.model == "rae-sn" else "")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
