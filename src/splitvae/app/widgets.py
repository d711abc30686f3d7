"""What the tabs share: pictures to click on, the way errors are told, the queue that all work goes through."""

import functools
import sys
from collections.abc import Callable
from typing import Any

from splitvae.app.web import gr
from splitvae.errors import SplitVAEError
from splitvae.explorer import Explorer

# All events that compute share one queue: two at a time, the others wait in line.
WORK: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 2, "api_visibility": "private"}
# Of what follows a slider only the newest position counts.
LIVE: dict[str, Any] = {**WORK, "trigger_mode": "always_last", "show_progress": "hidden"}

_TEMPLATE = """<div class="tiles" role="group">{{#each value}}<button type="button" data-index="{{@index}}"
aria-label="picture {{@index}}"><img src="{{this}}" alt=""></button>{{/each}}</div>"""
_CLICKS = """const mark = (tile) => element.querySelectorAll('[data-index]').forEach((other) =>
  other.classList.toggle('chosen', other === tile));
mark(element.querySelector(`[data-index="${props.first}"]`));
element.addEventListener('click', (event) => {
  const tile = event.target.closest('[data-index]');
  if (!tile) return;
  mark(tile);
  trigger('click', {index: Number(tile.dataset.index)});
});"""


def tiles(value: list[str] | None = None, *, name: str, kind: str, first: int = -1) -> gr.HTML:
    """Pictures in a grid, to be clicked on, see ``clicked``.

    Args:
        value: their URLs, see ``show.tiles``.
        name: of the element, for tests and style.
        kind: "samples", eight in a row, or "examples", small ones.
        first: the picture that is marked at first; −1 = none.
    """
    # A subclass of gr.HTML would read nicer, but for each one gradio writes a stub file into our package.
    return gr.HTML(
        value or [], html_template=_TEMPLATE, js_on_load=_CLICKS, elem_id=name, elem_classes=[kind], padding=False,
        apply_default_css=False, first=first,
    )  # fmt: skip


def clicked(event: gr.EventData, count: int) -> int:
    """The number of the picture that was clicked on, below ``count``."""
    index = int(event._data.get("index", -1)) if isinstance(event._data, dict) else -1
    if not 0 <= index < count:
        raise gr.Error("There is no such picture any more; click again.", print_exception=False)
    return index


def told(explorer: Explorer, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work`` whose failures are one line on the page, without a traceback and without this machine's folders."""

    @functools.wraps(work)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        try:
            return work(*arguments, **options)
        except SplitVAEError as error:
            line = str(error).replace(str(explorer.path), explorer.name)
        except gr.Error:
            raise
        except Exception as error:
            print(f"splitvae: {type(error).__name__}: {error}", file=sys.stderr)
            line = "That did not work; the terminal of splitvae serve says why."
        raise gr.Error(line, duration=12, print_exception=False) from None

    return wrapper
