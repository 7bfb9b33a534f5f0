_base_ = '../_base_/linear-probe_90e_in1k-224px.py'

# FCMAE. A checkpoint of our own pre-training goes here as it is.
model = dict(
    backbone=dict(arch='atto', init_cfg=dict(checkpoint='convnextv2://atto_fcmae_in1k')),
    neck=dict(input_features=320),
    head=dict(in_channels=320),
)
