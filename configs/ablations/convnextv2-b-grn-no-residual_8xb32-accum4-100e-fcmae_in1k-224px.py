# After fcmae_convnextv2-b-grn-no-residual_8xb64-accum8-800e_in1k-224px.py.
_base_ = '../classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'

checkpoint = (
    'work_dirs/fcmae_convnextv2-b-grn-no-residual_8xb64-accum8-800e_in1k-224px/epoch_800.pth'
)
model = dict(backbone=dict(feature_norm=dict(residual=False), init_cfg=dict(checkpoint=checkpoint)))
