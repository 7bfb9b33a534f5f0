"""Draw channels of chosen layers as small squares, models side by side: the paper's Figure 3.

The squares of a layer share one scale, from the least value to the 99.5th percentile, so dead and
saturated channels look flat. Printed beside: the cosine distance over all channels, and the share
of flat ones, whose standard deviation over space is below 1% of that of the whole layer (our
measure, not the paper's). The network is the dense one and sees the whole image, also with a
checkpoint of FCMAE.
"""

from convnextv2_mm.apis.analysis.feature_maps import draw, feature_maps, last_blocks
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import check_figure_path, write_figure, write_numbers

from arguments import add_comparison, add_model, load, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    add_model(parser)
    add_comparison(parser, features='expansion')
    parser.add_argument('--channels', type=int, default=64, help='first so many (%(default)s)')
    args = parser.parse_args()
    with exit_on_user_error():
        out, images = check_figure_path(args.out), find_images(args.images, args.num_images)
        if len(images) > 1:
            print(f'the first of {len(images)} images, {images[0]}; --num-images 1 draws lots')
        models = load(args)
        options = (args.layers or last_blocks(models[0]), args.channels, args.features)
        results = {model.name: feature_maps(model, images[0], *options) for model in models}
    for name, (rows, _) in results.items():
        print(f'\n{name}\n  {"layer":12}{"distance":>10}{"flat":>8}')
        for row in rows:
            print(f'  {row["layer"]:12}{row["cosine_distance"]:10.4f}{row["flat"]:8.1%}')
    write_figure(draw(results), out)
    described = [dict(m.describe(), layers=results[m.name][0]) for m in models]
    write_numbers(dict(image=images[0], features=args.features, models=described), out)
    print(f'\nwritten to {out}')


if __name__ == '__main__':
    main()
