arch = 'femto'
channels = [48, 96, 192, 384]  # of the four stages
