_base_ = './fcmae_convnextv2-h_8xb128-accum4-800e_in1k-224px.py'

train_cfg = dict(max_epochs=1600)
param_scheduler = [
    _base_.warmup,
    dict(type='CosineAnnealingLR', begin=40, end=1600, convert_to_iter_based=True),
]
