# UPerNet on the drawn shapes: mmseg's own, with narrow heads for two CPU cores.
_base_ = [
    '../_base_/sizes/atto.py',
    'mmseg::_base_/models/upernet_convnext.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(_delete_=True, imports=['convnextv2_mm'])

# From random weights: --cfg-options model.backbone.init_cfg=None
checkpoint = 'work_dirs/fcmae_convnextv2-a_shapes/epoch_8.pth'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(
        _delete_=True,
        type='convnextv2_mm.ConvNeXtV2',
        arch=_base_.arch,
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
        init_cfg=dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.'),
    ),
    decode_head=dict(in_channels=_base_.channels, channels=64, num_classes=7, norm_cfg=norm_cfg),
    auxiliary_head=dict(
        in_channels=_base_.channels[2], channels=64, num_classes=7, norm_cfg=norm_cfg
    ),
)

make = dict(num_train=800, num_val=100, size=128, seed=0)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='convnextv2_mm.ShapesSegDataset',
        split='train',
        make=make,
        pipeline=[
            dict(type='LoadImageFromFile', _scope_='convnextv2_mm'),
            dict(type='LoadAnnotations', _scope_='convnextv2_mm'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='convnextv2_mm.ShapesSegDataset',
        split='val',
        make=make,
        pipeline=[
            dict(type='LoadImageFromFile', _scope_='convnextv2_mm'),
            dict(type='LoadAnnotations', _scope_='convnextv2_mm'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type='LoadImageFromFile', _scope_='convnextv2_mm'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations', _scope_='convnextv2_mm')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

iterations = 200
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=iterations)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-3, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise'),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=30),
    dict(type='PolyLR', power=1.0, by_epoch=False, begin=30, end=iterations),
]
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=25, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=iterations, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
randomness = dict(seed=0)
