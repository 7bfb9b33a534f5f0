# UPerNet for images with label maps: docs/own_data.md.
_base_ = [
    '../_base_/models/upernet.py',
    '../_base_/datasets/own.py',
    '../_base_/schedules/own.py',
    'mmseg::_base_/default_runtime.py',
]

own = dict(
    task='segment',
    images=None,  # folder, or one with the folders train and val
    masks=None,  # folder with a label map for each image, under the same name
    classes=None,  # names, or a text file with one in each line; by default the labels' numbers
)

model = dict(
    data_preprocessor=dict(size=None),
    backbone=dict(arch=None, in_channels=None, drop_path_rate=0.1),
    # The heads are as wide as mmseg's, or a quarter of it with Atto, Femto and Pico.
    decode_head=dict(in_channels=None, channels=None, num_classes=None),
    auxiliary_head=dict(in_channels=None, channels=None, num_classes=None),
)

# The scope apart from the name, which mmseg's inferencer looks for.
load = dict(type='LoadImageFromFile', _scope_='convnextv2_mm', channels=None)
load_labels = dict(type='LoadAnnotations', _scope_='convnextv2_mm', mapping=None)
train_pipeline = [
    load,
    load_labels,
    dict(type='RandomResize', scale=None, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=None, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# Labels come after the resize: predictions are compared at the size of the file.
test_pipeline = [
    load,
    dict(type='Resize', scale=None, keep_ratio=True),
    load_labels,
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='convnextv2_mm.BaseSegDataset',
    data_prefix=dict(img_path=None, seg_map_path=None),
    metainfo=dict(classes=None),
)
train_dataloader = dict(
    dataset=dict(pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=None),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', interval=None, max_keep_ckpts=1, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0, diff_rank_seed=True)
