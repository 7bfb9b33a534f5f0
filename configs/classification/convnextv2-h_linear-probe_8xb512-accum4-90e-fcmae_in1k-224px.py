_base_ = '../_base_/linear-probe_90e_in1k-224px.py'

# FCMAE. A checkpoint of our own pre-training goes here as it is.
model = dict(
    backbone=dict(arch='huge', init_cfg=dict(checkpoint='convnextv2://huge_fcmae_in1k')),
    neck=dict(input_features=2816),
    head=dict(in_channels=2816),
)
