# The paper reports 85.1. The weights after ImageNet-22K alone are not published: these are ours.
_base_ = ['../_base_/sizes/tiny.py', '../_base_/classifier_30e-fcmae-in22k_in1k-384px.py']

checkpoint = 'work_dirs/convnextv2-t_8xb256-accum2-90e-fcmae_in22k-224px/epoch_90.pth'
model = dict(
    backbone=dict(arch=_base_.arch, drop_path_rate=0.1, init_cfg=dict(checkpoint=checkpoint)),
    head=dict(in_channels=_base_.channels[-1]),
)
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise'))
