"""Tensors become image embeddings: SAM-ViT, CLIP-ViT, projector, assembly. Needs torch only.

    views (N, 3, S, S) -> sam -> (N, C, q, q) -> clip -> (N, 1 + q*q, C')
        -> [clip | sam] -> projector -> (N, q*q, D) -> assembly -> (num_image_tokens, D)

with q = ceil(S // 16 / 4). Both hosts run this code; neither is known here.
"""
