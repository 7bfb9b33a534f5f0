# The paper reports 85.8. Drop path †
_base_ = ['../_base_/sizes/large.py', '../_base_/classifier_100e-fcmae_in1k-224px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='convnextv2://large_fcmae_in1k'),
    ),
    head=dict(in_channels=_base_.channels[-1]),
)
