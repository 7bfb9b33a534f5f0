# As at 224x224 †; in the evaluation the whole image is resized to a square.
_base_ = './classifier_30e-fcmae-in22k_in1k-224px.py'

train_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    dict(type='convnextv2_mm.RandomResizedCrop', scale=384, interpolation='bicubic'),
    *_base_.train_pipeline[2:],
]
test_pipeline = [
    dict(type='convnextv2_mm.LoadImageFromFile'),
    dict(type='Resize', scale=384, backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
