# UPerNet on ADE20K at 512x512.
_base_ = ['./upernet_160k.py', 'mmseg::_base_/datasets/ade20k.py']

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
# 4 GPUs x 4 images
train_dataloader = dict(batch_size=4)

# tools/test.py --tta: the five scales of the paper, each also flipped.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.75, 0.875, 1.0, 1.125, 1.25)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
