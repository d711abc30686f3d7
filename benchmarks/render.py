"""The table and the picture of ``docs/performance.md``, from a result of ``python -m benchmarks``."""

from pathlib import Path
from typing import Any

from splitvae.files import replacing
from splitvae.reports.plots import BLACK, BLUE, VERMILLION, new_plot, save_plot

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
STYLES = {
    "Keras, float32": {"color": BLUE, "linewidth": 4, "alpha": 0.4},
    "ours, float32": {"color": BLACK, "linewidth": 1.2},
    "ours, bf16": {"color": VERMILLION, "linewidth": 1.2, "linestyle": "--"},
}


def insert_table(page: Path, result: dict[str, Any]) -> None:
    """Renew what lies between the two marks of a page."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{render(result)}\n{END}{after}", encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """All parts of a result as Markdown."""
    machine, parts = result["machine"], {name: part["result"] for name, part in result["parts"].items()}
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [
        f"{machine['hardware']} ({machine['cpu_capability']}), {machine['threads']} threads, {versions}; training in "
        f"{machine['precision'][0]} because {machine['precision'][1]}.",
    ]
    if loads := [f"{name} {part['load_before']}" for name, part in result["parts"].items() if "load_before" in part]:
        lines += ["", f"Load of the machine as each part began: {', '.join(loads)}."]
    if rows := [
        row for side in (32, 64) if f"training-{side}" in parts for row in _training(parts[f"training-{side}"])
    ]:
        lines += [
            "",
            "In brackets: images per second, and in the last two columns the ratio of each one's fastest step, which "
            "other work has disturbed least.",
        ]
        lines += ["", "| training, medians | ours | Keras | pythae | Keras / ours | pythae / ours |"]
        lines += ["|---|---|---|---|---|---|", *rows]
        for part in (parts[name] for name in ("training-32", "training-64") if name in parts):
            lines += [f"\nNot measured: {who}: {why}." for who, why in part["skipped"].items()]
    if rows := [*_density(parts), *_extraction(parts)]:
        lines += ["", "| other work, medians | ours | theirs | theirs / ours |", "|---|---|---|---|", *rows]
    if found := parts.get("ceilings"):
        lines += ["", "| the machine's ceilings | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in _ceilings(found)]
    for side, layers in parts.get("layers", {}).items():
        lines += ["", f"Layer by layer at {side}×{side}, milliseconds of one layer for a batch of 100:", ""]
        lines += ["| layer | in the network | forward | input gradient | weight gradient | together | TFLOP/s |"]
        lines += ["|---|---|---|---|---|---|---|", *map(_layer, layers[:14])]
        lines += [f"| {len(layers) - 14} others | | | | | {sum(x['total_ms'] for x in layers[14:]):,.0f} | |"]
    if found := parts.get("parity"):
        worst = found["largest_relative_difference"]
        apart = ", ".join(f"{name} {value:.1g}" for name, value in worst.items() if value)
        lines += ["", f"Largest relative difference of a loss to ours in float32 over {found['steps']} steps: {apart}."]
        lines += [f"\nNot measured: {who}: {why}." for who, why in found["skipped"].items()]
        lines += ["", "![Losses step by step: the curves lie on each other](parity.png)"]
    return "\n".join(lines)


def _training(found: dict[str, Any]) -> list[str]:
    C, side, _ = found["image_shape"]
    batch, best = found["batch"], found[found["fastest"]]
    ratios = found["ratios"]

    def cell(who: str, part: str) -> str:
        if part not in found.get(who, {}):
            return "–"
        median = found[who][part]["median_s"]
        return f"{_time(median)} ({batch / median:,.1f} images/s)" if part in ("step", "sampling") else _time(median)

    def ratio(who: str, part: str) -> str:
        if part not in found.get(who, {}):
            return "–"
        median, fastest = (found[who][part][key] / best[part][key] for key in ("median_s", "min_s"))
        return f"{median:.2f} ({fastest:.2f})"

    size = f"{C}×{side}×{side}, {found['parameters'] / 1e6:.1f} M parameters, {found['step_gflop']:,.0f} GFLOP"
    ahead = [f"**{ratio(who, 'step')}**" if who in found else "–" for who in ("keras", "pythae")]
    rows = [
        f"| **step of {batch}**, {size} | {cell(found['fastest'], 'step')} | {cell('keras', 'step')} | "
        f"{cell('pythae', 'step')} | {' | '.join(ahead)} |"
    ]
    for part in ("load", "forward", "backward", "optimiser", "sampling"):
        ours, theirs = cell(found["fastest"], part), cell("keras", part)
        rows.append(f"| {side}×{side}: {part} | {ours} | {theirs} | – | {ratio('keras', part)} | – |")
    others = [who for who in found if who.startswith("ours-") and who != found["fastest"]]
    rows += [f"| {side}×{side}: step, {who} | {cell(who, 'step')} | | | | |" for who in others]
    share = f"| {side}×{side}: share of the loader | {ratios['loader_share']:.2%} | | | | |"
    return [*rows, share]


def _density(parts: dict[str, Any]) -> list[str]:
    if "density" not in parts:
        return []
    found = parts["density"]
    ours, theirs = (found[who]["median_iteration_s"] for who in ("ours", "sklearn"))
    what = f"an iteration of the mixture, {found['codes']:,}×{found['dim']}, {found['components']} components"
    return [f"| {what}, beside scikit-learn | {_time(ours)} | {_time(theirs)} | **{theirs / ours:.1f}** |"]


def _extraction(parts: dict[str, Any]) -> list[str]:
    if "extraction" not in parts:
        return []
    found = parts["extraction"]
    n, theirs = found["images"], found["torch-fidelity"]["median_s"]
    rows = []
    for name, value in found.items():
        if name.startswith("ours "):
            ours = value["median_s"]
            same = name == "ours inception-v3-compat"
            what = f"features of {n} images, {name.removeprefix('ours ')}" + ", beside torch-fidelity" * same
            beside = f"{_time(theirs)} | **{theirs / ours:.1f}**" if same else "– | –"
            rows.append(f"| {what} | {_time(ours)} ({n / ours:,.0f} images/s) | {beside} |")
    return rows


def _ceilings(found: dict[str, float]) -> list[tuple[str, str]]:
    names = {"matmul": "matrix product", "convolution": "convolution 64→64, 3×3, 32×32, forward"}
    rows = []
    for what, words in names.items():
        for precision in ("float32", "bf16"):
            rows.append((f"{words}, {precision}", f"{found[f'{what}_{precision}_tflops'] * 1e3:.3g} GFLOP/s"))
    return [*rows, ("copy, read and written", f"{found['copy_gbps']:.1f} GB/s")]


def _layer(row: dict[str, Any]) -> str:
    rate = "–" if row["tflops"] is None else f"{row['tflops']:.2g}"
    times = " | ".join(f"{row[name]:.1f}" if row[name] else "–" for name in ("forward", "input", "weight"))
    return f"| {row['layer']} | {row['count']} | {times} | {row['total_ms']:,.0f} | {rate} |"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def draw_parity(result: dict[str, Any], path: Path) -> None:
    """Losses step by step, and how far they are from ours in float32."""
    found = result["parts"]["parity"]["result"]
    figure, (curve, apart) = new_plot(8, 3, 1, 2)
    reference = found["losses"]["ours, float32"]
    steps = range(1, len(reference) + 1)
    for name, style in STYLES.items():
        if name in found["losses"]:
            losses = found["losses"][name]
            curve.plot(steps, losses, label=name, **style)
            if name != "ours, float32":
                apart.plot(steps, [abs(a / b - 1) for a, b in zip(losses, reference, strict=True)], label=name, **style)
    curve.set(xlabel="step", ylabel="loss", yscale="log")
    apart.set(xlabel="step", ylabel="relative difference", yscale="log", title="from ours in float32")
    curve.legend(frameon=False, fontsize=8)  # the colours on the right are the same
    save_plot(figure, path)
