# COCO with short sides of 480 to 800 pixels.
_base_ = './coco.py'

train_pipeline = [
    _base_.load,
    _base_.load_polygons,
    dict(
        type='RandomChoiceResize',
        scales=[(1333, short) for short in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(num_workers=4, dataset=dict(pipeline=train_pipeline))
