# GRN whose N is G / sum(G) over the channels, as the paper writes it. Its published code has
# G / mean(G), C times as much, which is the default here. Paper: 84.6, of either.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(feature_norm=dict(normalization='sum')))
