# ImageNet-1K after ImageNet-22K.
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224px.py',
    './schedules/in1k_30e-fcmae-in22k.py',
    'mmpretrain::_base_/default_runtime.py',
]

model = dict(backbone=dict(init_cfg=dict(type='Pretrained')))
train_dataloader = dict(batch_size=64)  # 8 GPUs x 64 images = 512
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
