# ImageNet-1K without labels at 224x224: MMPreTrain's MAE pipeline, with our resize. Images stay
# uint8: the GPU normalises them.
load = dict(type='convnextv2_mm.LoadImageFromFile')
train_pipeline = [
    load,
    dict(
        type='convnextv2_mm.RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ImageNet',
        data_root='data/imagenet/',
        split='train',
        skip_bad_data=True,
        pipeline=train_pipeline,
    ),
)

# tools/test.py gives the reconstruction loss on the validation images.
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=256, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
test_dataloader = dict(
    batch_size=64,
    num_workers=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ImageNet',
        data_root='data/imagenet/',
        split='val',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_cfg = dict()
