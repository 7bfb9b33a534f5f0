# GRN without the residual. Paper: with it is better †.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(feature_norm=dict(residual=False)))
