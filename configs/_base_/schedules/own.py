# For data of one's own: what is None follows from `own` and the data, docs/own_data.md.
_base_ = './adamw_bf16.py'

optim_wrapper = dict(
    optimizer=dict(lr=None, weight_decay=0.05),
    paramwise_cfg=dict(decay_rate=None, decay_type='layer_wise'),
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=None, val_interval=None)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
param_scheduler = [  # a warm-up, then a cosine to 0
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, end=None),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=None, end=None, T_max=None),
]
