# The paper reports 86.3. Epochs, drop path, layer decay †
_base_ = ['../_base_/sizes/huge.py', '../_base_/classifier_100e-fcmae_in1k-224px.py']

model = dict(
    backbone=dict(
        arch=_base_.arch,
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint='convnextv2://huge_fcmae_in1k'),
    ),
    head=dict(in_channels=_base_.channels[-1]),
)
train_cfg = dict(max_epochs=50)
param_scheduler = [
    _base_.warmup,
    dict(
        type='CosineAnnealingLR',
        begin=20,
        end=50,
        eta_min_ratio=1e-6 / _base_.lr,
        convert_to_iter_based=True,
    ),
]
