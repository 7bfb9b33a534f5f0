# ImageNet-1K after FCMAE (paper, appendix A.1; the public command for Tiny). The paper: 83.0.
_base_ = [
    '../_base_/sizes/tiny.py',
    '../_base_/models/classifier.py',
    '../_base_/datasets/imagenet_224px.py',
    '../_base_/schedules/adamw_bf16.py',
    'mmpretrain::_base_/default_runtime.py',
]

lr = 8e-4 * 1024 / 256
model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://tiny_fcmae_in1k'),
    ),
    head=dict(in_channels=_base_.channels[-1]),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
# 8 GPUs x 128 images = 1024
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=0.05),
    paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise'),
)
auto_scale_lr = dict(base_batch_size=1024)
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
# Down to 1e-6, times the layer decay, as in the official code.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=40,
        end=300,
        eta_min_ratio=1e-6 / lr,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]  # decay 0.9999
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
