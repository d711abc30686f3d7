"""Commands that move latents: each over its range, some to given values, all from one image's to another's."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from splitvae.commands.app import app, existing, preparation
from splitvae.commands.images import check_out, read_images, write_decoded, write_rows
from splitvae.commands.layers import component_index, latents_of
from splitvae.errors import InputError

if TYPE_CHECKING:
    from splitvae.explorer import Axis, Explorer
    from splitvae.models.autoencoder import Autoencoder, Decoded

Route = Literal["line", "great-circle"]
LARGEST = 1e6  # value of a latent; samples of N(0, I) are within 6


@app.command(
    help_epilogue="Example: splitvae traverse --titles --out latents.png\n\n"
    "Example: splitvae traverse runs/birds robin.jpg --component 1 --out first.png"
)
def traverse(
    run: Path | None = None,
    image: Path | None = None,
    *,
    out: Path,
    latent: list[int] | None = None,
    n: int = 8,
    steps: int = 9,
    component: int | None = None,
    with_mask: Annotated[bool, Parameter(negative=())] = False,
    titles: Annotated[bool, Parameter(negative=())] = False,
    density: str | None = None,
    seed: int = 0,
    data: str | None = None,
    device: str | None = None,
) -> None:
    """See what single latents do: x̂ while one of them goes over its range and all others stand, a row for each.

    Args:
        run: A run directory, or a saved model; without it the small MNIST model that comes with splitvae.
        image: The image file to begin from; none = a test image of the run's own data (of a saved model a sample).
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files; a new or an empty one).
        latent: Which latents, from 0; several times for several. Without it those that carry most information.
        n: How many of these.
        steps: Images in a row; the ends are where 99 % of the samples lie.
        component: Move this one alone, 1 = x̂₁; masks and other components stand.
        with_mask: The weight of that component moves with it.
        titles: Write beside each row of a .png which latent it is.
        density: Begin from a sample of this density instead of an image: normal, or the name of one made by
            `splitvae fit`. Ranges are those of its samples too, but of N(0, I) for a model whose encoder has no noise:
            there they are those of codes. Without a run and an image gmm-per-class.
        seed: The same seed gives the same sample.
        data: Where the run's data is now, if not where it was.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = check_out(out)
    if steps < 2:
        raise InputError(f"--steps must be at least 2, not {steps}.")
    from splitvae.packaged import packaged_density

    explorer, path = _explorer(run, data, device, fetch=image is None)
    if run is None and (density is not None or image is None):
        density = packaged_density(density)
    k = _component(explorer.model, component, with_mask)
    z = latents_of(explorer.model, path, [image] if image else None, 1, density, seed, data).cpu()
    axes = _chosen(explorer.ranked_axes(density), latent, n)
    before, after = explorer.decode(z), explorer.decode(explorer.along_axes(z[0], steps, axes).flatten(0, 1))
    images = _edited(before, after, k, with_mask).x_hat.unflatten(0, (len(axes), steps))
    write_rows({f"z{axis.index}": row for axis, row in zip(axes, images, strict=True)}, out, titles)
    print(_told(explorer, axes))


