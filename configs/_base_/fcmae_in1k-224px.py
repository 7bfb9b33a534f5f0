# FCMAE on ImageNet-1K (paper, appendix A.1). Sizes set the backbone and the batch per GPU.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs512_mae.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['convnextv2_mm'])

model = dict(
    type='convnextv2_mm.FCMAE',
    data_preprocessor=_base_.data_preprocessor,
    backbone=dict(type='convnextv2_mm.SparseConvNeXtV2', arch='base'),
    neck=dict(type='convnextv2_mm.FCMAEDecoder', in_channels=1024),
    head=dict(type='convnextv2_mm.FCMAEHead'),
    mask_ratio=0.6,
)

# MMPreTrain's MAE pipeline, with our resize. Images stay uint8: the GPU normalises them.
train_dataloader = dict(
    # MMEngine would pass the scope of the inherited config on to the collate function.
    collate_fn=dict(_delete_=True, type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ImageNet',
        skip_bad_data=True,
        pipeline=[
            dict(type='convnextv2_mm.LoadImageFromFile'),
            dict(
                type='convnextv2_mm.RandomResizedCrop',
                scale=224,
                crop_ratio_range=(0.2, 1.0),
                interpolation='bicubic',
            ),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackInputs'),
        ],
    ),
)

# tools/test.py gives the reconstruction loss on the validation images.
test_dataloader = dict(
    batch_size=64,
    num_workers=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ImageNet',
        data_root='data/imagenet/',
        split='val',
        pipeline=[
            dict(type='convnextv2_mm.LoadImageFromFile'),
            dict(
                type='ResizeEdge',
                scale=256,
                edge='short',
                backend='pillow',
                interpolation='bicubic',
            ),
            dict(type='CenterCrop', crop_size=224),
            dict(type='PackInputs'),
        ],
    ),
)
test_evaluator = dict(type='convnextv2_mm.ReconstructionLoss')
test_cfg = dict()

# lr = 1.5e-4 for a batch of 256, scaled linearly; weight decay and betas are as MAE's †
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(
        type='AdamW', lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    ),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(decay_rate=1.0),
)
auto_scale_lr = dict(base_batch_size=4096)

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=800)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=40, end=800, convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=3))
# Pictures, feature diversity and GRN of 8 fixed validation images; custom_hooks=[] goes without
custom_hooks = [dict(type='convnextv2_mm.FCMAEMonitorHook', interval=5)]
randomness = dict(seed=0, diff_rank_seed=True)
