"""Fusion of foreign graphs: a top-k and the gather behind it become one TokenSelect node.

Why equivalence is checked by execution and not by node patterns: exporters write one selection in dozens of ways (shape
arithmetic, index offsets, expansions, wrap-around of negative indices), so no list of patterns is complete, and a
pattern that is loose enough is wrong for some graph. But a selection only moves rows. Whether some nodes do that can be
decided by running them::

      scores [B, N]          tokens [B, P+N, C]
           |                     |       |
         TopK --> indices --> Gather   Slice        match        a TopK, a gather of its indices, what could be
                                 |       |                       tokens, prefix and kept rows: candidates
                                 +-Concat+
                                    |               fragment     these nodes, cut out of the graph
                             kept rows [B, P+k, C]
                                                    probe        run on rows that are all different and on scores
                                                                 that rank every position, and on ties
                                                    equivalence  equal to kernels/reference.py, bit for bit,
                                                                 which also yields k, P and the order
      scores     tokens
           |     |
           |     |                                  readers      what else reads the TopK's results: indices,
           |     |                                               the scores kept, rows of a second tensor, dropped rows
        TokenSelect --> indices, for other readers  apply        the node takes the place of all that
             |                                                   has no other readers
      kept rows [B, P+k, C]                         compare      both whole graphs give the same bits

``rewrite`` runs these steps for every TopK of a graph, ``shapes`` infers its types and dimensions, ``new_nodes`` names
what is inserted, ``heads`` makes images of heads, ``io`` reads and writes the files. A TopK that is not equivalent
stays, and the reason is reported. docs/fuse.md lists the forms that are found.
"""
