arch = 'xlarge'
channels = [256, 512, 1024, 2048]  # of the four stages
