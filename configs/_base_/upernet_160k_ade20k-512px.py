# UPerNet on ADE20K at 512x512.
_base_ = ['./upernet_160k.py', 'mmseg::_base_/datasets/ade20k.py']

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
# 4 GPUs x 4 images
load = [dict(type='convnextv2_mm.LoadImageFromFile'), dict(type='convnextv2_mm.LoadAnnotations')]
resize = _base_.test_pipeline[1]
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='convnextv2_mm.ADE20KDataset',
        skip_bad_data=True,
        pipeline=[*load, *_base_.train_pipeline[2:]],
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='convnextv2_mm.ADE20KDataset',
        pipeline=[load[0], resize, load[1], _base_.test_pipeline[3]],
    )
)
test_dataloader = val_dataloader

# tools/test.py --tta: the five scales of the paper, each also flipped.
tta_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.75, 0.875, 1.0, 1.125, 1.25)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='convnextv2_mm.LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
