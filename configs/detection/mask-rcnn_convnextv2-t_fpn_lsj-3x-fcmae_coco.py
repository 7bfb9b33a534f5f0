# Not in the paper's tables. Decay and drop path are those of ConvNeXt V1-T's public config.
_base_ = ['../_base_/sizes/tiny.py', '../_base_/mask-rcnn_fpn_lsj-3x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://tiny_fcmae_ft_in1k'),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='group_wise'))
