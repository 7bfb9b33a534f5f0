# GRN that averages over space instead of the L2 norm. Paper: 83.7; as it is: 84.6.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(feature_norm=dict(aggregation='average')))
