"""ConvNeXt V2 and FCMAE for OpenMMLab.

Importing the package is all a config needs: ``custom_imports = dict(imports=['convnextv2_mm'])``
makes everything under the scope ``convnextv2_mm`` known. Data sets are imported when one is asked
for, since they bring mmdet, mmseg and mmpretrain with them.
"""

from .utils.opencv import check_opencv

check_opencv()  # before mmengine and mmcv import it

from .patches.config_packages import register_config_packages  # noqa: E402
from .patches.mmcv_ops import provide_mmcv_ops  # noqa: E402

# mmdet and mmseg ask for mmcv's compiled ops when they are imported: this has to come first.
provide_mmcv_ops()
register_config_packages()

from . import checkpoints, engine, models  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['__version__', 'checkpoints', 'engine', 'models']
