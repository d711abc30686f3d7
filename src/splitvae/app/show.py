"""Images as HTML: every picture travels inside the page, so no file of this machine is ever served."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from splitvae.models.autoencoder import Decoded
from splitvae.pictures import animation, rows_of, to_uint8
from splitvae.reports.columns import symbol

WORDS = {"x": "the image", "mask": "mask: white takes x̂₁, black x̂₂", "x_hat": "the blend"}
SHARP_BELOW = 128  # pixels of a side, below which each pixel is shown as a square


def png_url(image: np.ndarray) -> str:
    """(C, H, W) uint8 as a PNG inside a URL."""
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return _url(buffer.getvalue(), "png")


def tiles(images: Tensor) -> list[str]:
    """(N, C, H, W) floats in [0, 1] → a URL for each, the value of ``widgets.tiles``."""
    return [png_url(image) for image in to_uint8(images)]


def sign(name: str) -> str:
    """How people write an output: x̂, x̂₁, σ, σ₁, x."""
    return "σ" + symbol(f"x{name[4:]}")[2:] if name.startswith("mask") else symbol(name)


def panels(images: Sequence[tuple[str, str, Tensor]], size: str = "large") -> str:
    """Pictures side by side with what each one is.

    Args:
        images: (sign, words, (C, H, W) floats in [0, 1]).
        size: "large" or "small".
    """
    shown = "".join(
        f'<figure><img class="{_sharpness(image)}" src="{png_url(to_uint8(image))}" alt="{escape(f"{name}, {words}")}">'
        f"<figcaption><b>{escape(name)}</b> {escape(words)}</figcaption></figure>"
        for name, words, image in images
    )
    return f'<div class="panels {size}">{shown}</div>'


def parts(decoded: Decoded, x: Tensor | None = None, size: str = "large") -> str:
    """The first image of a ``Decoded`` as panels: x where it is given, the masks, the components, x̂."""
    rows = {name: images[0] for name, images in rows_of(decoded).items()}
    K = decoded.components.shape[1]
    shown = [] if x is None else [("x", WORDS["x"], x)]
    for name, image in rows.items():
        words = WORDS.get(name, f"mask of x̂{name[4:]}" if name.startswith("mask") else "component")
        shown.append((sign(name), "what the decoder paints" if name == "x_hat" and K == 1 else words, image))
    return panels(shown, size)


def strips(rows: Sequence[tuple[str, Tensor]]) -> str:
    """Rows of small pictures with a heading each: (heading, (N, C, H, W) floats in [0, 1])."""
    shown = "".join(
        f'<div class="strip"><span>{escape(heading)}</span><div>'
        + "".join(f'<img class="{_sharpness(images)}" src="{url}" alt="">' for url in tiles(images))
        + "</div></div>"
        for heading, images in rows
    )
    return f'<div class="strips">{shown}</div>'


def moving(images: Tensor, name: str) -> str:
    """(N, C, H, W) floats in [0, 1] as an endless animation, and a link under which it is saved as a GIF."""
    frames = to_uint8(images)
    zoom = max(1, round(256 / frames.shape[-1]))
    gif = _url(animation(frames, "gif", zoom=zoom), "gif")
    return (
        f'<figure class="moving"><img class="{_sharpness(images)}" src="{_url(animation(frames, "png"), "png")}" '
        f'alt="{escape(name)}"><figcaption><a href="{gif}" download="{escape(name)}.gif">Save as a GIF</a></figcaption>'
        "</figure>"
    )


def document(html: str) -> str:
    """A whole document inside the page, without scripts, as high as it needs."""
    fit = "this.style.height=(this.contentDocument.documentElement.scrollHeight+24)+'px'"
    return (
        f'<iframe class="document" title="report" sandbox="allow-same-origin" onload="{fit}" '
        f'srcdoc="{escape(html)}"></iframe>'
    )


def _sharpness(images: Tensor) -> str:
    return "sharp" if max(images.shape[-2:]) < SHARP_BELOW else "smooth"


def _url(content: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
