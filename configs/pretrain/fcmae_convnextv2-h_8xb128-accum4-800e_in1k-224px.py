_base_ = '../_base_/fcmae_in1k-224px.py'

model = dict(backbone=dict(arch='huge'), neck=dict(in_channels=2816))

# 8 GPUs x 128 images x 4 steps = 4096
train_dataloader = dict(batch_size=128)
optim_wrapper = dict(accumulative_counts=4)
