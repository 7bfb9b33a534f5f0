# The paper reports 54.4 box AP and 47.7 mask AP †. Decay and drop path are from its search space †
_base_ = ['../_base_/sizes/large.py', '../_base_/mask-rcnn_fpn_lsj-3x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.5,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://large_fcmae_ft_in1k'),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='group_wise'))
