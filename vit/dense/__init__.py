"""Dense prediction from a filtered model: masks in place of class logits.

    patch tokens [B, k, C] after the last block, their positions [B, k]
      -> scores by M queries [B, k, M]        MaskHead
      -> every place of the grid [B, N, M]    Fill: kept tokens go back, dropped places are filled
      -> M maps [B, M, h, w], upsampled       masks [B, M, H', W']

Any reduction of tokens that keeps track of positions can stand before it.
"""
