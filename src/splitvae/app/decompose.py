"""The tab *decompose*: an image taken apart into σ, x̂₁, x̂₂ and x̂, and put together again in other ways."""

from typing import Any

from splitvae.app import show
from splitvae.app.pick import Picker, Pixels, to_tensor
from splitvae.app.web import gr
from splitvae.app.widgets import LIVE, WORK, told
from splitvae.editing import reblend
from splitvae.explorer import Explorer
from splitvae.models.autoencoder import Decoded
from splitvae.pictures import rows_of


def take_apart(explorer: Explorer, pixels: Pixels) -> tuple[Decoded, str]:
    """An image's parts, and its pictures with the error of reconstruction as HTML."""
    x = to_tensor(pixels)
    decoded = explorer.decode(explorer.encode(x[None]))
    difference = (x - decoded.x_hat[0]).abs()
    mse = float(difference.square().mean())
    signs = show.parts(decoded, x).removesuffix("</div>")
    error = show.panels([("|x − x̂|", f"error: mse {mse:.4f} per pixel", difference)])
    links = show.layer_links(decoded, top=0) if decoded.components.shape[1] > 1 else ""
    return decoded, signs + error.removeprefix('<div class="panels large">') + links


def blend_again(decoded: Decoded, strengths: list[float], swap: bool, shift: float) -> tuple[Decoded, str]:
    """Another blend of the same parts, and its pictures as HTML.

    Args:
        decoded: one image.
        strengths: of each component.
        swap: each component gets the mask of the next.
        shift: masks from −1 (only the last component is left) over 0 to 1 (only the first is left).
    """
    K = decoded.components.shape[1]
    order = [(k + swap) % K for k in range(K)]
    towards, amount = (0, shift) if shift >= 0 else (K - 1, -shift)
    blended = reblend(decoded, strengths, order, towards, amount)
    change = float((blended.x_hat - decoded.x_hat).square().mean())
    rows = {name: images[0] for name, images in rows_of(blended).items()}
    shown = [(show.sign(name), "the new mask", image) for name, image in rows.items() if name.startswith("mask")]
    shown += [
        (show.sign(f"x{component + 1}"), "what it blends", blended.components[0, place])
        for place, component in enumerate(order)
    ]
    shown.append(("new blend", f"differs from x̂ by mse {change:.4f}", rows["x_hat"]))
    return blended, show.panels(shown)


def decompose_tab(page: gr.Blocks, explorer: Explorer, chosen: gr.State, tabs: gr.Tabs) -> None:
    """Lay out the tab."""
    K = explorer.K
    said = "the mask σ, the images that it blends, and the blend x̂" if K > 1 else "what the model makes of it"
    gr.Markdown(f"An image taken apart: {said}. **Pick one, or drop in your own**, and blend it anew.")
    picker = Picker(explorer, "An image", 6, "decompose")
    apart = gr.HTML(elem_id="apart", padding=False)
    with gr.Row(visible=K > 1):
        with gr.Column(scale=1, min_width=260):
            gr.Markdown("**Put together again**")
            last = show.sign(f"x{K}")
            shift = gr.Slider(
                -1, 1, 0, step=0.02, label="Move the mask", elem_id="shift",
                info=f"−1: all {last}, 1: all x̂₁",
            )  # fmt: skip
            strengths = [
                gr.Slider(
                    0, 2, 1, step=0.02, label=f"Strength of {show.sign(f'x{k + 1}')}", elem_id=f"strength-{k + 1}"
                )
                for k in range(K)
            ]
            words = "Swap the components" if K == 2 else "Give each component the mask of the next"
            swap = gr.Checkbox(False, label=words, elem_id="swap")
            with gr.Row():
                reset = gr.Button("Reset", min_width=90)
                edit = gr.Button("Edit it", min_width=90, variant="primary", elem_id="edit-latents")
        with gr.Column(scale=3, min_width=320):
            again = gr.HTML(elem_id="again", padding=False)

    def draw(pixels: Pixels, swap: bool, shift: float, *strengths: float) -> tuple[str, Any]:
        decoded, html = take_apart(explorer, pixels)
        return html, blend_again(decoded, list(strengths), swap, shift)[1] if K > 1 else ""

    def draw_again(pixels: Pixels, swap: bool, shift: float, *strengths: float) -> str:
        decoded = explorer.decode(explorer.encode(to_tensor(pixels)[None]))
        return blend_again(decoded, list(strengths), swap, shift)[1]

    def to_latents(pixels: Pixels) -> tuple[list[float], Any]:
        return explorer.encode(to_tensor(pixels)[None])[0].tolist(), gr.Tabs(selected="edit")

    controls: list[Any] = [picker.image, swap, shift, *strengths]
    both = {"inputs": controls, "outputs": [apart, again]}
    picker.image.change(told(explorer, draw), **both, show_progress="hidden", **WORK)
    gr.on([c.input for c in (swap, shift, *strengths)], told(explorer, draw_again), controls, again, **LIVE)
    reset.click(lambda: [False, 0.0, *[1.0] * K], None, [swap, shift, *strengths], api_visibility="private").then(
        told(explorer, draw_again), controls, again, **LIVE
    )
    edit.click(told(explorer, to_latents), picker.image, [chosen, tabs], **WORK)
    page.load(told(explorer, draw), **both, show_progress="hidden", **WORK)
