arch = 'tiny'
channels = [96, 192, 384, 768]  # of the four stages
