# 30 epochs on ImageNet-1K after ImageNet-22K. The paper's numbers are not certain: these are those
# of ConvNeXt V1's public commands, with the average of weights that the published files are named
# after †
_base_ = './adamw_bf16.py'

lr = 2.5e-5 * 512 / 256
optim_wrapper = dict(
    optimizer=dict(lr=lr, weight_decay=1e-8),
    paramwise_cfg=dict(decay_rate=0.8, decay_type='group_wise'),
)
auto_scale_lr = dict(base_batch_size=512)
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)
param_scheduler = [
    dict(type='CosineAnnealingLR', end=30, eta_min_ratio=1e-6 / lr, convert_to_iter_based=True)
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]  # decay 0.9999
