_base_ = ['../_base_/sizes/large.py', '../_base_/classifier_90e-fcmae_in22k-224px.py']

model = dict(
    backbone=dict(arch=_base_.arch, init_cfg=dict(checkpoint='convnextv2://large_fcmae_in1k')),
    head=dict(in_channels=_base_.channels[-1]),
)
# 8 GPUs x 128 images x 4 steps = 4096
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(
    accumulative_counts=4, paramwise_cfg=dict(decay_rate=0.6, decay_type='group_wise')
)
