_base_ = ['../_base_/sizes/atto.py', '../_base_/mask-rcnn_fpn_ms-1x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://atto_fcmae_ft_in1k'),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='layer_wise'))
