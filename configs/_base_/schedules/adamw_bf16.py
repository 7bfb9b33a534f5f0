# AdamW with layer-wise learning rate decay, in bfloat16: what all recipes share.
optim_wrapper = dict(
    type='AmpOptimWrapper',
    dtype='bfloat16',
    loss_scale=1.0,
    optimizer=dict(type='AdamW', betas=(0.9, 0.999), fused=True),
    constructor='convnextv2_mm.LayerDecayOptimWrapperConstructor',
)
