"""The command: ``python -m benchmarks [--quick] [--only PART …]``.

Writes ``benchmarks/results/HARDWARE-torch-VERSION.json``, and from it the table and the picture of
``docs/performance.md``. A part that is measured again takes the place of its last measurement.
"""

import argparse
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmarks import ceilings, density, extraction, layers, parity, training
from benchmarks.environments import ENVIRONMENTS, ROOT
from benchmarks.render import draw_parity, insert_table
from splitvae import __version__
from splitvae.device import hardware
from splitvae.files import read_json, write_json
from splitvae.training.precision import choose_precision

RESULTS = ROOT / "benchmarks" / "results"
PARTS = ["ceilings", "training-32", "training-64", "extraction", "density", "layers", "parity"]


def parts(quick: bool, threads: int, environments: Path) -> dict[str, Callable[[], Any]]:
    """What there is to measure: the paper's network, or with ``quick`` a quarter of its width and fewer rounds."""
    base, rounds = (16, 2) if quick else (64, 3)
    cpu = torch.device("cpu")
    bf16 = choose_precision("auto", cpu)[0] == "bf16"
    return {
        "ceilings": lambda: ceilings.ceilings(cpu, 1024 if quick else 2048, bf16=bf16),
        "training-32": lambda: training.compare(32, base, 100, rounds, threads, environments),
        # So that all of this takes a quarter of an hour, pythae is measured at the smaller size only.
        "training-64": lambda: training.compare(64, base, 100, rounds - 1, threads, environments, ("keras",)),
        "extraction": lambda: extraction.compare(16 if quick else 32, 2, cpu),
        "density": lambda: density.compare(*((5_000, 64, 20, 2) if quick else (50_000, 200, 100, 2))),
        "layers": lambda: {str(side): layers.profile(side, base, 100, 2, bf16, cpu) for side in (32, 64)},
        "parity": lambda: parity.curves(30 if quick else 100, 8 if quick else 16, 50, bf16, threads, environments),
    }


def file_name(kind: str = "") -> str:
    """The hardware and torch's version, in a form for files."""
    words = f"{kind}{hardware()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-") + ".json"


def machine(threads: int) -> dict[str, Any]:
    """What it was measured on."""
    return {
        "hardware": hardware(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "precision": choose_precision("auto", torch.device("cpu")),
        "threads": threads,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "splitvae": __version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a narrow network and few rounds: two or three minutes")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "training"], help="these parts; all without it")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for everybody")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, help="where TensorFlow and pythae live")
    parser.add_argument("--out", type=Path, help="the JSON file; without it one of benchmarks/results/")
    parser.add_argument(
        "--docs", type=Path, help="the page whose table is renewed; docs/performance.md, but not --quick"
    )
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    out = options.out or RESULTS / file_name("quick " if options.quick else "")
    result: dict[str, Any] = read_json(out, "a result") if out.exists() else {"parts": {}}
    result["machine"] = machine(options.threads)
    result["quick"] = options.quick
    asked = options.only or PARTS
    wanted = [name for name in PARTS if name in asked or name.split("-")[0] in asked]
    with threadpool_limits(options.threads):
        for name, measure in parts(options.quick, options.threads, options.environments).items():
            if name in wanted:
                print(f"{name} …", file=sys.stderr, flush=True)
                begun, load = time.perf_counter(), os.getloadavg()[0]
                found = measure()
                result["parts"][name] = {
                    "result": found, "load_before": round(load, 1), "seconds": round(time.perf_counter() - begun, 1),
                }  # fmt: skip
                write_json(out, result)
    print(json.dumps(result["parts"], indent=2) if len(wanted) == 1 else f"{out}")
    docs = options.docs or (None if options.quick else ROOT / "docs" / "performance.md")
    if docs is not None and docs.exists():
        insert_table(docs, result)
        if "parity" in result["parts"]:
            draw_parity(result, docs.with_name("parity.png"))


if __name__ == "__main__":
    main()
