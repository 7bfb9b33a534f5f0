_base_ = ['../_base_/sizes/huge.py', '../_base_/classifier_90e-fcmae_in22k-224px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint='convnextv2://huge_fcmae_in1k'),
    ),
    head=dict(in_channels=_base_.channels[-1]),
)
# 8 GPUs x 64 images x 8 steps = 4096
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(
    accumulative_counts=8, paramwise_cfg=dict(decay_rate=0.6, decay_type='group_wise')
)
