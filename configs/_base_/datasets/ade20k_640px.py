# ADE20K at 640x640.
_base_ = 'mmseg::_base_/datasets/ade20k_640x640.py'

crop_size = (640, 640)
# The scope apart from the name, which mmseg's inferencer looks for.
load = dict(type='LoadImageFromFile', _scope_='convnextv2_mm')
load_labels = dict(type='LoadAnnotations', _scope_='convnextv2_mm')
train_pipeline = [
    load,
    load_labels,
    dict(type='RandomResize', scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
# Labels come after the resize: predictions are compared at the size of the file.
test_pipeline = [
    load,
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    load_labels,
    dict(type='PackSegInputs'),
]
# tools/test.py --tta: the five scales of the paper, each also flipped.
tta_pipeline = [
    load,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2560 * ratio), int(640 * ratio)), keep_ratio=True)
                for ratio in (0.75, 0.875, 1.0, 1.125, 1.25)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [load_labels],
            [dict(type='PackSegInputs')],
        ],
    ),
]
train_dataloader = dict(
    dataset=dict(type='convnextv2_mm.ADE20KDataset', skip_bad_data=True, pipeline=train_pipeline)
)
val_dataloader = dict(dataset=dict(type='convnextv2_mm.ADE20KDataset', pipeline=test_pipeline))
test_dataloader = val_dataloader
