"""How different the channels of each layer are: the paper's Figure 4, for one model or several.

Feature cosine distance: the mean of (1 - cos)/2 over all pairs of channels, for each image, then
averaged over the images. 0: all channels are alike (collapsed); near 0.5: they are as different as
they can be. The network is the dense one and sees the whole image, also with a checkpoint of
FCMAE. The paper takes 1000 images of ImageNet's validation set (--num-images 1000).
"""

from convnextv2_mm.apis.analysis.feature_diversity import draw, feature_diversity
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import check_figure_path, write_figure, write_numbers

from arguments import add_comparison, add_model, load, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    add_model(parser)
    add_comparison(parser, features='expansion')
    args = parser.parse_args()
    with exit_on_user_error():
        out, images = check_figure_path(args.out), find_images(args.images, args.num_images)
        models = load(args)
        results = {m.name: feature_diversity(m, images, args.layers, args.features) for m in models}
    for name, rows in results.items():
        print(f'\n{name}, {len(images)} images\n  {"layer":12}{"distance":>10}{"std":>8}')
        for row in rows:
            print(f'  {row["layer"]:12}{row["cosine_distance"]:10.4f}{row["std"]:8.4f}')
    write_figure(draw(results), out)
    described = [dict(m.describe(), layers=results[m.name]) for m in models]
    write_numbers(dict(images=len(images), features=args.features, models=described), out)
    print(f'\nwritten to {out}')


if __name__ == '__main__':
    main()
