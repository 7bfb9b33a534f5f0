# The paper reports 80.3.
_base_ = '../_base_/classifier_600e-fcmae_in1k-224px.py'

model = dict(
    backbone=dict(arch='pico', init_cfg=dict(checkpoint='convnextv2://pico_fcmae_in1k')),
    head=dict(in_channels=512),
)
