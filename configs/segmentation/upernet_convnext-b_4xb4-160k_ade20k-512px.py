# ConvNeXt V1 reports 49.9 mIoU with the multi-scale test (tools/test.py --tta).
_base_ = ['../_base_/sizes/base.py', '../_base_/upernet_160k_ade20k-512px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        use_grn=False,
        layer_scale_init_value=1e-6,
        init_cfg=dict(type='Pretrained', checkpoint='convnextv2://v1_base_in1k'),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='group_wise'))
