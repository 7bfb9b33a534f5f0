# The paper reports 50.5 mIoU † with the multi-scale test (tools/test.py --tta). Weights without
# FCMAE are not published: these are ours. Values as with FCMAE †
_base_ = ['../_base_/sizes/base.py', '../_base_/upernet_160k_ade20k-512px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.4,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/convnextv2-b_8xb128-accum4-300e_in1k-224px/epoch_300.pth',
        ),
    ),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='group_wise'))
