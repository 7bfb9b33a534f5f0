# The paper reports 84.9.
_base_ = ['../_base_/sizes/base.py', '../_base_/classifier_100e-fcmae_in1k-224px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.1,
        init_cfg=dict(checkpoint='convnextv2://base_fcmae_in1k'),
    ),
    head=dict(in_channels=_base_.channels[-1]),
)
