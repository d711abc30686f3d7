"""Gradio, imported so that it reports to nobody, writes nothing, and comes in half the time."""

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def _without_stubs() -> Iterator[None]:
    """As each component is defined, gradio looks up its source to write a stub file for editors into site-packages.

    That is half of its import. It passes over classes whose source cannot be found, so none is.
    """
    find = inspect.getfile

    def getfile(thing: Any) -> str:
        if sys._getframe(1).f_globals.get("__name__") == "gradio.component_meta":
            raise OSError
        return find(thing)

    with mock.patch.object(inspect, "getfile", getfile):
        yield


with _without_stubs():
    import gradio as gr
    import gradio.queueing as queueing

__all__ = ["gr", "queueing"]
