_base_ = ['./upernet_convnextv2-h_4xb4-160k-fcmae_ade20k-512px.py', '../_base_/fsdp.py']

# The blocks are gathered at each window of an image, and images have different numbers of them: the
# GPUs would wait for each other without end. tools/test.py evaluates the checkpoints.
val_dataloader = None
val_cfg = None
val_evaluator = None
default_hooks = dict(checkpoint=dict(save_best=None))
