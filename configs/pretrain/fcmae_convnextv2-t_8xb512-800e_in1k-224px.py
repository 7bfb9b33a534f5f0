_base_ = '../_base_/fcmae_in1k-224px.py'

model = dict(backbone=dict(arch='tiny'), neck=dict(in_channels=768))

# 8 GPUs x 512 images = 4096
train_dataloader = dict(batch_size=512)
