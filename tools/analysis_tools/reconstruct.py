"""Draw what FCMAE makes of masked images: masked, reconstructed and original, a row for each.

The mask of an image depends on its file name only; its share is that of the config
(--cfg-options model.mask_ratio=0.75). A predicted patch is drawn with the mean and spread of the
true one, which the network does not predict. Pictures after the first page are FIGURE-2 and on.
"""

from convnextv2_mm.apis.analysis.reconstruction import reconstruct
from convnextv2_mm.errors import exit_on_user_error

from arguments import add_model, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    add_model(parser)
    parser.add_argument('--rows', type=int, default=8, help='images on a page (%(default)s)')
    args = parser.parse_args()
    with exit_on_user_error():
        found = reconstruct(**vars(args))
    for image, loss in found.losses.items():
        print(f'{loss:8.4f}  {image}')
    print(
        f'{found.mean:8.4f}  mean of {len(found.losses)} images, {found.mask_ratio:.0%} masked\n'
        f'written to {args.out}'
    )


if __name__ == '__main__':
    main()
