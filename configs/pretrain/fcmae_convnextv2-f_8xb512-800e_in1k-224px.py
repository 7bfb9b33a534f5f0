_base_ = ['../_base_/sizes/femto.py', '../_base_/fcmae_in1k-224px.py']

model = dict(backbone=dict(arch=_base_.arch), neck=dict(in_channels=_base_.channels[-1]))

# 8 GPUs x 512 images = 4096
train_dataloader = dict(batch_size=512)
