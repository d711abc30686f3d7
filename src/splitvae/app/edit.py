"""The tab *edit*: sliders on the most informative latents, and at once what they do to σ, x̂₁, x̂₂ and x̂."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from splitvae.app import show
from splitvae.app.web import gr
from splitvae.app.widgets import LIVE, WORK, told
from splitvae.compositing import edit_component
from splitvae.explorer import Explorer
from splitvae.models.autoencoder import Decoded
from splitvae.reports.columns import symbol

TYPICAL = 0.7  # the temperature of images to begin with
ALL = -1  # what the sliders move: every part, or the component of this number

# Each part of an image has latents of its own, so that one can be edited while the others stand: first those of the
# masks, then those of each component; K + 1 lists of D numbers, which a session can hold.
Parts = list[list[float]]


def axis_names(explorer: Explorer) -> list[str]:
    """How the sliders are called: z₁₂."""
    return [symbol(f"z{axis.index}") for axis in explorer.axes]


def parts_of(explorer: Explorer, z: list[float]) -> Parts:
    """An image whose parts all have the same latents, as the decoder makes it."""
    return [z] * (explorer.K + 1)


def moving(explorer: Explorer, component: int, with_masks: bool) -> list[int]:
    """Which of the parts the sliders move; they show where the first of these is."""
    everything = list(range(explorer.K + 1))
    return everything if component == ALL else [component + 1] + [0] * with_masks


def moved(explorer: Explorer, parts: Parts, rows: Sequence[int], values: Sequence[float]) -> Parts:
    """Parts with the values of those sliders that stand elsewhere than the first of ``rows`` does."""
    result = [list(part) for part in parts]
    for axis, value in zip(explorer.axes, values, strict=True):
        if round(parts[rows[0]][axis.index], 2) != round(float(value), 2):
            for row in rows:
                result[row][axis.index] = float(value)
    return result


def assembled(explorer: Explorer, parts: Sequence[Tensor]) -> Decoded:
    """N images of which each part is decoded from latents of its own: those of the masks, then of the components.

    Args:
        parts: K + 1 times (N, D), or (1, D) for a part that is the same in all.
    """
    decoded = explorer.decode(parts[0])
    for k, z in enumerate(parts[1:]):
        if not torch.equal(z, parts[0]):
            decoded = edit_component(decoded, explorer.decode(z), k)
    return decoded


def traversed(explorer: Explorer, parts: Parts, rows: Sequence[int], steps: int = 9) -> Tensor:
    """x̂ along each slider's range, all other latents as they are: (axes, steps, C, H, W)."""
    latents = [torch.tensor([part]) for part in parts]
    for row in rows:
        latents[row] = explorer.along_axes(latents[row][0], steps).flatten(0, 1)
    return assembled(explorer, latents).x_hat.unflatten(0, (len(explorer.axes), steps))


def edit_tab(page: gr.Blocks, explorer: Explorer, chosen: gr.State) -> None:
    """Lay out the tab; it shows whatever latents are written into ``chosen``."""
    gr.Markdown(
        f"The {len(explorer.axes)} latent variables that carry most information, of {explorer.model.latent_dim}. "
        "**Move a slider** and watch the parts change together, or one alone."
    )
    names = axis_names(explorer)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            component = gr.Radio(
                [("all", ALL), *((f"{show.sign(f'x{k + 1}')} only", k) for k in range(explorer.K))], value=ALL,
                label="The sliders move", elem_id="edited-component", visible=explorer.K > 1,
            )  # fmt: skip
            with_masks = gr.Checkbox(
                False, label="σ too" if explorer.K == 2 else "the masks too", elem_id="with-masks", visible=False
            )
            sliders = [
                gr.Slider(*axis.slider, 0.0, step=0.01, label=f"{name} · {axis.words}", elem_id=f"axis-{number}")
                for number, (axis, name) in enumerate(zip(explorer.axes, names, strict=True))
            ]
            with gr.Row():
                reset = gr.Button("Reset", min_width=90, elem_id="reset")
                other = gr.Button("Another", variant="primary", min_width=90, elem_id="another")
        with gr.Column(scale=3, min_width=320):
            picture = gr.HTML(elem_id="edited", padding=False)
            ranges = gr.HTML(elem_id="ranges", padding=False)
    number, parts = gr.State(0), gr.State(parts_of(explorer, [0.0] * explorer.model.latent_dim))

    def place(z: list[float]) -> list[Any]:
        """Sliders where the latents are; their ranges grow where that is further out."""
        values = [round(z[axis.index], 2) for axis in explorer.axes]
        return [
            gr.Slider(minimum=min(axis.slider[0], value), maximum=max(axis.slider[1], value), value=value)
            for axis, value in zip(explorer.axes, values, strict=True)
        ]

    def draw(parts: Parts, component: int, with_masks: bool, *values: float) -> tuple[str, Parts]:
        parts = moved(explorer, parts, moving(explorer, component, with_masks), values)
        return show.parts(assembled(explorer, [torch.tensor([z]) for z in parts])), parts

    def draw_ranges(parts: Parts, component: int, with_masks: bool, *values: float) -> str:
        rows = moving(explorer, component, with_masks)
        images = traversed(explorer, moved(explorer, parts, rows, values), rows)
        return "<p>What each slider does from its lowest to its highest value:</p>" + show.strips(
            list(zip(names, images, strict=True))
        )

    def show_chosen(z: list[float]) -> list[Any]:
        return [*place(z), show.parts(explorer.decode(torch.tensor([z]))), parts_of(explorer, z)]

    def turn_to(parts: Parts, component: int, with_masks: bool) -> list[Any]:
        first = moving(explorer, component, with_masks)[0]
        return [*place(parts[first]), gr.Checkbox(visible=component != ALL)]

    def another(seed: int) -> tuple[list[float], int]:
        return explorer.sample(1, explorer.density, seed, TYPICAL)[0][0].tolist(), seed + 1

    controls: list[Any] = [component, with_masks]
    current: list[Any] = [parts, *controls, *sliders]
    to_ranges: dict[str, Any] = {"inputs": current, "outputs": ranges, "show_progress": "hidden", **WORK}
    for event in (chosen.change, reset.click):
        event(
            told(explorer, show_chosen), chosen, [*sliders, picture, parts], show_progress="hidden", **WORK
        ).then(told(explorer, draw_ranges), **to_ranges)  # fmt: skip
    gr.on([control.input for control in controls], told(explorer, turn_to), [parts, *controls], [*sliders, with_masks],
          show_progress="hidden", **WORK).then(told(explorer, draw_ranges), **to_ranges)  # fmt: skip
    other.click(told(explorer, another), number, [chosen, number], **WORK)
    gr.on([slider.input for slider in sliders], told(explorer, draw), current, [picture, parts], **LIVE)
    gr.on([slider.release for slider in sliders], told(explorer, draw_ranges), current, ranges, **LIVE)
    page.load(told(explorer, another), number, [chosen, number], **WORK)
