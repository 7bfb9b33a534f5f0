import convnextv2_mm  # noqa: F401  # before any test imports mmdet or mmseg: see compat/mmcv_ops.py
