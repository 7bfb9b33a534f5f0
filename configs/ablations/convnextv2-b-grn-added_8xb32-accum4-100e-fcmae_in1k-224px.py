# GRN only at fine-tuning, added to the block of V1. Paper: much worse than GRN in both.
# After fcmae_convnext-b_8xb64-accum8-800e_in1k-224px.py.
_base_ = '../classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'

checkpoint = 'work_dirs/fcmae_convnext-b_8xb64-accum8-800e_in1k-224px/epoch_800.pth'
model = dict(backbone=dict(layer_scale_init_value=1e-6, init_cfg=dict(checkpoint=checkpoint)))
