# A classifier for images in the folders of their classes: docs/own_data.md.
_base_ = [
    '../_base_/models/classifier.py',
    '../_base_/datasets/own.py',
    '../_base_/schedules/own.py',
    'mmpretrain::_base_/default_runtime.py',
]

own = dict(
    task='classify',
    images=None,  # folder of the classes' folders, or of train and val with those
    val=None,  # folder of the classes' folders; by default a part of `images`
    classes=None,  # names of the folders in the order of their labels; by default alphabetical
)

model = dict(
    data_preprocessor=dict(num_classes=None),
    backbone=dict(arch=None, in_channels=None, drop_path_rate=0.1),
    head=dict(in_channels=None, num_classes=None),
)

train_pipeline = [
    _base_.load,
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
    _base_.load,
    dict(type='ResizeEdge', scale=None, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=None),
    dict(type='PackInputs'),
]
dataset = dict(
    type='convnextv2_mm.CustomDataset',
    data_prefix=None,
    metainfo=dict(classes=None),
)
train_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
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
