# UPerNet on ADE20K at 640x640.
_base_ = [
    './models/upernet.py',
    './datasets/ade20k_640px.py',
    './schedules/ade20k_160k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(426, 426)),
)
train_dataloader = dict(batch_size=4)  # 4 GPUs x 4 images = 16
randomness = dict(seed=0, diff_rank_seed=True)
