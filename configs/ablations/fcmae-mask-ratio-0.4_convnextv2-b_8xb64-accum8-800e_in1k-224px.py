# Paper: 0.6 is best.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(mask_ratio=0.4)
