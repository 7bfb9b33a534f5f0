# UPerNet on ADE20K at 640x640.
_base_ = ['./upernet_160k.py', 'mmseg::_base_/datasets/ade20k_640x640.py']

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)),
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
                dict(type='Resize', scale=(int(2560 * ratio), int(640 * ratio)), keep_ratio=True)
                for ratio in (0.75, 0.875, 1.0, 1.125, 1.25)
            ],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)],
            [dict(type='LoadAnnotations', reduce_zero_label=True)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
