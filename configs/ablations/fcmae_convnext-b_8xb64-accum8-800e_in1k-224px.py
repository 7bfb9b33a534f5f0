# The block of V1: no GRN, LayerScale. Paper: 83.7 †; V2: 84.6.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(use_grn=False, layer_scale_init_value=1e-6))
