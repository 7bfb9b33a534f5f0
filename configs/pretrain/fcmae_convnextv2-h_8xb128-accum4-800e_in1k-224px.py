_base_ = ['../_base_/sizes/huge.py', '../_base_/fcmae_in1k-224px.py']

model = dict(backbone=dict(arch=_base_.arch), neck=dict(in_channels=_base_.channels[-1]))

# 8 GPUs x 128 images x 4 steps = 4096
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=4)
