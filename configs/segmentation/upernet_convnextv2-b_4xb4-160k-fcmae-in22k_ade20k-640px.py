# Not in the paper's tables.
# The weights after ImageNet-22K alone are not published: these went on to ImageNet-1K. Your own
# go here: work_dirs/convnextv2-b_…_in22k-224px/epoch_90.pth
_base_ = ['../_base_/sizes/base.py', '../_base_/upernet_160k_ade20k-640px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://base_fcmae_ft_in22k_in1k'),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='group_wise'))
