# Transformer decoder, of MAE's depth and heads †. Paper: 83.4; the one ConvNeXt block: 83.7.
_base_ = '../pretrain/fcmae_convnextv2-b_8xb64-accum8-800e_in1k-224px.py'

model = dict(neck=dict(type='convnextv2_mm.TransformerDecoder'))
