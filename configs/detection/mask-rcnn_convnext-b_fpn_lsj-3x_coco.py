# ConvNeXt V1: the paper reports 50.3 box AP and 44.9 mask AP †. Decay and drop path as for V2 †
_base_ = ['../_base_/sizes/base.py', '../_base_/mask-rcnn_fpn_lsj-3x_coco.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        use_grn=False,
        layer_scale_init_value=1e-6,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://v1_base_in1k'),
    ),
    neck=dict(in_channels=_base_.channels),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.95, decay_type='group_wise'))
