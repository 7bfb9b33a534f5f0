arch = 'atto'
channels = [40, 80, 160, 320]  # of the four stages
