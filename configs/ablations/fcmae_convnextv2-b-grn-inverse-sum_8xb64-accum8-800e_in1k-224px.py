# GRN whose N is 1 / sum(G) over the channels. Paper: 83.8; as it is: 84.6. The published code
# writes the mean where the paper writes the sum, C times as much; if here too is not known †.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(feature_norm=dict(normalization='inverse_sum')))
