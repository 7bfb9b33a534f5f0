# Not in the paper's tables: its recipe for Base with the layer-wise decay of the small sizes.
_base_ = ['../_base_/sizes/femto.py', '../_base_/upernet_160k_ade20k-512px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://femto_fcmae_ft_in1k'),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise'))
