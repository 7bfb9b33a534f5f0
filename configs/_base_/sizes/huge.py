arch = 'huge'
channels = [352, 704, 1408, 2816]  # of the four stages
