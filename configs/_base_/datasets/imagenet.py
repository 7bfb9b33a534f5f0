# ImageNet-1K with labels, without pipelines. Images stay uint8: the GPU normalises them.
load = dict(type='convnextv2_mm.LoadImageFromFile')
train_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='convnextv2_mm.ImageNet', data_root='data/imagenet', split='train', skip_bad_data=True
    ),
)
val_dataloader = dict(
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='convnextv2_mm.ImageNet', data_root='data/imagenet', split='val'),
)
val_evaluator = dict(type='Accuracy', topk=(1, 5))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
