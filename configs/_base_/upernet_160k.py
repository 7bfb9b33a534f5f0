# UPerNet of mmseg with a ConvNeXt V2 backbone, 160k iterations of 16 images (paper, section 4 and
# appendix A.3), without data.
_base_ = [
    'mmseg::_base_/models/upernet_convnext.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(_delete_=True, imports=['convnextv2_mm'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='convnextv2_mm.ConvNeXtV2',
        arch='base',
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150, in_channels=512),
)

optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='mIoU'))
randomness = dict(seed=0, diff_rank_seed=True)
