# FCMAE on ImageNet-1K (paper, appendix A.1). Sizes set the backbone and the batch per GPU.
_base_ = [
    './models/fcmae.py',
    './datasets/imagenet_pretrain-224px.py',
    './schedules/fcmae_800e.py',
    'mmpretrain::_base_/default_runtime.py',
]

default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
# Pictures, feature diversity and GRN of 8 fixed validation images; custom_hooks=[] goes without
custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', interval=5)]
randomness = dict(seed=0, diff_rank_seed=True)
