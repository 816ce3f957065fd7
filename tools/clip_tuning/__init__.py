"""CLIP fine-tuned under noisy correspondence with DSDMR's filter and dynamic margins: a reconstruction, optional extra.

python -m pip install -r requirements-clip.txt
"""
