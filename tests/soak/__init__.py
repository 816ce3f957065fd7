"""What takes minutes: real runs killed at random moments and on failing disks, compared with the run left alone.

python -m tests.soak --kills 50
"""
