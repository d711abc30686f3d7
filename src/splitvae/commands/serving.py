"""The command that serves the web page: serve."""

from pathlib import Path

from splitvae.commands.app import app, existing
from splitvae.errors import InputError


@app.command(help_epilogue="Example: splitvae serve\n\nExample: splitvae serve runs/birds --port 8000")
def serve(
    run: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
    data: str | None = None,
) -> None:
    """Show a model as a web page: generate, edit, decompose, recombine, interpolate, report.

    It works offline; Ctrl-C ends it.

    Args:
        run: A run directory, or a saved model; without it the small MNIST model that comes with splitvae.
        host: The interface. 127.0.0.1 is seen by this machine only, 0.0.0.0 by the whole network.
        port: Of the page; without it the first free one from 7860.
        device: cpu, cuda, cuda:1 …; the GPU without it, if there is one.
        data: Where the run's data is now, if not where it was.
    """
    if port is not None and not 0 < port < 65536:
        raise InputError(f"--port must lie in 1 … 65535, not {port}.")
    from splitvae.packaged import TITLE, packaged_run

    path = packaged_run().path if run is None else existing(run)
    try:
        from splitvae.app.page import serve as serve_page
    except ModuleNotFoundError as error:
        raise InputError("the page needs gradio: pip install 'splitvae[app]'") from error

    def say(address: str) -> None:
        print(f"{address}  (Ctrl-C ends it)", flush=True)

    try:
        serve_page(path, host, port, data, device, TITLE if run is None else None, say)
    except KeyboardInterrupt:  # its ordinary end
        print("the page is closed")
