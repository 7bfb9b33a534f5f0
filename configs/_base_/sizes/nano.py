arch = 'nano'
channels = [80, 160, 320, 640]  # of the four stages
