# The paper reports 81.9.
_base_ = '../_base_/classifier_600e-fcmae_in1k-224px.py'

model = dict(
    backbone=dict(arch='nano', init_cfg=dict(checkpoint='convnextv2://nano_fcmae_in1k')),
    head=dict(in_channels=640),
)
