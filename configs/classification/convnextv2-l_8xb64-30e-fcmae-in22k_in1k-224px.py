# The paper reports 87.3. The weights after ImageNet-22K alone are not published: these are ours.
_base_ = ['../_base_/sizes/large.py', '../_base_/classifier_30e-fcmae-in22k_in1k-224px.py']

checkpoint = 'work_dirs/convnextv2-l_8xb128-accum4-90e-fcmae_in22k-224px/epoch_90.pth'
model = dict(
    backbone=dict(arch=_base_.arch, drop_path_rate=0.3, init_cfg=dict(checkpoint=checkpoint)),
    head=dict(in_channels=_base_.channels[-1]),
)
