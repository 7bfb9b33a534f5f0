# The paper reports 76.7.
_base_ = '../_base_/classifier_600e-fcmae_in1k-224px.py'

model = dict(
    backbone=dict(arch='atto', init_cfg=dict(checkpoint='convnextv2://atto_fcmae_in1k')),
    head=dict(in_channels=320),
)
