"""The page of commands, made from their own help while the site is built."""

import io

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from rich.console import Console

INTRODUCTION = """# Commands

What `--help` prints, written down by the code itself when this site was built. Every command takes `--quiet`, to print
nothing but errors, and `--debug` for the traceback of one.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add commands.md."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def commands_page() -> str:
    """Every command's help as Markdown."""
    import splitvae.cli  # noqa: F401  the commands register themselves
    from splitvae.commands.app import app

    sections = [INTRODUCTION]
    for name in sorted((name for name in app if not name.startswith("-")), key=lambda name: name != "train"):
        console = Console(file=io.StringIO(), width=96, color_system=None, force_terminal=False)
        app.help_print([name], console=console)
        text = "\n".join(line.rstrip() for line in console.file.getvalue().strip().splitlines())
        sections.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(sections)
