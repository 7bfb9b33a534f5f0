"""Import OpenCV on machines without a display."""

import sys
from pathlib import Path

__all__ = ['check_opencv']

HEADLESS = 'opencv-python-headless==4.12.0.88'  # as in requirements/headless.txt
_PACKAGE = Path(__file__).parents[1]
_TOOLS = (_PACKAGE.parent / 'tools', _PACKAGE / '.mim/tools')  # of a clone, of an installation
_COMMANDS = ('convnextv2', 'convnextv2.exe')


def check_opencv() -> None:
    """Import OpenCV, or say what to install.

    ``opencv-python`` and ``opencv-python-headless`` are two builds of one package ``cv2``. Some of
    our dependencies ask for one, some for the other, and the one that was installed last wins. The
    first has windows, and does not load without the libraries of a desktop (libGL and others). We
    use no window of OpenCV.

    Raises:
        ImportError: One sentence with the command that installs the build without windows.
        SystemExit: The same with exit code 2, if one of our tools is being run.
    """
    try:
        from cv2 import imread  # noqa: F401  (uninstalling one build leaves an empty cv2 behind)
    except ImportError as error:
        sentence = (
            f'OpenCV does not load ({error}): install its build without windows, '
            f'pip install --force-reinstall --no-deps {HEADLESS}'
        )
        script = getattr(sys.modules['__main__'], '__file__', None)  # none in a session or -c
        if script and _is_ours(Path(script)):
            print(f'error: {sentence}', file=sys.stderr)
            sys.exit(2)
        raise ImportError(sentence) from None


def _is_ours(script: Path) -> bool:
    """Whether it is one of ``tools/``, the command ``convnextv2``, or ``python -m``."""
    if script.name in _COMMANDS or script == _PACKAGE / '__main__.py':
        return True
    return any(script.resolve().is_relative_to(path.resolve()) for path in _TOOLS)
