# ImageNet-1K at 224x224, with timm's RandAugment (magnitude 9, deviation 0.5) and random erasing
# (0.25) as MMPreTrain has them, and our resize.
_base_ = './imagenet.py'

bgr_mean = [103.53, 116.28, 123.675]
augmentation = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation='bicubic'),
    ),
    dict(
        type='RandomErasing',
        erase_prob=0.25,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type='PackInputs'),
]
train_pipeline = [
    _base_.load,
    dict(type='convnextv2_mm.RandomResizedCrop', scale=224, interpolation='bicubic'),
    *augmentation,
]
# 256 pixels at the short side, the central 224x224 of them.
test_pipeline = [
    _base_.load,
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
