# ImageNet-1K from random weights (ConvNeXt, arXiv 2201.03545, appendix A.1, and its public
# commands). That V2 was trained the same way is an assumption †
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224px.py',
    './schedules/adamw_bf16.py',
    'mmpretrain::_base_/default_runtime.py',
]

lr = 2.5e-4 * 4096 / 256
model = dict(
    head=dict(init_cfg=dict(std=0.02)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
# 8 GPUs x 128 images x 4 steps = 4096
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    accumulative_counts=4,
    paramwise_cfg=dict(decay_rate=1.0),
)
auto_scale_lr = dict(base_batch_size=4096)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=20, end=300, eta_min=1e-6, convert_to_iter_based=True),
]
# Decay 0.9999. The hook counts batches: averaged once for each step of the optimizer.
custom_hooks = [dict(type='EMAHook', momentum=1e-4, interval=4)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
