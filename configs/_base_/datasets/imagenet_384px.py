# ImageNet-1K at 384x384; for evaluation the whole image is resized to a square.
_base_ = './imagenet_224px.py'

train_pipeline = [
    _base_.load,
    dict(type='convnextv2_mm.RandomResizedCrop', scale=384, interpolation='bicubic'),
    *_base_.augmentation,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=384, backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
