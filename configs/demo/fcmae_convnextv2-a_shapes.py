# FCMAE on the drawn shapes, small enough for two CPU cores.
_base_ = ['../_base_/sizes/atto.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['convnextv2_mm'])

make = dict(num_train=800, num_val=100, size=128, seed=0)
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
model = dict(
    type='convnextv2_mm.FCMAE',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch=_base_.arch),
    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=_base_.channels[-1], embed_dims=256),
    head=dict(type='convnextv2_mm.FCMAEHead'),
    mask_ratio=0.6,
)

train_dataloader = dict(
    batch_size=40,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ShapesClsDataset',
        split='train',
        make=make,
        pipeline=[
            dict(type='convnextv2_mm.LoadImageFromFile'),
            dict(type='RandomResizedCrop', scale=128, crop_ratio_range=(0.5, 1.0)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=40,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ShapesClsDataset',
        split='val',
        make=make,
        pipeline=[dict(type='convnextv2_mm.LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_evaluator = val_evaluator

epochs = 8
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=epochs, val_interval=epochs)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=20),
    dict(type='CosineAnnealingLR', end=epochs, convert_to_iter_based=True),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=epochs, max_keep_ckpts=1))
custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', interval=2)]
randomness = dict(seed=0)
