# Batch norm instead of GRN, of the visible sites of each GPU. Paper: 80.5; GRN: 84.6.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(feature_norm=dict(type='BN')))
