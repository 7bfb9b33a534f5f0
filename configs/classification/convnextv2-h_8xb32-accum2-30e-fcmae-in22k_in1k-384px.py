# The paper reports 88.7. The weights after ImageNet-22K alone are not published: these are ours.
_base_ = ['../_base_/sizes/huge.py', '../_base_/classifier_30e-fcmae-in22k_in1k-384px.py']

checkpoint = 'work_dirs/convnextv2-h_8xb64-accum8-90e-fcmae_in22k-224px/epoch_90.pth'
model = dict(
    backbone=dict(arch=_base_.arch, drop_path_rate=0.4, init_cfg=dict(checkpoint=checkpoint)),
    head=dict(in_channels=_base_.channels[-1]),
)
# 8 GPUs x 32 images x 2 steps = 512
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(accumulative_counts=2)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, interval=2)]
