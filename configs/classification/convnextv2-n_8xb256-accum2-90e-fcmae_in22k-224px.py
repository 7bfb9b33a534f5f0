_base_ = ['../_base_/sizes/nano.py', '../_base_/classifier_90e-fcmae_in22k-224px.py']

model = dict(
    backbone=dict(arch=_base_.arch, init_cfg=dict(checkpoint='convnextv2://nano_fcmae_in1k')),
    head=dict(in_channels=_base_.channels[-1]),
)
# 8 GPUs x 256 images x 2 steps = 4096
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(
    accumulative_counts=2, paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise')
)
