"""The web page of `splitvae serve`: its frame, its look, and the server."""

import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from splitvae import __version__
from splitvae.app import show
from splitvae.app.decompose import decompose_tab
from splitvae.app.edit import edit_tab
from splitvae.app.generate import generate_tab
from splitvae.app.interpolate import interpolate_tab
from splitvae.app.recombine import recombine_tab
from splitvae.app.uploads import MAX_BYTES
from splitvae.app.web import gr, queueing
from splitvae.app.widgets import WORK, told
from splitvae.errors import InputError
from splitvae.evaluation.verify import is_evaluated
from splitvae.explorer import Explorer

WAITING = 64  # requests in the queue; one more is told to come back
HOUR = 3600


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page of a model: six tabs, five where there is nothing to recombine."""
    with gr.Blocks(title=f"{explorer.name} · splitvae", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.HTML(heading(explorer), padding=False)
        chosen = gr.State([0.0] * explorer.model.latent_dim)  # the latents that are being edited
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Generate", id="generate"):
                generate_tab(page, explorer, chosen, tabs)
            with gr.Tab("Edit", id="edit"):
                edit_tab(page, explorer, chosen)
            with gr.Tab("Decompose", id="decompose"):
                decompose_tab(page, explorer, chosen, tabs)
            if explorer.K > 1:
                with gr.Tab("Recombine", id="recombine"):
                    recombine_tab(page, explorer)
            with gr.Tab("Interpolate", id="interpolate"):
                interpolate_tab(page, explorer)
            with gr.Tab("Report", id="report") as tab:
                report = gr.HTML("<p>Drawing the report …</p>", elem_id="report", padding=False)
        tab.select(told(explorer, lambda: show.document(report_of(explorer))), None, report, **WORK)
    return page


def heading(explorer: Explorer) -> str:
    """Name and formula, and which model this is."""
    model, run = explorer.model, explorer.run
    shape = "×".join(map(str, model.image_shape))
    facts = [type(model).__name__, shape, f"{model.latent_dim} latents"]
    facts.append(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    if run is not None and run.finished:
        facts.append(f"{run.summary['images_seen']:,} images seen")
    formula = "x̂ = σ⊙x̂₁ + (1−σ)⊙x̂₂" if explorer.K == 2 else ""
    return (
        f'<header class="heading"><div><h1>{escape(explorer.name)}</h1><p>{" · ".join(facts)}</p></div>'
        f'<div class="formula">{formula}<small>splitvae {__version__}</small></div></header>'
    )


def report_of(explorer: Explorer) -> str:
    """The run's report: the file that `splitvae evaluate` wrote, or what can be told without the data."""
    run = explorer.run
    if run is None:
        raise InputError("This is a saved model without its run, so there is nothing to report. Serve the run.")
    current = is_evaluated(run)
    if current and (run.path / "report.html").exists():
        return (run.path / "report.html").read_text(encoding="utf-8")
    from splitvae.reports.report import render_record, render_report  # matplotlib is imported when it is needed

    return render_report(run, with_data=False) if current else render_record(run)


def theme() -> gr.themes.Base:
    """Fonts of the system, because none may be fetched."""
    return gr.themes.Default(
        primary_hue="indigo", neutral_hue="slate", radius_size="md",
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"],
    )  # fmt: skip


@contextmanager
def _no_tracebacks() -> Iterator[None]:
    """Gradio prints a traceback for whatever a visitor sends wrong; the visitor is told, one line is enough here."""

    def print_line() -> None:
        print(f"splitvae: a request was refused: {' '.join(str(sys.exception()).split())}", file=sys.stderr)

    queueing.traceback = SimpleNamespace(print_exc=print_line)
    try:
        yield
    finally:
        queueing.traceback = traceback


@contextmanager
def serving(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve a page inside the block; yields its address.

    Args:
        page: see ``build_page``.
        host: the interface; 127.0.0.1 = this machine only.
        port: None = the first free one from 7860.

    Raises:
        InputError: the port is taken, or the interface is not this machine's.
    """
    with tempfile.TemporaryDirectory(prefix="splitvae-") as uploads, _no_tracebacks():  # files are gone with the server
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page.GRADIO_CACHE = uploads
        page.queue(max_size=WAITING, default_concurrency_limit=8)
        try:
            _, url, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
                footer_links=[], max_file_size=MAX_BYTES, show_error=True, inbrowser=False, enable_monitoring=False,
                theme=theme(), css_paths=Path(__file__).parent / "page.css",
            )  # fmt: skip
        except OSError as error:
            where = f"{host}, port {port}" if port else f"{host}, ports 7860 to 7959"
            # gradio's own words name options that are its own.
            reason = error.strerror or ("it is in use, or no address of this machine" if port else "all are in use")
            raise InputError(f"cannot serve on {where}: {reason}; pass another --port.") from error
        try:
            yield url
        finally:
            page.close(verbose=False)


def serve(
    path: Path, host: str, port: int | None, data: str | None, device: str | None, title: str | None, say: Any
) -> None:
    """Serve the page of a run or a saved model until the process is interrupted; ``say`` is told the address."""
    explorer = Explorer(path, data, device, title)
    for line in explorer.left_out:
        print(f"splitvae: {line}", file=sys.stderr)
    _ = explorer.axes, explorer.examples  # what fails shall fail here, not on the page
    with serving(build_page(explorer), host, port) as url:
        say(url)
        threading.Event().wait()
