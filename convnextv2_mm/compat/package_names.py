"""Where MMEngine looks for the configs of MMSegmentation."""

from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config.utils import MODULE2PACKAGE


def find_mmseg_configs() -> None:
    """Let ``_base_ = 'mmseg::...'`` find the configs of onedl-mmsegmentation.

    MMEngine 0.10 looks them up under the distribution name ``mmsegmentation``, which the continued
    package does not have. Where that name is installed, nothing changes.
    """
    try:
        distribution('mmsegmentation')
    except PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'onedl-mmsegmentation'
