"""The tab *edit*: sliders on the most informative latents, and at once what they do to σ, x̂₁, x̂₂ and x̂."""

from typing import Any

import torch
from torch import Tensor

from splitvae.app import show
from splitvae.app.explorer import Explorer
from splitvae.app.web import gr
from splitvae.app.widgets import LIVE, WORK, told

TYPICAL = 0.7  # the temperature of images to begin with
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def axis_names(explorer: Explorer) -> list[str]:
    """How the sliders are called: z₁₂."""
    return ["z" + str(axis.index).translate(_SUBSCRIPTS) for axis in explorer.axes]


def moved(explorer: Explorer, z: list[float], values: tuple[float, ...]) -> Tensor:
    """Latents (1, D) with the sliders' values in their places."""
    latents = torch.tensor([z])
    for axis, value in zip(explorer.axes, values, strict=True):
        latents[0, axis.index] = float(value)
    return latents


def edit_tab(page: gr.Blocks, explorer: Explorer, chosen: gr.State) -> None:
    """Lay out the tab; it shows whatever latents are written into ``chosen``."""
    gr.Markdown(
        f"The {len(explorer.axes)} latent variables that carry most information, of {explorer.model.latent_dim}. "
        "**Move a slider** and watch the parts change together."
    )
    names = axis_names(explorer)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            sliders = [
                gr.Slider(
                    axis.low, axis.high, 0.0, step=0.01, label=f"{name} · {axis.kl:.1f} nats", elem_id=f"axis-{number}"
                )
                for number, (axis, name) in enumerate(zip(explorer.axes, names, strict=True))
            ]
            with gr.Row():
                reset = gr.Button("Reset", min_width=90, elem_id="reset")
                other = gr.Button("Another", variant="primary", min_width=90, elem_id="another")
        with gr.Column(scale=3, min_width=320):
            picture = gr.HTML(elem_id="edited", padding=False)
            ranges = gr.HTML(elem_id="ranges", padding=False)
    number = gr.State(0)

    def place(z: list[float]) -> list[Any]:
        """Sliders where the latents are; their ranges grow where that is further out."""
        values = [round(z[axis.index], 2) for axis in explorer.axes]
        return [
            gr.Slider(minimum=min(axis.low, value), maximum=max(axis.high, value), value=value)
            for axis, value in zip(explorer.axes, values, strict=True)
        ]

    def draw(z: list[float], *values: float) -> str:
        return show.parts(explorer.decode(moved(explorer, z, values)))

    def draw_ranges(z: list[float], *values: float) -> str:
        rows = explorer.traverse(moved(explorer, z, values)[0])
        return "<p>What each slider does from its lowest to its highest value:</p>" + show.strips(
            list(zip(names, rows, strict=True))
        )

    def show_chosen(z: list[float]) -> list[Any]:
        return [*place(z), show.parts(explorer.decode(torch.tensor([z])))]

    def another(seed: int) -> tuple[list[float], int]:
        return explorer.sample(1, explorer.density, seed, TYPICAL)[0][0].tolist(), seed + 1

    current: list[Any] = [chosen, *sliders]
    for event in (chosen.change, reset.click):
        event(told(explorer, show_chosen), chosen, [*sliders, picture], show_progress="hidden", **WORK).then(
            told(explorer, draw_ranges), current, ranges, show_progress="hidden", **WORK
        )
    other.click(told(explorer, another), number, [chosen, number], **WORK)
    gr.on([slider.input for slider in sliders], told(explorer, draw), current, picture, **LIVE)
    gr.on([slider.release for slider in sliders], told(explorer, draw_ranges), current, ranges, **LIVE)
    page.load(told(explorer, another), number, [chosen, number], **WORK)
