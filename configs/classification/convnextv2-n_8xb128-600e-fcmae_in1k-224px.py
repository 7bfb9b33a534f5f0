# The paper reports 81.9.
_base_ = ['../_base_/sizes/nano.py', '../_base_/classifier_600e-fcmae_in1k-224px.py']

model = dict(
    backbone=dict(arch=_base_.arch, init_cfg=dict(checkpoint='convnextv2://nano_fcmae_in1k')),
    head=dict(in_channels=_base_.channels[-1]),
)
