"""Find the parts of the project that are not Python modules."""

from pathlib import Path


def tools_folder() -> Path:
    """The tools folder: inside the package when installed, above it in a clone."""
    package = Path(__file__).resolve().parents[1]
    installed = package / '.mim/tools'
    return installed.resolve() if installed.is_dir() else package.parent / 'tools'
