# The paper reports 52.9 box AP and 46.6 mask AP †. A public run used decay 0.95 and drop path 0.4;
# the paper searched {0.9, 0.95} and {0.2, 0.3, 0.4, 0.5}.
_base_ = ['../_base_/sizes/base.py', '../_base_/mask-rcnn_fpn_lsj-3x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://base_fcmae_ft_in1k'),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='group_wise'))
