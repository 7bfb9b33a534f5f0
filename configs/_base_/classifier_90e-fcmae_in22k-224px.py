# Intermediate fine-tuning on ImageNet-22K after FCMAE. The paper's numbers are not certain: batch,
# lr, warm-up, epochs and drop path are those of ConvNeXt V1's public commands, the layer decay is
# that of V2's fine-tuning on ImageNet-1K †
_base_ = [
    './models/classifier.py',
    './datasets/imagenet_224px.py',
    './schedules/adamw_bf16.py',
    'mmpretrain::_base_/default_runtime.py',
]

lr = 2.5e-4 * 4096 / 256
model = dict(
    data_preprocessor=dict(num_classes=21841),
    backbone=dict(drop_path_rate=0.1, init_cfg=dict(type='Pretrained')),
    head=dict(num_classes=21841),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
# A list of the files in data/imagenet21k/meta/train.txt saves looking through 21,841 folders.
train_dataloader = dict(
    dataset=dict(type='convnextv2_mm.ImageNet21k', data_root='data/imagenet21k')
)
val_dataloader = val_evaluator = val_cfg = None  # it has no validation set
test_dataloader = test_evaluator = test_cfg = None

optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=4096)
train_cfg = dict(by_epoch=True, max_epochs=90)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=5,
        end=90,
        eta_min_ratio=1e-6 / lr,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
randomness = dict(seed=0, diff_rank_seed=True)
