_base_ = '../_base_/fcmae_in1k-224px.py'

model = dict(backbone=dict(arch='pico'), neck=dict(in_channels=512))

# 8 GPUs x 512 images = 4096
train_dataloader = dict(batch_size=512)
