_base_ = ['./fcmae_convnextv2-h_8xb128-accum4-1600e_in1k-224px.py', '../_base_/fsdp.py']

# 8 GPUs x 512 images = 4096: between steps of an accumulation each GPU would hold all gradients.
train_dataloader = dict(batch_size=512)
optim_wrapper = dict(accumulative_counts=1)
# It runs the model on one process, which has a part of the weights only.
custom_hooks = []
