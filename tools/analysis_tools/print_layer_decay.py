"""Print the learning rate of each part of the network that a config trains, and its weight decay.

Rates are those of the optimizer's groups before the schedule; nothing is trained and no weights are
read.
"""

from convnextv2_mm.apis.analysis.layer_decay import layer_rates
from convnextv2_mm.cli import add_cfg_options
from convnextv2_mm.errors import exit_on_user_error

from arguments import make_parser


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    add_cfg_options(parser)
    args = parser.parse_args()
    with exit_on_user_error():
        rates = layer_rates(args.config, args.cfg_options)
    print(f'{"part":40}{"lr":>12}{"of the base":>14}   parameters with weight decay')
    for part, rate, scale, parameters in rates:
        decays = [f'{count:,} with {decay:g}' for decay, count in sorted(parameters.items())]
        print(f'{part:40}{rate:12.4g}{scale:14.6g}   {", ".join(decays)}')


if __name__ == '__main__':
    main()
