# FCMAE on a folder of images, of any sizes and in any subfolders: docs/own_data.md.
_base_ = [
    '../_base_/models/fcmae.py',
    '../_base_/datasets/own.py',
    '../_base_/schedules/own.py',
    'mmpretrain::_base_/default_runtime.py',
]

own = dict(
    task='pretrain',
    images=None,  # folder
    val=None,  # folder; by default a part of `images`
    val_fraction=0.05,
    masks=None,  # folder of maps, or a function: which patches are masked first; by default none
    init='none',  # or continue from a checkpoint of FCMAE, with its decoder if it has one
)

model = dict(
    backbone=dict(arch=None, in_channels=None), neck=dict(in_channels=None, out_channels=None)
)

load_mask_map = dict(type='convnextv2_mm.LoadMaskMap', images=None, masks=None, suffix=None)
mask_patches = dict(type='convnextv2_mm.MaskPatches', function=None)
train_pipeline = [
    _base_.load,
    load_mask_map,
    dict(
        type='convnextv2_mm.RandomResizedCrop',
        scale=None,
        crop_ratio_range=(0.2, 1.0),
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    mask_patches,
    dict(type='PackInputs'),
]
test_pipeline = [
    _base_.load,
    dict(type='ResizeEdge', scale=None, edge='short', backend='pillow', interpolation='bicubic'),
    load_mask_map,
    dict(type='CenterCrop', crop_size=None),
    mask_patches,
    dict(type='PackInputs'),
]
dataset = dict(type='convnextv2_mm.CustomDataset', data_prefix=None, with_label=False)
train_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_evaluator = val_evaluator
custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', interval=None)]
default_hooks = dict(logger=dict(interval=None), checkpoint=dict(interval=None, max_keep_ckpts=1))
randomness = dict(seed=0, diff_rank_seed=True)
