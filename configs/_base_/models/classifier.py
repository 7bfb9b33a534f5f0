# A linear classifier on the pooled features.
custom_imports = dict(imports=['convnextv2_mm'])

data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
model = dict(
    type='ImageClassifier',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='convnextv2_mm.ConvNeXtV2'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        # Head init scale 0.001: the first steps see almost equal logits, so their gradients leave
        # the pre-trained weights alone. The paper truncates at 2, which is 100,000 deviations.
        init_cfg=dict(type='Normal', layer='Linear', std=0.02 * 0.001),
    ),
)