@app.command(help_epilogue="Example: splitvae edit runs/birds robin.jpg --set 12=2 --component 1 --out edited.png")
def edit(
    run: Path,
    image: list[Path] | None = None,
    *,
    out: Path,
    values: Annotated[list[str] | None, Parameter("--set")] = None,
    component: int | None = None,
    with_mask: Annotated[bool, Parameter(negative=())] = False,
    output: Literal["all", "x_hat"] = "all",
    titles: Annotated[bool, Parameter(negative=())] = False,
    n: int = 10,
    density: str | None = None,
    seed: int = 0,
    data: str | None = None,
    device: str | None = None,
) -> None:
    """Give latents of images other values, for all of the image or for one component while the others stand.

    Args:
        run: A run directory, or a saved model.
        image: Image files; none = test images of the run's own data (of a saved model samples).
        out: A .png (one grid), an .npz (arrays), or a folder (single PNG files; a new or an empty one).
        values: A latent and its new value, such as 12=2; several times for several. Latents count from 0;
            `splitvae traverse` shows what they do.
        component: Change this one alone, 1 = x̂₁; masks and other components stand.
        with_mask: The weight of that component changes with it.
        output: all: x̂ as it was, then masks, components and x̂ as they are now; or x_hat, the last alone.
        titles: Write beside each row of a .png what it is.
        n: How many images, where no files are named.
        density: Take samples from this density instead of test images: normal, or the name of one made by
            `splitvae fit`.
        seed: The same seed gives the same samples.
        data: Where the run's data is now, if not where it was.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = check_out(out)
    from splitvae.pictures import rows_of

    explorer, path = _explorer(run, data, device, fetch=not image)
    k = _component(explorer.model, component, with_mask)
    if not values:
        axis = explorer.axes[0]
        raise InputError(
            f"nothing to change; --set {axis.index}={axis.high:.2g} gives z{axis.index} that value. "
            f"{_told(explorer, explorer.axes[:3])}"
        )
    wanted = _parsed(values, explorer.model.latent_dim)
    z = latents_of(explorer.model, path, image, n, density, seed, data).cpu()
    changed = z.clone()
    for index, value in wanted.items():
        changed[:, index] = value
    before = explorer.decode(z)
    now = _edited(before, explorer.decode(changed), k, with_mask)
    write_rows({"before": before.x_hat, **rows_of(now)} if output == "all" else {"x_hat": now.x_hat}, out, titles)


def _explorer(run: Path | None, data: str | None, device: str | None, fetch: bool) -> "tuple[Explorer, Path]":
    """The model, and where it is; ``fetch``: its data will be read, and may come from the hub."""
    from splitvae.explorer import Explorer
    from splitvae.packaged import packaged_run

    if run is not None:
        path = existing(run)
        return Explorer(path, data, device, fetch=fetch), path
    if data is not None:
        raise InputError("--data is where a run's data is; name the run.")
    path = packaged_run().path
    print("the small MNIST model that comes with splitvae:")
    return Explorer(path, None, device), path


def _component(model: "Autoencoder", component: int | None, with_mask: bool) -> int | None:
    """The component that changes alone, from 0; None = all change."""
    if component is None:
        if with_mask:
            raise InputError("--with-mask says what a --component takes along; without one, masks move anyway.")
        return None
    if model.num_components == 1:
        raise InputError("the model has one component, which cannot change alone; leave --component out.")
    return component_index("--component", component, model.num_components)


def _edited(before: "Decoded", after: "Decoded", k: int | None, with_mask: bool) -> "Decoded":
    """All of ``after``, or its k-th component among those of ``before``."""
    from splitvae.compositing import edit_component

    return after if k is None else edit_component(before, after, k, weight=with_mask)


def _chosen(axes: "list[Axis]", latents: list[int] | None, n: int) -> "list[Axis]":
    """The latents that were named, else the n that carry most."""
    if latents is None:
        if n < 1:
            raise InputError(f"--n must be at least 1, not {n}.")
        return axes[:n]
    by_index = {axis.index: axis for axis in axes}
    return [by_index[_checked_latent("--latent", index, len(axes))] for index in dict.fromkeys(latents)]


def _checked_latent(option: str, index: int, D: int) -> int:
    if not 0 <= index < D:
        raise InputError(f"{option}: there is no latent {index}; they are 0 … {D - 1}.")
    return index


def _parsed(values: list[str], D: int) -> dict[int, float]:
    """``12=2`` → {12: 2.0}."""
    wanted = dict[int, float]()
    for text in values:
        name, _, value = text.partition("=")
        try:
            index, number = int(name.removeprefix("z")), float(value)
        except ValueError:
            raise InputError(f"--set takes a latent and its value, such as 12=2, not '{text}'.") from None
        if not abs(number) < LARGEST:
            raise InputError(f"--set {text}: the value must be a number between −10⁶ and 10⁶.")
        wanted[_checked_latent("--set", index, D)] = number
    return wanted


def _told(explorer: "Explorer", axes: "Sequence[Axis]") -> str:
    """Latents with what they carry and where samples lie."""
    each = ", ".join(f"z{axis.index} {axis.words} ({axis.low:.2g} … {axis.high:.2g})" for axis in axes)
    remedy = ": --data" if explorer.run is not None else ""
    own = (
        f" (known from the model's own samples only, for want of its data{remedy})" if explorer.own_samples_only else ""
    )
    return f"latents, what they carry{own}, and where samples lie: {each}"


@app.command(help_epilogue="Example: splitvae interpolate runs/birds robin.jpg wren.jpg --out morph.gif")
def interpolate(
    run: Path,
    start: Path,
    end: Path,
    *,
    out: Path,
    frames: int = 25,
    path: Route = "great-circle",
    device: str | None = None,
) -> None:
    """Go from one image to another through the latent space.

    Args:
        run: A run directory, or a saved model.
        start: An image file.
        end: Another.
        out: A .gif (x̂ as an animation), a .png (a grid: masks, components and x̂ of each frame), an .npz (arrays), or a
            folder (single PNG files; a new or an empty one).
        frames: Number of latents, both ends included.
        path: line, which passes near the origin, where codes are rare; or great-circle, which keeps away from it.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
    """
    out = check_out(out, (".gif", ".png", ".npz"))
    animated = out.suffix.lower() == ".gif"
    import torch

    from splitvae import editing
    from splitvae.device import pick_device
    from splitvae.files import replacing
    from splitvae.models.pretrained import load_model
    from splitvae.pictures import animation, to_uint8

    run = existing(run)
    model = load_model(run).to(pick_device(device))
    x = read_images([start, end], model.image_shape, *preparation(run))
    with torch.inference_mode():
        first, last = model.encode(x.to(model.device)).mode()
        z = editing.interpolate(first, last, frames, path)
        if not animated:
            write_decoded(model, z, "all", out, None)
            return
        x_hat = to_uint8(torch.cat([model.decode(part).x_hat for part in z.split(500)]))
    with replacing(out) as temporary:
        temporary.write_bytes(animation(x_hat, zoom=max(1, round(256 / x_hat.shape[-1]))))
    print(out)
