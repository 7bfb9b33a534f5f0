"""How much the channels of each block tell the classes apart: the paper's Figure 7.

The class of an image is the name of its folder, as in ImageNet. Class selectivity index of a
channel: (m_max - m_rest) / (m_max + m_rest), of its mean activity for the class that excites it
most and for the others. 0: all classes excite it alike; 1: one alone does. Negative activations
count as no activity. The network is the dense one and sees the whole image, also with a checkpoint
of FCMAE. Take many images a class: with one, the index is of images.
"""

import math

from convnextv2_mm.apis.analysis.selectivity import classes_of_folders, draw, selectivity
from convnextv2_mm.apis.inference import find_images
from convnextv2_mm.errors import exit_on_user_error
from convnextv2_mm.visualization.figures import check_figure_path, write_figure, write_numbers

from arguments import add_comparison, add_model, load, make_parser


def main() -> None:
    parser = make_parser(__doc__)
    add_model(parser)
    add_comparison(parser, features='output')
    args = parser.parse_args()
    with exit_on_user_error():
        out, images = check_figure_path(args.out), find_images(args.images, args.num_images)
        classes, labels = classes_of_folders(images)
        models = load(args)
        options = (images, labels, args.layers, args.features)
        results = {model.name: selectivity(model, *options) for model in models}
    for name, rows in results.items():
        print(f'\n{name}, {len(images)} images of {len(classes)} classes')
        print(f'  {"layer":12}{"mean index":>12}{"inactive channels":>20}')
        for row in rows:
            mean = math.nan if row['mean'] is None else row['mean']
            print(f'  {row["layer"]:12}{mean:12.4f}{row["inactive"]:20d}')
    write_figure(draw(results), out)
    described = [dict(m.describe(), layers=results[m.name]) for m in models]
    numbers = dict(images=len(images), classes=classes, features=args.features, models=described)
    write_numbers(numbers, out)
    print(f'\nwritten to {out}')


if __name__ == '__main__':
    main()
