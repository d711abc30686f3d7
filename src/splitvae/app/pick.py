"""Choosing an image: one of the examples, or a file of one's own."""

from typing import Any

import torch
from torch import Tensor

from splitvae.app import show
from splitvae.app.uploads import read_upload
from splitvae.app.web import gr
from splitvae.app.widgets import clicked, tiles, told
from splitvae.explorer import Explorer

Pixels = list[Any]  # (C, H, W) uint8 as nested lists, which a session can hold


def to_tensor(pixels: Pixels) -> Tensor:
    """What a picker holds as (C, H, W) floats in [0, 1]."""
    return torch.tensor(pixels, dtype=torch.float32) / 255


class Picker:
    """A strip of examples and a place to drop a file.

    Args:
        explorer: whose examples.
        heading: above the strip.
        first: the example to begin with.
        name: of the elements, for tests and style.

    Attributes:
        image: the state that holds the image, see ``to_tensor``.
    """

    def __init__(self, explorer: Explorer, heading: str, first: int, name: str) -> None:
        examples = [show.to_uint8(image).tolist() for image in explorer.examples]
        self.image = gr.State(examples[first % len(examples)])
        gr.Markdown(f"**{heading}**, from {explorer.examples_kind}")
        strip = tiles(
            show.tiles(explorer.examples), name=f"{name}-examples", kind="examples", first=first % len(examples)
        )
        with gr.Row(equal_height=True):
            file = gr.File(
                label="An image of your own", show_label=False, file_types=["image"], height=76, scale=3, buttons=[],
                elem_id=f"{name}-file", elem_classes=["drop"],
            )  # fmt: skip
            invert = gr.Checkbox(
                False, label="Invert", info="dark on white paper", elem_id=f"{name}-invert", scale=1, min_width=140
            )

        def take_example(event: gr.EventData) -> Pixels:
            return examples[clicked(event, len(examples))]

        def take_file(path: str | None, inverted: bool) -> Any:
            if path is None:
                return gr.skip()
            return read_upload(path, explorer.model.image_shape, *explorer.preparation, invert=inverted).tolist()

        strip.click(told(explorer, take_example), None, self.image, api_visibility="private")
        gr.on(
            [file.upload, invert.input], told(explorer, take_file), [file, invert], self.image,
            api_visibility="private",
        )  # fmt: skip
