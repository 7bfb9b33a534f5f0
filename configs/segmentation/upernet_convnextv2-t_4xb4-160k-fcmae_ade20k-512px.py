# Not in the paper's tables. Decay and drop path are those of ConvNeXt V1-T's public config.
_base_ = ['../_base_/sizes/tiny.py', '../_base_/upernet_160k_ade20k-512px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://tiny_fcmae_ft_in1k'),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='group_wise'))
