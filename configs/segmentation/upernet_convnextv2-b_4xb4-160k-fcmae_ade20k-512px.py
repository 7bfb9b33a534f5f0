# The paper reports 52.1 mIoU † with the multi-scale test (tools/test.py --tta). It searched lr
# {1, 2, 3}e-4, decay {0.8, 0.9} and drop path 0.1 to 0.4 without saying what won; these are the
# values of ConvNeXt V1-B in that range †
_base_ = ['../_base_/sizes/base.py', '../_base_/upernet_160k_ade20k-512px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://base_fcmae_ft_in1k'),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='group_wise'))
