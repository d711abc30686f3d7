"""The tab *interpolate*: from one image to another through the latent space, as an animation."""

from typing import Any

from splitvae.app import show
from splitvae.app.pick import Picker, Pixels, to_tensor
from splitvae.app.web import gr
from splitvae.app.widgets import WORK, told
from splitvae.editing import Route
from splitvae.explorer import MOST_FRAMES, Explorer
from splitvae.pictures import rows_of

SHOWN = 9  # frames in the strips


def joined(explorer: Explorer, first: Pixels, second: Pixels, frames: int, route: Route) -> tuple[str, str]:
    """The animation of x̂, and strips of all parts, as HTML."""
    decoded = explorer.between(to_tensor(first), to_tensor(second), frames, route)
    picked = [round(i * (frames - 1) / (SHOWN - 1)) for i in range(SHOWN)] if frames > SHOWN else range(frames)
    rows = [(show.sign(name), images[list(picked)]) for name, images in rows_of(decoded).items()]
    return show.moving(decoded.x_hat, "interpolation"), show.strips(rows)


def interpolate_tab(page: gr.Blocks, explorer: Explorer) -> None:
    """Lay out the tab."""
    gr.Markdown(
        "Both images are encoded, and what lies between their latents is decoded. **Pick two, or drop in your own.**"
    )
    with gr.Row():
        with gr.Column(min_width=300):
            first = Picker(explorer, "From", 6, "first")
        with gr.Column(min_width=300):
            second = Picker(explorer, "To", 16, "second")
    with gr.Row():
        with gr.Column(scale=1, min_width=220):
            route = gr.Radio(
                [("on a line", "line"), ("on a great circle", "great-circle")], value="great-circle", label="Path",
                info="a line passes near the origin, where codes are rare; a great circle keeps away from it",
            )  # fmt: skip
            frames = gr.Slider(5, MOST_FRAMES, 25, step=1, label="Frames")
        with gr.Column(scale=1, min_width=200):
            animated = gr.HTML(elem_id="animation", padding=False)
        with gr.Column(scale=2, min_width=320):
            strips = gr.HTML(elem_id="way", padding=False)

    def draw(*values: Any) -> tuple[str, str]:
        first, second, frames, route = values
        return joined(explorer, first, second, int(frames), route)

    drawing = {
        "inputs": [first.image, second.image, frames, route], "outputs": [animated, strips], "show_progress": "hidden",
        **WORK,
    }  # fmt: skip
    gr.on([first.image.change, second.image.change, frames.release, route.input], told(explorer, draw), **drawing)
    page.load(told(explorer, draw), **drawing)
