# Classification on ImageNet-1K at 224x224: model, data and evaluation, without a recipe.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['convnextv2_mm'])

model = dict(
    type='ImageClassifier',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='convnextv2_mm.ConvNeXtV2', arch='base'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=1024,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1),
        # Head init scale 0.001: the first steps see almost equal logits, so their gradients leave
        # the pre-trained weights alone. The paper truncates at 2, which is 100,000 deviations.
        init_cfg=dict(type='Normal', layer='Linear', std=0.02 * 0.001),
    ),
)

# MMPreTrain's RandAugment (magnitude 9, deviation 0.5) and random erasing (0.25), as timm has them;
# our resize. Images stay uint8: the GPU normalises them.
train_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    dict(type='convnextv2_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    *_base_.train_pipeline[2:],
]
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='convnextv2_mm.ImageNet', skip_bad_data=True, pipeline=train_pipeline),
)
# 256 pixels at the short side, the central 224x224 of them.
test_pipeline = [dict(type='convnextv2_mm.LoadImageFromFile'), *_base_.test_pipeline[1:]]
val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='convnextv2_mm.ImageNet', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
