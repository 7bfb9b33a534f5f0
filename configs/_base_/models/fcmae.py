# FCMAE (paper, section 3.1): a sparse encoder, and one block as the decoder.
custom_imports = dict(imports=['convnextv2_mm'])

data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
model = dict(
    type='convnextv2_mm.FCMAE',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='convnextv2_mm.SparseConvNeXtV2'),
    neck=dict(type='convnextv2_mm.FCMAEDecoder'),
    head=dict(type='convnextv2_mm.FCMAEHead'),
    mask_ratio=0.6,
)
