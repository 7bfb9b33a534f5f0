_base_ = ['../_base_/sizes/tiny.py', '../_base_/linear-probe_90e_in1k-224px.py']

# FCMAE. A checkpoint of our own pre-training goes here as it is.
model = dict(
    backbone=dict(arch=_base_.arch, init_cfg=dict(checkpoint='convnextv2://tiny_fcmae_in1k')),
    neck=dict(input_features=_base_.channels[-1]),
    head=dict(in_channels=_base_.channels[-1]),
)
