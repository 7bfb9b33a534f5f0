# After mocov3_convnextv2-b_32xb128-300e_in1k-224px.py. Paper: 83.7.
_base_ = '../classification/convnextv2-b_8xb32-accum4-100e-fcmae_in1k-224px.py'

checkpoint = 'work_dirs/mocov3_convnextv2-b_32xb128-300e_in1k-224px/epoch_300.pth'
# The checkpoint has the encoder and its moving average.
model = dict(backbone=dict(init_cfg=dict(checkpoint=checkpoint, prefix='backbone.')))
