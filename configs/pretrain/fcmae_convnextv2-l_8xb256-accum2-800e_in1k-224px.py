_base_ = ['../_base_/sizes/large.py', '../_base_/fcmae_in1k-224px.py']

model = dict(backbone=dict(arch=_base_.arch), neck=dict(in_channels=_base_.channels[-1]))

# 8 GPUs x 256 images x 2 steps = 4096
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(accumulative_counts=2)
