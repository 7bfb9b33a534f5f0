"""Say what is installed, what the machine has, and what will not work.

Prints versions, GPUs, the backend of each operator (on a GPU the kernels are tried, which takes
half a minute), mmcv's operators and image decoders; put it into a report of a fault. The exit code
is 1 if there is a problem.
"""

import argparse
import sys

from convnextv2_mm.apis.doctor import examine


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    found, problems = examine()
    width = max(map(len, found)) + 2
    for name, value in found.items():
        print(f'{name:{width}}{value}')
    for problem in problems or ['none found']:
        print(f'{"problem":{width}}{problem}')
    sys.exit(bool(problems))


if __name__ == '__main__':
    main()
