_base_ = '../_base_/linear-probe_90e_in1k-224px.py'

# FCMAE. A checkpoint of our own pre-training goes here as it is.
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='convnextv2://base_fcmae_in1k')),
    neck=dict(input_features=1024),
    head=dict(in_channels=1024),
)
