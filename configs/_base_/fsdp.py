# Parameters, gradients and AdamW's moments sharded over the GPUs block by block, and the
# activations of each block computed again in the backward pass: docs/distributed.md.
runner_type = 'FlexibleRunner'
strategy = dict(
    type='convnextv2_mm.FSDPStrategy',
    model_wrapper=dict(auto_wrap_policy='convnextv2_mm.each_block'),
    activation_checkpointing=dict(check_fn='convnextv2_mm.each_block'),
    # Checkpoints hold whole tensors under the names of the unsharded model.
    state_dict_cfg='full',
)
