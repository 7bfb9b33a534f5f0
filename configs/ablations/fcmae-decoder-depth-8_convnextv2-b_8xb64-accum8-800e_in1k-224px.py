# Paper: 83.6; one block: 83.7.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(neck=dict(depth=8))
