# 1x: 12 epochs of 16 images a step. Not in the paper.
_base_ = './adamw_bf16.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
# On fewer GPUs: tools/train.py --auto-scale-lr
auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=500),
    dict(type='MultiStepLR', end=12, milestones=[8, 11], gamma=0.1),
]
