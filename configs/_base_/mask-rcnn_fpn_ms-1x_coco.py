# Mask R-CNN on COCO for small budgets: 12 epochs, 16 images a step, short sides of 480 to 800. Not
# in the paper.
_base_ = [
    './mask-rcnn_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]

train_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    # Polygons: see lsj-3x_coco.py
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, short) for short in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# 8 GPUs x 2 images
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    dataset=dict(type='convnextv2_mm.CocoDataset', skip_bad_data=True, pipeline=train_pipeline),
)
test_pipeline = [dict(type='convnextv2_mm.LoadImageFromFile'), *_base_.test_pipeline[1:]]
val_dataloader = dict(dataset=dict(type='convnextv2_mm.CocoDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='convnextv2_mm.CocoMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
)
# On fewer GPUs: tools/train.py --auto-scale-lr
auto_scale_lr = dict(enable=False, base_batch_size=16)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
    dict(type='MultiStepLR', end=12, milestones=[8, 11], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
randomness = dict(seed=0, diff_rank_seed=True)
