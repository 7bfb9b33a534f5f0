arch = 'large'
channels = [192, 384, 768, 1536]  # of the four stages
