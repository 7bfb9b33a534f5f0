# The paper reports 76.7.
_base_ = ['../_base_/sizes/atto.py', '../_base_/classifier_600e-fcmae_in1k-224px.py']

model = dict(
    backbone=dict(arch=_base_.arch, init_cfg=dict(checkpoint='convnextv2://atto_fcmae_in1k')),
    head=dict(in_channels=_base_.channels[-1]),
)
