arch = 'pico'
channels = [64, 128, 256, 512]  # of the four stages
