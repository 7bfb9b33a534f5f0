"""Where the parts of the project lie that are not Python modules."""

from pathlib import Path


def tools_folder() -> Path:
    """The folder of the tools: in an installation beside the package, in a clone above it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / '.mim/tools'
    return installed.resolve() if installed.is_dir() else package.parent / 'tools'
