"""The other end of ``environments.Worker``: a process that answers calls, one JSON line each. Standard library only."""

import json
import os
import sys
import traceback
from collections.abc import Callable


def serve(handlers: dict[str, Callable[..., object]]) -> None:
    """Answer lines ``{"call": name, "with": {…}}`` from stdin with ``{"result": …}`` or ``{"error": …}`` until it ends.

    Libraries that print do so on stderr: stdout carries answers only.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"result": handlers[asked["call"]](**asked["with"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
