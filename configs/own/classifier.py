# A classifier for images in the folders of their classes: docs/own_data.md.
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/schedules/own.py',
    'mmpretrain::_base_/default_runtime.py',
]

own = dict(
    task='classify',
    images=None,  # folder of the classes' folders, or of train and val with those
    val=None,  # folder of the classes' folders; by default a part of `images`
    val_fraction=0.2,
    classes=None,  # names of the folders in the order of their labels; by default alphabetical
    channels=None,  # by default those of the first .npy or .tif, else 3
    size=None,
    epochs=None,
    batch=None,
    arch=None,
    init=None,  # file, convnextv2://NAME, or 'none'; by default the published weights
    seed=0,
)

model = dict(
    data_preprocessor=dict(num_classes=None),
    backbone=dict(arch=None, in_channels=None, drop_path_rate=0.1),
    head=dict(in_channels=None, num_classes=None),
)

load = dict(type='convnextv2_mm.LoadImageFromFile', channels=None)
train_pipeline = [
    load,
    dict(
        type='convnextv2_mm.RandomResizedCrop',
        scale=None,
        crop_ratio_range=(0.35, 1.0),
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='ColorJitter', brightness=0.3, contrast=0.3, saturation=0.3, backend='cv2'),
    dict(type='PackInputs'),
]
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=None, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=None),
    dict(type='PackInputs'),
]
dataset = dict(
    type='convnextv2_mm.CustomDataset',
    data_prefix=None,
    ann_file=None,
    metainfo=dict(classes=None),
)
train_dataloader = dict(
    batch_size=None,
    num_workers=None,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(skip_bad_data=True, pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=None,
    num_workers=None,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=None)
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=None),
    checkpoint=dict(interval=None, max_keep_ckpts=1, save_best='accuracy/top1'),
)
randomness = dict(seed=0, diff_rank_seed=True)
