# COCO with large-scale jitter at 1024x1024.
_base_ = './coco.py'

image_size = (1024, 1024)
train_pipeline = [
    _base_.load,
    _base_.load_polygons,
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
train_dataloader = dict(num_workers=8, dataset=dict(pipeline=train_pipeline))
