# Without the sparse encoding: masked patches are zeros in the image and pixels like the others.
# Paper: 79.3; with it: 83.7.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(backbone=dict(type='convnextv2_mm.MaskedImageConvNeXtV2'))
