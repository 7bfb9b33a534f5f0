"""``python -m convnextv2_mm`` is the command ``convnextv2``."""

from .cli import main

main()
