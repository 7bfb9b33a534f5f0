# UNet decoder without skips. Paper: 83.5; the one ConvNeXt block: 83.7, 1.7 times as fast.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(neck=dict(type='convnextv2_mm.UNetDecoder', skips=False))
