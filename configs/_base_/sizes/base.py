arch = 'base'
channels = [128, 256, 512, 1024]  # of the four stages
