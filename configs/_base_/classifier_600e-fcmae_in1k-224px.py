# ImageNet-1K after FCMAE, Atto to Nano (paper, appendix A.1; the public command for Atto).
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224px.py',
    './schedules/adamw_bf16.py',
    'mmpretrain::_base_/default_runtime.py',
]

lr = 2e-4 * 1024 / 256
model = dict(
    backbone=dict(drop_path_rate=0.1, init_cfg=dict(type='Pretrained')),
    head=dict(loss=dict(label_smooth_val=0.2)),
)
# 8 GPUs x 128 images = 1024
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.3),
    paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise'),
)
auto_scale_lr = dict(base_batch_size=1024)
train_cfg = dict(by_epoch=True, max_epochs=600, val_interval=1)
# Down to 1e-6, times the layer decay, as in the official code.
param_scheduler = [
    dict(type='CosineAnnealingLR', end=600, eta_min_ratio=1e-6 / lr, convert_to_iter_based=True)
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]  # decay 0.9999
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
