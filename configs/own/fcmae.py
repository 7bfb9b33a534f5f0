# FCMAE on a folder of images, of any sizes and in any subfolders: docs/own_data.md.
_base_ = [
    '../_base_/models/fcmae.py',
    '../_base_/schedules/own.py',
    'mmpretrain::_base_/default_runtime.py',
]

own = dict(
    task='pretrain',
    images=None,  # folder
    val=None,  # folder; by default a part of `images`
    val_fraction=0.05,
    channels=None,  # by default those of the first .npy or .tif, else 3
    size=None,
    epochs=None,
    batch=None,
    arch=None,
    init='none',  # or continue from a checkpoint of FCMAE, with its decoder if it has one
    seed=0,
)

model = dict(
    backbone=dict(arch=None, in_channels=None), neck=dict(in_channels=None, out_channels=None)
)

load = dict(type='convnextv2_mm.LoadImageFromFile', channels=None)
train_pipeline = [
    load,
    dict(
        type='convnextv2_mm.RandomResizedCrop',
        scale=None,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
test_pipeline = [
    load,
    dict(type='ResizeEdge', scale=None, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=None),
    dict(type='PackInputs'),
]
dataset = dict(
    type='convnextv2_mm.CustomDataset', data_prefix=None, ann_file=None, with_label=False
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
val_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_evaluator = val_evaluator
custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', interval=None)]
default_hooks = dict(logger=dict(interval=None), checkpoint=dict(interval=None, max_keep_ckpts=1))
randomness = dict(seed=0, diff_rank_seed=True)
