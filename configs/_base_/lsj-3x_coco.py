# Data and schedule on COCO (paper, section 4 and appendix A.2): 36 epochs, 32 images a step,
# large-scale jitter at 1024x1024.
_base_ = [
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/default_runtime.py',
]

image_size = (1024, 1024)
train_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    # Polygons: a third of the time and a thousandth of the bytes of bitmaps, and exact boxes after
    # the crop. Crowd regions have none and drop out; they would be ignored anyway.
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(
        type='RandomCrop',
        crop_type='absolute_range',
        crop_size=image_size,
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
# 8 GPUs x 4 images
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
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
auto_scale_lr = dict(enable=False, base_batch_size=32)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=1000),
    dict(type='MultiStepLR', end=36, milestones=[27, 33], gamma=0.1),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='coco/bbox_mAP'))
randomness = dict(seed=0, diff_rank_seed=True)
