# The paper reports 88.9. As at 384x384 †
_base_ = './convnextv2-h_8xb32-accum2-30e-fcmae-in22k_in1k-384px.py'

train_pipeline = [
    _base_.load,
    dict(type='convnextv2_mm.RandomResizedCrop', scale=512, interpolation='bicubic'),
    *_base_.augmentation,
]
test_pipeline = [
    _base_.load,
    dict(type='Resize', scale=512, backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
# 8 GPUs x 16 images x 4 steps = 512
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(accumulative_counts=4)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, interval=4)]
