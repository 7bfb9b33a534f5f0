# Linear probe on ImageNet-1K: a linear classifier on frozen features, trained as MAE's is
# (https://github.com/facebookresearch/mae, main_linprobe.py). The ConvNeXt V2 paper has none.
# tools/knn.py takes these configs too: no training at all.
_base_ = [
    './models/linear-probe.py',
    './datasets/imagenet_linear-probe-224px.py',
    'mmpretrain::_base_/default_runtime.py',
]

# 8 GPUs x 512 images x 4 steps = 16384
train_dataloader = dict(batch_size=512)
# lr = 0.1 for a batch of 256, scaled linearly. FCMAE has no norm after the last stage, and
# frozen_stages leaves the one that is added here: its rate is 0. LARS is for matrices only.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    accumulative_counts=4,
    optimizer=dict(type='LARS', lr=0.1 * 16384 / 256, momentum=0.9, weight_decay=0.0),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.norm3': dict(lr_mult=0.0),
            'head.fc.bias': dict(lars_exclude=True),
        }
    ),
)
auto_scale_lr = dict(base_batch_size=16384)

train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=10, end=90, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
