"""The tab *generate*: a grid of samples; a click on one takes it to *edit*."""

from typing import Any

import torch
from torch import Tensor

from splitvae.app import show
from splitvae.app.web import gr
from splitvae.app.widgets import WORK, clicked, tiles, told
from splitvae.explorer import MOST_IMAGES, TEMPERATURES, Explorer
from splitvae.models.autoencoder import Decoded
from splitvae.pictures import mix, rows_of

ANY = "any"
TYPICAL = 0.8  # the temperature to begin with


def outputs(explorer: Explorer) -> list[tuple[str, str]]:
    """What can be shown of a sample: (how people write it, name)."""
    K = explorer.K
    masks = ["mask"] if K == 2 else [f"mask{k + 1}" for k in range(K)]
    names = ["x_hat"] + ([f"x{k + 1}" for k in range(K)] + masks + ["mix"]) * (K > 1)
    return [(show.sign(name), name) for name in names]


def picture_of(decoded: Decoded, output: str, seed: int) -> Tensor:
    """One output of decoded samples: (N, C or 1, H, W)."""
    return mix(decoded, torch.Generator().manual_seed(seed)) if output == "mix" else rows_of(decoded)[output]


def generate_tab(page: gr.Blocks, explorer: Explorer, chosen: gr.State, tabs: gr.Tabs) -> None:
    """Lay out the tab; a click writes the latents into ``chosen`` and turns to the tab *edit*."""
    gr.Markdown("Every image below is new: latents are drawn from a density and decoded. **Click one to edit it.**")
    labels = explorer.classes(explorer.density)
    with gr.Row():
        with gr.Column(scale=1, min_width=240):
            density = gr.Dropdown(
                explorer.densities, value=explorer.density, label="Density",
                info="where latents come from; normal is the prior N(0, I)",
            )  # fmt: skip
            label = gr.Dropdown([ANY, *map(str, labels)], value=ANY, label="Class", visible=bool(labels))
            low, high = TEMPERATURES
            temperature = gr.Slider(
                low, high, TYPICAL, step=0.05, label="Temperature", info="1 is the density itself, less is more typical"
            )
            new = gr.Button("New images", variant="primary", elem_id="new-seed")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, info="the same seed gives the same images")
            count = gr.Slider(4, MOST_IMAGES, 64, step=4, label="Images")
            output = gr.Radio(outputs(explorer), value="x_hat", label="Show", visible=explorer.K > 1)
        with gr.Column(scale=3, min_width=320):
            drawn = gr.State([])
            grid = tiles(name="samples", kind="samples")

    def generate(*values: Any) -> tuple[list[str], list[list[float]]]:
        name, words, temperature, seed, count, output = values
        number = None if words in (ANY, None) or not explorer.classes(name) else int(words)
        z, decoded = explorer.sample(int(count), name, int(seed or 0), temperature, number)
        return show.tiles(picture_of(decoded, output, int(seed or 0))), z.tolist()

    def choose(latents: list[list[float]], event: gr.EventData) -> tuple[list[float], Any]:
        return latents[clicked(event, len(latents))], gr.Tabs(selected="edit")

    def classes(name: str) -> Any:
        found = explorer.classes(name)
        return gr.Dropdown([ANY, *map(str, found)], value=ANY, visible=bool(found))

    controls = [density, label, temperature, seed, count, output]
    drawing = {"inputs": controls, "outputs": [grid, drawn], "show_progress": "minimal", **WORK}
    density.input(told(explorer, classes), density, label, **WORK).then(told(explorer, generate), **drawing)
    gr.on(
        [label.input, temperature.release, seed.submit, count.release, output.input],
        told(explorer, generate), **drawing,
    )  # fmt: skip
    new.click(lambda number: int(number or 0) + 1, seed, seed, api_visibility="private").then(
        told(explorer, generate), **drawing
    )
    grid.click(told(explorer, choose), drawn, [chosen, tabs], api_visibility="private")
    page.load(told(explorer, generate), **drawing)
