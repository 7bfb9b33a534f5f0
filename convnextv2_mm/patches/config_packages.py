"""Where MMEngine looks for configs behind ``::``."""

from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config.utils import MODULE2PACKAGE


def register_config_packages() -> None:
    """Let ``_base_ = 'convnextv2_mm::...'`` and ``'mmseg::...'`` find our configs and theirs.

    MMEngine 0.10 knows a fixed list of packages. Ours is not in it; onedl-mmsegmentation is under
    the name ``mmsegmentation``, which it does not have. Where that is installed, it stays.
    """
    MODULE2PACKAGE['convnextv2_mm'] = 'convnextv2_mm'
    try:
        distribution('mmsegmentation')
    except PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'
