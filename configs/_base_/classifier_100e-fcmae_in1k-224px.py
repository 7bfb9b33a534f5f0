# ImageNet-1K after FCMAE, Base to Huge (paper, appendix A.1; the public command for Base).
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224px.py',
    './schedules/adamw_bf16.py',
    'mmpretrain::_base_/default_runtime.py',
]

lr = 6.25e-4 * 1024 / 256
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
# 8 GPUs x 32 images x 4 steps = 1024
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    accumulative_counts=4,
    paramwise_cfg=dict(decay_rate=0.6, decay_type='group_wise'),
)
auto_scale_lr = dict(base_batch_size=1024)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
# Down to 1e-6, times the layer decay, as in the official code.
warmup = dict(type='LinearLR', start_factor=1e-6, end=20, convert_to_iter_based=True)
param_scheduler = [
    warmup,
    dict(
        type='CosineAnnealingLR',
        begin=20,
        end=100,
        eta_min_ratio=1e-6 / lr,
        convert_to_iter_based=True,
    ),
]
# Decay 0.9999. The hook counts batches: averaged once for each step of the optimizer.
custom_hooks = [dict(type='EMAHook', momentum=1e-4, interval=4)]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
