# 800 epochs of 4096 images a step (paper, appendix A.1). lr = 1.5e-4 for a batch of 256, scaled
# linearly; weight decay and betas are as MAE's †
_base_ = './adamw_bf16.py'

optim_wrapper = dict(
    optimizer=dict(lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(decay_rate=1.0),
)
auto_scale_lr = dict(base_batch_size=4096)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=800)
warmup = dict(type='LinearLR', start_factor=1e-6, end=40, convert_to_iter_based=True)
param_scheduler = [
    warmup,
    dict(type='CosineAnnealingLR', begin=40, end=800, convert_to_iter_based=True),
]
