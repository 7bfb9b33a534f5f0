"""Print the learning rate of each part of the network that a config trains, and its weight decay.

Rates are those of the optimizer's groups before the schedule; nothing is trained and no weights are
read.
"""

import argparse

from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.engine.config.reading import check_model, read_config
from convnextv2_mm.errors import exit_on_user_error

from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)
    return parser.parse_args()


def part_of(name: str) -> str:
    """The block, downsampling or norm of the backbone, or the head, that a parameter is in."""
    words = name.split('.')
    for key, length in (('stages', 3), ('downsample_layers', 2), ('backbone', 2)):
        if key in words:
            return '.'.join(words[: words.index(key) + length])
    return words[0]


def main() -> None:
    args = parse_args()
    with exit_on_user_error():
        config = read_config(args.config, args.cfg_options)
        config.model.backbone.pop('init_cfg', None)
        MMLogger.get_current_instance().setLevel('WARNING')  # the constructor logs its groups
        wrapper = build_optim_wrapper(check_model(config.model), config.optim_wrapper)
    base = wrapper.optimizer.defaults['lr']
    parts: dict[tuple[str, float], dict[float, int]] = {}
    for group in wrapper.optimizer.param_groups:
        for name, parameter in zip(group['param_names'], group['params'], strict=True):
            counts = parts.setdefault((part_of(name), group['lr']), {})
            decay = group['weight_decay']
            counts[decay] = counts.get(decay, 0) + parameter.numel()
    print(f'{"part":40}{"lr":>12}{"of the base":>14}   parameters with weight decay')
    for (part, rate), counts in sorted(parts.items(), key=lambda item: item[0][1]):
        decays = ', '.join(f'{count:,} with {decay:g}' for decay, count in sorted(counts.items()))
        print(f'{part:40}{rate:12.4g}{rate / base:14.6g}   {decays}')


if __name__ == '__main__':
    main()
