"""The tab *recombine*: one component of an image over what the other components paint in another image."""

import torch

from splitvae.app import show
from splitvae.app.pick import Picker, Pixels, to_tensor
from splitvae.app.web import gr
from splitvae.app.widgets import WORK, told
from splitvae.compositing import recombination, recombine
from splitvae.explorer import Explorer


def laid_over(explorer: Explorer, foreground: Pixels, background: Pixels, component: int) -> str:
    """The two images, what is taken of each, and what they make together, as HTML with links to its layers."""
    first, second = (explorer.decode(explorer.encode(to_tensor(pixels)[None])) for pixels in (foreground, background))
    images = {name: rows[0] for name, rows in recombination(first, second, component).items()}
    weight = ("σ", "1 − σ")[component] if explorer.K == 2 else show.sign(f"mask{component + 1}")
    name = show.sign(f"x{component + 1}")
    rest = " and ".join(show.sign(f"x{k + 1}") for k in range(explorer.K) if k != component)
    colour = images["layer"].expand(3, -1, -1)
    shown = [
        ("x̂ in front", "what the model makes of it", images["foreground"]),
        (weight, f"white takes {name} in front", images["mask"]),
        (name, "the layer in front, clear where the other shows through", torch.cat([colour, images["mask"]])),
        ("x̂ behind", "what the model makes of it", images["background"]),
        (rest, "the rest behind", images["rest"]),
        ("recombined", f"{name} over the rest", images["recombined"]),
    ]
    return show.panels(shown) + show.layer_links(recombine(first, second, component), component)


def smallest(explorer: Explorer) -> int:
    """The component that takes part least in the examples: what lies in front mostly covers less than the rest."""
    weights = explorer.decode(explorer.encode(explorer.examples)).weights
    return int(weights.mean(dim=(0, 2, 3, 4)).argmin())


def recombine_tab(page: gr.Blocks, explorer: Explorer) -> None:
    """Lay out the tab."""
    gr.Markdown(
        "One component of an image, with its mask, over what the other components paint in another image. "
        "**Pick two, or drop in your own.**"
    )
    with gr.Row():
        with gr.Column(min_width=300):
            foreground = Picker(explorer, "In front", 6, "front")
        with gr.Column(min_width=300):
            background = Picker(explorer, "Behind", 16, "behind")
    component = gr.Radio(
        [(show.sign(f"x{k + 1}"), k) for k in range(explorer.K)], value=smallest(explorer), label="Component in front",
        elem_id="component",
    )  # fmt: skip
    picture = gr.HTML(elem_id="laid-over", padding=False)

    def draw(foreground: Pixels, background: Pixels, component: int) -> str:
        return laid_over(explorer, foreground, background, int(component))

    inputs = [foreground.image, background.image, component]
    events = [foreground.image.change, background.image.change, component.input, page.load]
    gr.on(events, told(explorer, draw), inputs, picture, show_progress="hidden", **WORK)
