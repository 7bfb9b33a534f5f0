# UPerNet on ADE20K at 512x512.
_base_ = [
    './models/upernet.py',
    './datasets/ade20k_512px.py',
    './schedules/ade20k_160k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
train_dataloader = dict(batch_size=4)  # 4 GPUs x 4 images = 16
randomness = dict(seed=0, diff_rank_seed=True)
